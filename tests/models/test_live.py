"""Live proposals: what a person drew holds, and what they left open follows the picture."""

from __future__ import annotations

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.errors import BadInput
from alnb.models.live import LiveProposer, Proposal
from alnb.models.metrics import volume_dice
from alnb.records import IGNORE, Floats, LabelMap
from alnb.rng import stream

RV, MUSCLE, LV = 1, 2, 3
Slice = tuple[Floats, LabelMap, LabelMap]


@pytest.fixture(scope="module")
def heart() -> Slice:
    """A mid-ventricular slice: image, reference, and a scribble of all four classes."""
    return _slice(0)


def _slice(patient: int) -> Slice:
    cohort = phantom(3, size=128, slices=(5, 6))
    volume = list(cohort.volumes.values())[2 * patient]
    reference, scribble = volume.reference(), volume.scribble()
    assert reference is not None
    assert scribble is not None
    at = len(reference) // 2
    return volume.image()[at], reference[at], scribble[at]


def _proposal(image: Floats, labels: LabelMap, prior: Floats | None = None) -> Proposal:
    proposer = LiveProposer(4)
    made = proposer.propose(proposer.prepare(image, prior=prior), labels)
    assert made is not None
    return made


def _blank(shape: tuple[int, ...]) -> LabelMap:
    return np.full(shape, IGNORE, dtype=np.uint8)


def _only(labels: LabelMap, *codes: int) -> LabelMap:
    return np.where(np.isin(labels, codes), labels, IGNORE).astype(np.uint8)


def _discs(noise: float = 0.02) -> tuple[Floats, LabelMap]:
    """A bright disc (3) in a grey ring (2) on a dark ground (0), 64 x 80."""
    rows, columns = np.indices((64, 80))
    radius = np.hypot(rows - 32, columns - 36)
    truth = np.select([radius < 9, radius < 17], [LV, MUSCLE], 0).astype(np.uint8)
    grey = np.array([0.1, 0.0, 0.45, 0.9])[truth]
    return grey + noise * stream(1, "discs").standard_normal(truth.shape), truth


def _scribbled(truth: LabelMap) -> LabelMap:
    labels = _blank(truth.shape)
    labels[30:34, 35:38] = LV
    rows, columns = np.indices(truth.shape)
    ring = np.abs(np.hypot(rows - 32, columns - 36) - 13) < 0.7
    labels[ring & ((rows < 32) | (columns < 36))] = MUSCLE  # three quarters of it
    labels[8, 10:60] = 0
    labels[56, 10:60] = 0
    return labels


def _dice(made: LabelMap, truth: LabelMap, code: int) -> float:
    return float(volume_dice(made, truth, 4)[code - 1])


def test_nothing_drawn_gives_no_proposal(heart: Slice) -> None:
    proposer = LiveProposer(4)
    assert proposer.propose(proposer.prepare(heart[0]), _blank(heart[0].shape)) is None


def test_drawn_pixels_keep_their_class_and_are_sure(heart: Slice) -> None:
    image, _, scribble = heart
    # codes that contradict the picture hold too
    wild = scribble.copy()
    places = stream(0, "wild").integers(0, image.shape, size=(200, 2))
    wild[tuple(places.T)] = stream(0, "codes").integers(0, 4, size=200)
    made = _proposal(image, wild)
    drawn = wild != IGNORE
    assert (made.labels[drawn] == wild[drawn]).all()
    assert (made.confidence[drawn] == 1).all()
    assert made.labels.dtype == np.uint8
    assert made.confidence.dtype == np.float32
    assert made.labels.max() < 4
    assert made.confidence.min() >= 0
    assert made.confidence.max() <= 1


def test_same_strokes_give_the_same_proposal_and_nothing_is_edited(heart: Slice) -> None:
    image, _, scribble = heart
    proposer = LiveProposer(4)
    prepared = proposer.prepare(image)
    kept, before = scribble.copy(), prepared.grey.copy()
    first = proposer.propose(prepared, scribble)
    proposer.propose(prepared, _only(scribble, LV))
    second = LiveProposer(4).propose(LiveProposer(4).prepare(image), scribble)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.confidence, second.confidence)
    np.testing.assert_array_equal(scribble, kept)
    np.testing.assert_array_equal(prepared.grey, before)


