import csv
import io

import numpy as np
import pytest

from alnb.session.statistics import aubc
from alnb.session.study import Study, Trained, common_areas
from alnb.session.study_report import needs_csv, points_csv, to_table, trainings_csv

CLASSES = ("background", "a", "b")


def curve(arm, seed, dice, unique=None, start=2, pool=10):
    """Trainings whose two volumes and two classes have about `dice`, one more label each time."""
    spread = np.array([[0.02, -0.04], [0.0, 0.02]])
    labels = unique or range(start, start + len(dice))
    return [
        Trained(arm, seed, number, start + number, labels[number], start, pool, spread + value)
        for number, value in enumerate(dice)
    ]


@pytest.fixture
def study():
    """Full Dice .8 on average, so that 90, 95 and 99 % are .72, .76 and .792."""
    trained = [
        *curve("svgd_mi", 0, [0.5, 0.7, 0.78, 0.8]),
        *curve("svgd_mi", 1, [0.6, 0.72, 0.72, 0.8], unique=[2, 3, 3, 4]),
        *curve("foreground_random", 0, [0.5, 0.6, 0.7, 0.74]),
        *curve("foreground_random", 1, [0.6, 0.68, 0.72, 0.76]),
        *curve("full", 0, [0.78], unique=[10]),
        *curve("full", 1, [0.82], unique=[10]),
    ]
    return Study("title", ("note",), CLASSES, tuple(trained))


def test_a_point_is_the_mean_over_seeds_with_two_error_bars_and_two_denominators(study):
    point = next(p for p in study.points() if (p.arm, p.training) == ("svgd_mi", 3))
    assert (point.seeds, point.draws, point.unique) == (2, 5, 4.5)
    assert point.share == pytest.approx(4.5 / 10)
    assert point.asked_share == pytest.approx(2.5 / 8)
    assert point.mean == pytest.approx(0.8)
    assert point.run_std == pytest.approx(0)
    assert point.classes == pytest.approx((0.81, 0.79))
    earlier = next(p for p in study.points() if (p.arm, p.training) == ("svgd_mi", 0))
    assert earlier.run_std == pytest.approx(np.sqrt(0.005))
    # test volumes differ by 0.02 in every run: two standard errors by resampling two of them
    assert point.twice_se == pytest.approx(2 * 0.01 / np.sqrt(2), rel=0.1)


def test_labels_for_a_share_of_the_full_dice_are_read_off_between_rounds_and_censored(study):
    assert study.full == pytest.approx(0.8)
    needs = {(n.arm, n.target): n for n in study.needs()}
    ours = needs["svgd_mi", 0.95]
    # seed 0: .76 lies 3/4 on the way from .7 to .78, seed 1: half way from .72 to .8, 3 to 4 labels
    assert dict(ours.by_seed) == pytest.approx({0: 3.75, 1: 3.5})
    assert ours.labels == pytest.approx(3.625)
    assert ours.run_std == pytest.approx(0.25 / np.sqrt(2))
    theirs = needs["foreground_random", 0.95]
    assert (theirs.reached, theirs.seeds) == (1, 2)
    assert np.isnan(theirs.labels)
    at_90 = needs["foreground_random", 0.90]
    assert dict(at_90.by_seed) == pytest.approx({0: 4.5, 1: 4})
    assert study.saving("svgd_mi", "foreground_random", 0.90) == pytest.approx(
        4.25 / ((3.25 + 3) / 2)
    )
    assert np.isnan(study.saving("svgd_mi", "foreground_random", 0.95))
    assert np.isnan(study.saving("svgd_mi", "random", 0.90))


def test_differences_are_joined_by_seed_at_equal_trainings_and_over_common_labels(study):
    final, area = study.differences("svgd_mi", "foreground_random")
    assert final.mean == pytest.approx((0.06 + 0.04) / 2)
    assert final.run_std == pytest.approx(np.sqrt(0.0002))
    # t quantile .975 with one degree of freedom
    assert final.half == pytest.approx(12.7062 * np.sqrt(0.0002) / np.sqrt(2), rel=1e-4)
    assert (final.won, final.seeds) == (2, 2)
    zero = aubc([2, 3, 4, 5], [0.5, 0.7, 0.78, 0.8]) - aubc([2, 3, 4, 5], [0.5, 0.6, 0.7, 0.74])
    # seed 1 repeated a label: two trainings with three labels count as their mean, up to 4 labels
    one = aubc([2, 3, 4], [0.6, 0.72, 0.8]) - aubc([2, 3, 4], [0.6, 0.68, 0.72])
    assert area.mean == pytest.approx((zero + one) / 2)
    assert study.differences("svgd_mi", "random") is None


def test_an_arm_that_asks_for_nothing_new_shares_no_range_with_another():
    stuck = curve("svgd_mi", 0, [0.5, 0.6, 0.7], unique=[2, 2, 2])
    assert common_areas(stuck, curve("random", 0, [0.5, 0.6, 0.7])) is None


