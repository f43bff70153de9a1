import math

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import bootstrap, ttest_1samp

from alnb.session.statistics import (
    aubc,
    labels_to_reach,
    paired,
    run_std,
    twice_bootstrap_se,
)


def test_run_std_is_the_sample_deviation_over_runs():
    assert run_std([0.5, 0.7]) == pytest.approx(math.sqrt(0.02))
    assert math.isnan(run_std([0.5]))


def test_the_bootstrap_agrees_with_scipys():
    values = np.random.default_rng(0).normal(0.7, 0.1, (5, 40))
    ours = twice_bootstrap_se(values, rng=np.random.default_rng(1), resamples=20_000)
    theirs = bootstrap(
        (values.mean(0),), np.mean, n_resamples=20_000, rng=np.random.default_rng(2)
    ).standard_error
    assert ours == pytest.approx(2 * theirs, rel=0.03)
    plug_in = 2 * values.mean(0).std() / math.sqrt(40)
    assert ours == pytest.approx(plug_in, rel=0.03)


def test_the_bootstrap_is_the_naive_loop_over_the_same_draws():
    values = np.random.default_rng(0).random((3, 7))
    drawn = np.random.default_rng(5).integers(7, size=(50, 7))
    means = []
    for draw in drawn:
        means.append(np.mean([[run[volume] for volume in draw] for run in values]))
    expected = 2 * np.std(means, ddof=1)
    ours = twice_bootstrap_se(values, rng=np.random.default_rng(5), resamples=50)
    assert ours == pytest.approx(expected)


def test_the_bootstrap_is_blind_to_what_only_differs_between_runs():
    values = np.array([[0.1] * 6, [0.9] * 6])
    assert twice_bootstrap_se(values, rng=np.random.default_rng(0)) == pytest.approx(0, abs=1e-12)
    assert run_std(values.mean(1)) > 0.5
    assert math.isnan(twice_bootstrap_se([[0.5], [0.7]], rng=np.random.default_rng(0)))


def test_aubc_depends_on_the_axis_and_is_a_weighted_mean():
    x, y = (2, 3, 4, 5, 40), (0.45, 0.5, 0.6, 0.7, 0.86)
    assert aubc(x, y) == pytest.approx(0.7625, abs=5e-5)
    assert aubc(range(5), y) == pytest.approx(0.61375)
    assert aubc(x, y) == pytest.approx(trapezoid(y, x) / 38)
    assert aubc(x, [0.3] * 5) == pytest.approx(0.3)


@pytest.mark.parametrize(("x", "y"), [((1,), (1,)), ((1, 1), (0, 0)), ((1, 2), (0, 0, 0))])
def test_a_curve_without_length_has_no_area(x, y):
    with pytest.raises(ValueError, match="rise"):
        aubc(x, y)


def test_labels_to_reach_a_target_are_linear_between_rounds():
    assert labels_to_reach([10, 20, 40], [0.5, 0.7, 0.9], 0.8) == pytest.approx(30)
    assert labels_to_reach([10, 20, 40], [0.5, 0.7, 0.9], 0.7) == pytest.approx(20)
    assert labels_to_reach([10, 20, 40], [0.5, 0.7, 0.9], 0.4) == 10
    assert math.isnan(labels_to_reach([10, 20, 40], [0.5, 0.7, 0.9], 0.91))


def test_a_target_that_was_lost_again_counts_where_it_was_first_reached():
    assert labels_to_reach([1, 2, 3, 4], [0.1, 0.9, 0.2, 0.9], 0.5) == pytest.approx(1.5)
    assert labels_to_reach([1, 1, 1], [0.1, 0.4, 0.9], 0.5) == 1


def test_a_curve_whose_labels_fall_is_refused():
    with pytest.raises(ValueError, match="never fall"):
        labels_to_reach([2, 1], [0.1, 0.2], 0.1)
    with pytest.raises(ValueError, match="as many of one"):
        labels_to_reach([1, 2], [0.1], 0.1)


def test_paired_differences_join_on_the_seed_and_agree_with_scipys_interval():
    ours = {3: 0.7, 1: 0.8, 2: 0.75, 9: 0.1}
    theirs = {1: 0.7, 2: 0.74, 3: 0.72, 4: 0.9}
    found = paired(ours, theirs)
    differences = [0.1, 0.01, -0.02]
    interval = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found.seeds == 3
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.mean - found.half == pytest.approx(interval.low)
    assert found.mean + found.half == pytest.approx(interval.high)
    assert found.won == 2
    single = paired({1: 0.5}, {1: 0.4})
    assert math.isnan(single.half)
    with pytest.raises(ValueError, match="no seed"):
        paired({1: 0.5}, {2: 0.4})