@pytest.mark.parametrize("swap", [(0, 2, 3, 1), (0, 3, 2, 1)])
def test_renaming_the_structures_renames_the_proposal(heart: Slice, swap: tuple[int, ...]) -> None:
    image, _, scribble = heart
    codes = np.arange(256, dtype=np.uint8)
    codes[:4] = swap
    once = codes[_proposal(image, scribble).labels]
    # sums over classes in another order may round another way where two classes tie
    assert (once != _proposal(image, codes[scribble]).labels).mean() < 1e-3


@pytest.mark.parametrize("code", [LV, MUSCLE])
def test_the_first_stroke_grows_to_the_visible_border(code: int) -> None:
    image, truth = _discs()
    made = _proposal(image, _only(_scribbled(truth), code))
    assert set(np.unique(made.labels)) == {0, code}
    alone = np.where(truth == code, truth, 0).astype(np.uint8)
    assert _dice(made.labels, alone, code) > 0.8


def test_background_alone_gives_background_or_what_the_network_thinks() -> None:
    image, truth = _discs()
    labels = _only(_scribbled(truth), 0)
    assert (_proposal(image, labels).labels == 0).all()
    prior = _opinion(truth)
    assert _dice(_proposal(image, labels, prior).labels, truth, LV) > 0.9


def _opinion(truth: LabelMap, sure: float = 0.9) -> Floats:
    share = (1 - sure) / 3
    codes = np.arange(4)[:, None, None]
    return np.where(truth == codes, sure, share).astype(np.float32)


def test_a_scribbled_ring_and_disc_are_found() -> None:
    image, truth = _discs()
    made = _proposal(image, _scribbled(truth)).labels
    assert _dice(made, truth, LV) > 0.95
    assert _dice(made, truth, MUSCLE) > 0.9


@pytest.mark.parametrize("patient", [0, 1, 2])
def test_a_scribbled_phantom_heart_reaches_a_mean_dice_of_080(patient: int) -> None:
    image, reference, scribble = _slice(patient)
    made = _proposal(image, scribble).labels
    assert volume_dice(made, reference, 4).mean() > 0.8


def test_every_part_of_a_structure_touches_its_stroke(heart: Slice) -> None:
    from scipy.ndimage import label

    image, _, scribble = heart
    made = _proposal(image, scribble).labels
    for code in (RV, MUSCLE, LV):
        parts, count = label(made == code, np.ones((3, 3)))
        assert set(np.unique(parts[scribble == code])) - {0} == set(range(1, count + 1))


def test_pixels_beyond_a_closed_background_stroke_are_background() -> None:
    image, truth = _discs()
    labels = _scribbled(truth)
    labels[8:57, 10] = labels[8:57, 59] = 0
    # as bright as the disc, but outside
    image[:6, 70:] = 0.9
    made = _proposal(image, labels).labels
    outside = np.ones(truth.shape, dtype=bool)
    outside[8:57, 10:60] = False
    assert (made[outside] == 0).all()


def test_a_correction_turns_its_surroundings_and_leaves_the_far_side() -> None:
    image, truth = _discs()
    image[truth == LV] = 0.45  # no edge between disc and ring any more
    labels = _scribbled(truth)
    before = _proposal(image, labels).labels
    labels[44:46, 34:39] = MUSCLE
    after = _proposal(image, labels).labels
    near = np.zeros(truth.shape, dtype=bool)
    near[40:50, 30:43] = True
    assert _errors(after, truth, near) < _errors(before, truth, near)
    assert (after[:20] != before[:20]).mean() < 0.02


def _errors(made: LabelMap, truth: LabelMap, where: np.ndarray) -> int:
    return int((made != truth)[where].sum())