def test_the_text_says_everything_and_marks_what_is_not_known(study):
    text = to_table(study)
    lines = {tuple(line.split()[:2]): line for line in text.splitlines() if line.strip()}
    assert text.splitlines()[0] == "title"
    assert text.splitlines()[-1] == "note"
    final = lines["svgd_mi", "2"]
    assert "45.0%" in final
    assert "31.2%" in final
    assert "0.800" in final
    assert "1 of 2" in lines["foreground_random", "95%"]
    assert "–" in lines["foreground_random", "95%"]
    assert "36.2%" in lines["svgd_mi", "95%"]
    assert "+0.0500" in lines["svgd_mi", "foreground_random"]
    assert "2 of 2" in lines["svgd_mi", "foreground_random"]
    assert "20.0% 0.550   30.0% 0.710   35.0% 0.750   45.0% 0.800" in text


def test_csv_has_a_line_for_every_training_point_and_need(study):
    trainings = list(csv.DictReader(io.StringIO(trainings_csv(study))))
    assert len(trainings) == 18
    assert trainings[7]["unique"] == "4"
    assert trainings[7]["mean"] == "0.8000"
    assert trainings[7]["seconds"] == ""
    points = list(csv.DictReader(io.StringIO(points_csv(study))))
    assert len(points) == 4 + 4 + 1
    assert [p["share"] for p in points[:4]] == ["0.2000", "0.3000", "0.3500", "0.4500"]
    needs = list(csv.DictReader(io.StringIO(needs_csv(study))))
    censored = [n["seed"] for n in needs if n["arm"] == "foreground_random" and not n["labels"]]
    assert len(needs) == 2 * 3 * 2
    assert censored == ["0", "0", "1"]


def test_a_study_under_way_speaks_of_what_all_seeds_have_reached():
    trained = [*curve("random", 0, [0.5, 0.6, 0.7]), *curve("random", 1, [0.5, 0.7])]
    study = Study("t", (), CLASSES, tuple(trained))
    assert study.needs() == ()
    assert np.isnan(study.full)
    line = next(each for each in to_table(study).splitlines() if each.split()[:1] == ["random"])
    assert line.split()[:3] == ["random", "2", "2"]
    assert "0.650" in line


def test_what_differs_in_one_thing_is_compared_and_said():
    trained = [*curve("epistemic", 0, [0.5, 0.7]), *curve("entropy", 0, [0.5, 0.6])]
    text = to_table(Study("t", (), CLASSES, tuple(trained)))
    assert "epistemic minus entropy: what comes of particles instead of a deep ensemble" in text
    assert "+0.1000" in text
    assert "entropy minus epistemic" not in text


def test_seeds_under_way_wait_before_they_count_as_not_having_reached_a_target():
    trained = [
        *curve("random", 0, [0.5, 0.6, 0.9]),
        *curve("random", 1, [0.5, 0.6]),
        *curve("full", 0, [0.8]),
    ]
    needs = Study("t", (), CLASSES, tuple(trained)).needs()
    assert {(n.reached, n.seeds) for n in needs} == {(1, 1)}


def test_arms_are_compared_over_the_seeds_that_both_are_through_with():
    trained = [
        *curve("random", 0, [0.5, 0.6, 0.9]),
        *curve("random", 1, [0.5, 0.6]),
        *curve("jsd", 0, [0.5, 0.8, 0.9]),
        *curve("jsd", 1, [0.8, 0.8, 0.9]),
        *curve("jsd", 2, [0.8, 0.8, 0.9]),
        *curve("full", 0, [0.8]),
    ]
    study = Study("t", (), CLASSES, tuple(trained))
    final, _ = study.differences("jsd", "random")
    assert (final.seeds, final.mean) == (1, pytest.approx(0))
    # 95 % is .76: on the way from .5 to .8, and from .6 to .9
    assert study.saving("jsd", "random", 0.95) == pytest.approx((3 + 16 / 30) / (2 + 26 / 30))
    assert study.differences("random", "epistemic") is None


def test_where_every_arm_is_as_good_as_the_whole_pool_the_report_warns():
    first, second = [0.5, 0.8, 0.6, 0.81, 0.8], [0.8, 0.8, 0.8, 0.795, 0.8]
    full = curve("full", 0, [0.8])
    arms = [*curve("svgd_mi", 0, first), *curve("random", 0, second)]
    assert Study("t", (), CLASSES, (*arms, *full)).saturated() == 3
    assert "From training 4 on" in to_table(Study("t", (), CLASSES, (*arms, *full)))
    assert Study("t", (), CLASSES, tuple(arms)).saturated() is None
    low = curve("jsd", 0, [0.5] * 5)
    assert Study("t", (), CLASSES, (*arms, *low, *full)).saturated() is None
    assert Study("t", (), CLASSES, tuple(full)).saturated() is None
