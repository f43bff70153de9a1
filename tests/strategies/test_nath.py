from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import BadSelection, ColdStart
from alnb.rng import stream
from alnb.strategies.mutual_information import Quantiser
from alnb.strategies.nath import EntropyMinusMI, foreground_entropy, foreground_sums, hatted
from alnb.strategies.redundancy import Redundancy
from alnb.strategies.streaming import Running, needs_of
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald, entropy, fg_mean, mean, topk_mean, total
from alnb.strategies.wrappers import PerVolume, WarmStart
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot

SMALL = Redundancy(Quantiser(bins=4, side=8, depth=8))


# ------------------------------------------------------------------ hats


def test_hats_by_hand():
    values = np.array([2.0, 8.0, 4.0, 4.0, 2.0])
    np.testing.assert_allclose(hatted(values, "minmax"), [0, 1, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(hatted(values, "rank"), [1 / 8, 1, 5 / 8, 5 / 8, 1 / 8])
    # mean 4, deviation sqrt(24 / 5)
    np.testing.assert_allclose(hatted(values, "zscore"), (values - 4) / np.sqrt(4.8))


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank"])
def test_a_hat_keeps_the_order_ignores_the_scale_and_is_flat_over_equals(how):
    values = np.random.default_rng(0).random(9)
    found = hatted(values, how)
    assert np.argsort(found).tolist() == np.argsort(values).tolist()
    np.testing.assert_allclose(hatted(1000 * values - 3, how), found, atol=1e-9)
    for equal in (np.full(4, 0.3), 0.3 + np.array([0, 1e-16, 0, 5e-17]), [5.0], []):
        assert hatted(np.asarray(equal), how).tolist() == [0.0] * len(equal)


# ------------------------------------------------------------------ the score by hand


def maps(*shares):
    """Per row (1, 1, 2, 8, 8): class 1 has this probability everywhere."""
    found = []
    for share in shares:
        both = np.empty((1, 1, 2, 8, 8), dtype=np.float32)
        both[:, :, 0], both[:, :, 1] = 1 - share, share
        found.append(both)
    return tuple(found)


def halves(axis, flip=False):
    """A bright and a dark half along an axis; one pixel is darker still, or the dark were air."""
    bright = (np.indices((1, 8, 8))[axis + 1] < 4) ^ flip
    image = np.where(bright, 1.0, 0.4).astype(np.float32)
    image.flat[np.flatnonzero(~bright)[0]] = 0.0
    return image


@pytest.fixture
def four():
    """Row 0 is labelled; row 1 looks like it, rows 2 and 3 are independent of it.

    Entropies of rows 1, 2, 3 are ln 2, half way between, and 0.
    """
    toy = toy_snapshot(depths=(4,), labelled=0, skipped=0, classes=2, members=1)
    shares = np.linspace(0, 0.5, 100001)
    h = -(shares * np.log(np.maximum(shares, 1e-300)) + (1 - shares) * np.log(1 - shares))
    middle = float(shares[np.argmin(np.abs(h - np.log(2) / 2))])
    counts = np.zeros(4, dtype=np.int64)
    counts[0] = 1
    return replace(
        toy,
        labelled=np.array([0]),
        candidates=np.array([1, 2, 3]),
        counts=counts,
        pixels=(halves(0), halves(0, flip=True), halves(1), halves(1, flip=True)),
        probabilities=maps(0.5, 0.5, middle, 0.0),
    )


def two_tone():
    return Redundancy(Quantiser(bins=2, side=8))


def test_the_score_by_hand(four):
    # entropy hats 1, 1/2, 0; mutual information ln 2, 0, 0 with hats 1, 0, 0
    strategy = EntropyMinusMI(redundancy=two_tone())
    unsure, redundant = strategy.terms(four, four.candidates)
    np.testing.assert_allclose(unsure, [np.log(2), np.log(2) / 2, 0], atol=1e-4)
    np.testing.assert_allclose(redundant, [np.log(2), 0, 0], atol=1e-12)
    for alpha, expected in (
        (1.0, {1: 0.0, 2: 0.5, 3: 0.0}),
        (2.0, {1: 1.5, 2: 1.0, 3: 0.0}),
        (0.5, {1: -1.5, 2: 0.25, 3: 0.0}),
    ):
        chosen = replace(strategy, alpha=alpha).select(four, 3, rng=stream(0))
        assert dict(zip(chosen.rows.tolist(), chosen.scores, strict=True)) == pytest.approx(
            expected, abs=1e-4
        )
        assert (np.diff(chosen.scores) <= 0).all()


def test_each_term_stands_alone(four):
    doubt = EntropyMinusMI(redundancy=None).select(four, 3, rng=stream(0))
    assert doubt.rows.tolist() == TopScore().select(four, 3, rng=stream(0)).rows.tolist()
    np.testing.assert_allclose(doubt.scores, [1, 0.5, 0], atol=1e-4)
    alone = EntropyMinusMI(None, redundancy=two_tone()).select(four, 3, rng=stream(0))
    assert alone.rows[-1] == 1
    assert alone.scores.tolist() == [0, 0, -1]
    # redundancy alone asks no model
    unfitted = replace(four, probabilities=None)
    again = EntropyMinusMI(None, redundancy=two_tone()).select(unfitted, 3, rng=stream(0))
    assert again.rows.tolist() == alone.rows.tolist()


def test_a_labelled_row_that_stays_a_candidate_is_held_back_by_itself(four):
    kept = replace(four, candidates=np.arange(4), probabilities=maps(0.5, 0.4, 0.4, 0.4))
    strategy = EntropyMinusMI(redundancy=replace(two_tone(), aggregate="max"))
    chosen = strategy.select(kept, 4, rng=stream(0))
    # it is the least certain of all, and tells nothing new: 1 - 1, as against 0 - 0
    assert dict(zip(chosen.rows.tolist(), chosen.scores, strict=True)) == pytest.approx(
        {0: 0.0, 1: -1.0, 2: 0.0, 3: 0.0}, abs=1e-6
    )
    free = replace(two_tone(), include_self=False)
    assert replace(strategy, redundancy=free).select(kept, 1, rng=stream(0)).rows.tolist() == [0]


def test_ties_are_broken_by_chance(four):
    flat = replace(four, probabilities=maps(0.5, 0.5, 0.5, 0.5))
    strategy = EntropyMinusMI(redundancy=two_tone())
    firsts = {int(strategy.select(flat, 1, rng=stream(s)).rows[0]) for s in range(12)}
    assert firsts == {2, 3}


# ------------------------------------------------------------------ reductions over an item


def whole(toy, row, reduce):
    """The reduction over all voxels of an item at once."""
    probs = torch.from_numpy(toy.probabilities[row])  # (M, Z, C, H, W)
    pixels = entropy(probs)
    together = probs.permute(0, 2, 1, 3, 4)[:, None], pixels[None]  # one item of Z x H x W
    return {"mean": mean, "sum": total, "fg_mean": fg_mean}[reduce](
        together[1], together[0].flatten(3)[..., None]
    ).item()


@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("reduce", ["mean", "sum", "fg_mean"])
def test_a_volume_is_reduced_over_all_of_its_voxels(unit, reduce):
    toy = toy_snapshot(unit=unit, depths=(3, 2, 4, 2, 3, 2))
    unsure, _ = EntropyMinusMI(reduce=reduce, redundancy=None).terms(toy, toy.candidates)
    expected = [whole(toy, row, reduce) for row in toy.candidates]
    np.testing.assert_allclose(unsure, expected, rtol=1e-5)


def test_the_top_share_is_that_of_each_slice():
    toy = toy_snapshot(unit="volume", depths=(3, 2, 4, 2, 3, 2))
    unsure, _ = EntropyMinusMI(reduce="topk_mean", redundancy=None).terms(toy, toy.candidates)
    expected = TopScore(entropy, topk_mean).select(toy, len(toy.candidates), rng=stream(0))
    np.testing.assert_allclose(np.sort(unsure), np.sort(expected.scores), rtol=1e-6)


def test_no_foreground_at_all_is_no_doubt_about_it(four):
    unsure, _ = EntropyMinusMI(reduce="fg_mean", redundancy=None).terms(four, np.array([3]))
    assert unsure.tolist() == [0.0]


def test_any_score_of_pixels_will_do():
    toy = toy_snapshot()
    found = EntropyMinusMI(bald, redundancy=None).select(toy, 5, rng=stream(0))
    assert found.rows.tolist() == TopScore(bald).select(toy, 5, rng=stream(0)).rows.tolist()
    probs = torch.from_numpy(toy.probabilities[3])
    p = probs.mean(dim=0)
    expected = entropy(probs) + p[:, 0] * p[:, 0].log()
    torch.testing.assert_close(foreground_entropy(probs), expected)
    streamed = Running.over(probs.log(), needs_of(foreground_entropy))
    torch.testing.assert_close(foreground_entropy(streamed), expected)
    sums = foreground_sums(entropy(probs), probs)
    torch.testing.assert_close(sums[:, 0] / sums[:, 1], fg_mean(entropy(probs), probs))


# ------------------------------------------------------------------ the contract


def test_it_waits_for_what_it_needs():
    cold = toy_snapshot(labelled=0, fitted=False)
    with pytest.raises(ColdStart):
        EntropyMinusMI().select(cold, 2, rng=stream(0))
    # nothing labelled is nothing redundant, and a model is enough
    fresh = toy_snapshot(labelled=0)
    chosen = EntropyMinusMI(redundancy=SMALL).select(fresh, 4, rng=stream(0))
    assert chosen.rows.tolist() == TopScore().select(fresh, 4, rng=stream(0)).rows.tolist()
    with pytest.raises(ColdStart, match="Nothing is labelled yet"):
        EntropyMinusMI(None).select(fresh, 2, rng=stream(0))


def test_broken_probabilities_and_settings_are_refused():
    toy = toy_snapshot()
    broken = tuple(p * np.nan for p in toy.probabilities)
    for reduce in ("mean", "fg_mean"):
        with pytest.raises(BadSelection, match="is not a number for"):
            EntropyMinusMI(reduce=reduce).select(
                replace(toy, probabilities=broken), 2, rng=stream(0)
            )
    for wrong in (
        {"uncertainty": None, "redundancy": None},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"reduce": "median"},
        {"hat": "none"},
    ):
        with pytest.raises(ValueError, match=r"must be|switched off"):
            EntropyMinusMI(**wrong)


def test_it_names_its_parts_without_an_address():
    told = repr(EntropyMinusMI(bald, redundancy=None, alpha=2))
    assert told == "EntropyMinusMI(bald, mean, None, alpha=2, hat=minmax)"
    assert "cache" not in repr(EntropyMinusMI())


@pytest.mark.parametrize(
    "strategy",
    [
        EntropyMinusMI(redundancy=SMALL),
        EntropyMinusMI(reduce="fg_mean", hat="rank", redundancy=replace(SMALL, aggregate="max")),
        EntropyMinusMI(reduce="sum", hat="zscore", alpha=2, redundancy=None),
        EntropyMinusMI(None, redundancy=replace(SMALL, include_self=False)),
        PerVolume(EntropyMinusMI(redundancy=SMALL)),
        WarmStart(Strided(), EntropyMinusMI(redundancy=SMALL)),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