def test_strokes_correct_the_network_around_them_only() -> None:
    image, truth = _discs()
    believed = truth.copy()
    believed[:, :36][truth[:, :36] == LV] = MUSCLE  # the network misses half of the disc
    believed[50:60, 65:75] = RV  # and sees something on the plain ground
    prior = _opinion(believed)
    labels = _blank(truth.shape)
    labels[31:34, 30:32] = LV
    made = _proposal(image, labels, prior).labels
    assert _dice(made, truth, LV) > 0.9
    assert (made[50:60, 65:75] == RV).mean() > 0.8
    labels[54:56, 69:71] = 0
    made = _proposal(image, labels, prior).labels
    assert (made[50:60, 65:75] == 0).mean() > 0.9
    assert _dice(made, truth, MUSCLE) > 0.85


def test_edges_of_a_networks_features_count() -> None:
    _, truth = _discs()
    flat = np.zeros(truth.shape)
    proposer = LiveProposer(4)
    labels = _scribbled(truth)
    blind = proposer.propose(proposer.prepare(flat), labels)
    maps = (truth == LV).astype(np.float32)[None, ::2, ::2]
    seeing = proposer.propose(proposer.prepare(flat, features=maps), labels)
    assert blind is not None
    assert seeing is not None
    assert _dice(seeing.labels, truth, LV) > _dice(blind.labels, truth, LV)
    assert _dice(seeing.labels, truth, LV) > 0.85


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (9, 1), (2, 2), (1, 300), (33, 70), (97, 31), (400, 300)]
)
@pytest.mark.parametrize("kind", ["plain", "constant", "nan", "holes"])
def test_any_size_and_any_values_give_a_proposal(shape: tuple[int, int], kind: str) -> None:
    rng = stream(2, "sizes", *shape)
    image = rng.random(shape)
    if kind == "constant":
        image[:] = 7.0
    elif kind == "nan":
        image[:] = np.nan
    elif kind == "holes":
        image[rng.random(shape) < 0.3] = np.inf
    labels = _blank(shape)
    labels[0, 0] = LV
    made = _proposal(image, labels)
    assert made.labels[0, 0] == LV
    assert set(np.unique(made.labels)) <= {0, LV}
    assert np.isfinite(made.confidence).all()
    labels[-1, -1] = MUSCLE
    labels[shape[0] // 2, shape[1] // 2] = 0
    made = _proposal(image, labels)
    assert made.labels[-1, -1] in (0, MUSCLE)
    assert np.isfinite(made.confidence).all()


def test_a_larger_slice_is_proposed_as_a_small_one_on_a_coarser_grid() -> None:
    image, truth = _discs()
    labels = _scribbled(truth)
    zoomed = [np.kron(array, np.ones((4, 4), array.dtype)) for array in (image, truth, labels)]
    large = LiveProposer(4, cells=4000)
    made = large.propose(large.prepare(zoomed[0]), zoomed[2])
    assert made is not None
    assert _dice(made.labels, zoomed[1], LV) > 0.9
    assert _dice(made.labels, zoomed[1], MUSCLE) > 0.85


def test_what_cannot_be_used_is_named() -> None:
    proposer = LiveProposer(4)
    image = np.zeros((8, 8))
    with pytest.raises(BadInput, match=r"\(2, 8, 8\)"):
        proposer.prepare(np.zeros((2, 8, 8)))
    with pytest.raises(BadInput, match="probabilities"):
        proposer.prepare(image, prior=np.zeros((3, 8, 8), np.float32))
    with pytest.raises(BadInput, match="Features"):
        proposer.prepare(image, features=np.zeros((8, 8), np.float32))
    with pytest.raises(BadInput, match="do not fit"):
        proposer.propose(proposer.prepare(image), _blank((9, 8)))
    with pytest.raises(BadInput, match="Class 4"):
        proposer.propose(proposer.prepare(image), np.full((8, 8), 4, np.uint8))
    with pytest.raises(ValueError, match="classes"):
        LiveProposer(1)
