from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.data.cohort import Cohort, Split, by_patient, natural
from alnb.data.volume import Volume
from alnb.errors import BadInput, UnknownItem
from alnb.records import SliceId, VolumeId
from alnb.testing.cohort import check_cohort

CLASSES = ("background", "heart")


def a_volume(name, slices, patient=None, **changes):
    shape = (slices, 4, 6)
    return Volume(name=name, patient=patient or name.split("/")[0], phase="", shape=shape,
                  read_image=lambda: np.zeros(shape, np.float32), **changes)  # fmt: skip


def a_cohort(sizes, **changes):
    volumes = {name: a_volume(name, slices) for name, slices in sizes.items()}
    return Cohort(**({"name": "toy", "volumes": volumes, "classes": CLASSES} | changes))


SIZES = {"p2/ED": 3, "p2/ES": 2, "p10/ED": 1, "p10/ES": 14}


def test_the_slice_pool_counts_every_slice_of_every_volume_once():
    cohort = a_cohort(SIZES)
    pool = cohort.pool()
    assert len(pool) == sum(SIZES.values())
    for number, (name, slices) in enumerate(SIZES.items()):
        rows = np.flatnonzero(pool.volume == number)
        assert [pool.ids[row] for row in rows] == [SliceId(name, i) for i in range(slices)]
        assert all(pool.slices[row] == (pool.ids[row],) for row in rows)
        np.testing.assert_allclose(
            pool.position[rows], [0.5] if slices == 1 else np.linspace(0, 1, slices)
        )
    assert pool.patient.tolist() == [0] * 5 + [1] * 15


def test_a_pool_of_volumes_holds_their_slices():
    pool = a_cohort(SIZES).pool("volume")
    assert pool.ids == tuple(VolumeId(name) for name in SIZES)
    assert [len(slices) for slices in pool.slices] == list(SIZES.values())
    assert pool.position.tolist() == [0.5] * 4


def test_codes_mean_the_same_in_a_restricted_pool():
    pool = a_cohort(SIZES).pool(patients=["p10"])
    assert set(pool.patient.tolist()) == {1}
    assert set(pool.volume.tolist()) == {2, 3}
    assert len(a_cohort(SIZES).pool(patients=[])) == 0
    with pytest.raises(UnknownItem, match="p3"):
        a_cohort(SIZES).pool(patients=["p3"])


def test_unknown_volumes_and_slices_are_named():
    cohort = a_cohort(SIZES)
    with pytest.raises(UnknownItem, match="p9/ED"):
        cohort.slice_image(SliceId("p9/ED", 0))
    with pytest.raises(UnknownItem, match="slice 3"):
        cohort.shape(SliceId("p2/ED", 3))


def test_pixels_are_one_millimetre_where_nobody_said():
    spaced = a_volume("a", 2, spacing_mm=(8.0, 1.5, 1.25))
    cohort = Cohort("toy", {"a": spaced, "b": a_volume("b", 2)}, CLASSES)
    assert cohort.pixel_mm(SliceId("a", 0)) == (1.5, 1.25)
    assert cohort.pixel_mm(SliceId("b", 0)) == (1.0, 1.0)


def test_the_fingerprint_sees_names_shapes_and_classes_and_nothing_else():
    print_of = a_cohort(SIZES).fingerprint()
    assert a_cohort(SIZES, name="other").fingerprint() == print_of
    assert a_cohort(SIZES, problems=("x is damaged.",)).fingerprint() == print_of
    assert a_cohort(SIZES | {"p2/ES": 3}).fingerprint() != print_of
    assert a_cohort(SIZES, classes=("background", "liver")).fingerprint() != print_of
    assert a_cohort(dict(reversed(SIZES.items()))).fingerprint() != print_of


def test_a_cohort_survives_pickling(hearts):
    again = pickle.loads(pickle.dumps(hearts))
    assert again.fingerprint() == hearts.fingerprint()
    assert again.pool().ids == hearts.pool().ids


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"volumes": {}}, "no volume"),
        ({"volumes": {"x": a_volume("y", 1)}}, "stands under the name"),
        ({"classes": ("background",)}, "1 classes"),
        ({"classes": ("a", "b", "a")}, "name of class 0"),
        ({"classes": ("a", " ")}, "has no name"),
        ({"classes": tuple(map(str, range(256)))}, "256 classes"),
        ({"split": Split(("p2",), ("nobody",))}, "nobody"),
    ],
)
def test_a_cohort_that_contradicts_itself_is_refused(wrong, words):
    with pytest.raises((BadInput, UnknownItem), match=words):
        a_cohort(SIZES, **wrong)


def test_natural_order_reads_whole_numbers():
    names = ["patient10", "patient2", "b3", "patient2b", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "b3", "patient2", "patient2b", "patient10"]


@settings(deadline=None)
@given(st.text(max_size=8), st.text(max_size=8))
def test_natural_order_holds_for_any_two_names(one, other):
    assert (natural(one) == natural(other)) == (one == other)
    assert (natural(one) < natural(other)) + (natural(other) < natural(one)) == (one != other)


def test_a_split_with_a_patient_in_two_sets_is_refused():
    with pytest.raises(BadInput, match="p1 is in the split more than once"):
        Split(("p1", "p2"), (), ("p1",))


@settings(deadline=None)
@given(st.integers(5, 60), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 5))
def test_by_patient_gives_everybody_one_set_whatever_the_order(count, val, test, seed):
    who = [f"p{number}" for number in range(count)]
    split = by_patient(who, val=val, test=test, seed=seed)
    assert sorted((*split.train, *split.val, *split.test)) == sorted(who)
    assert abs(len(split.val) - val * count) <= 1
    assert abs(len(split.test) - test * count) <= 1
    assert split.train
    shuffled = random.Random(seed).sample(who, count)
    assert by_patient(shuffled, val=val, test=test, seed=seed) == split


def test_by_patient_differs_between_seeds_and_refuses_the_impossible():
    who = [f"p{number}" for number in range(30)]
    assert by_patient(who, seed=0).digest() != by_patient(who, seed=1).digest()
    with pytest.raises(BadInput, match="too few"):
        by_patient(["a", "b"])
    with pytest.raises(BadInput, match="below 1"):
        by_patient(who, val=0.5, test=0.5)


def test_the_digest_is_of_the_sets_not_of_their_order():
    assert Split(("a", "b"), ("c",)).digest() == Split(("b", "a"), ("c",)).digest()
    assert Split(("a", "b"), ("c",)).digest() != Split(("a",), ("b", "c")).digest()


def bad_pixels():
    broken = np.zeros((2, 4, 6), np.float32)
    broken[0, 0, 0] = np.nan
    return Volume("p1", "p1", "", (2, 4, 6), read_image=lambda: broken)


def bad_labels():
    label = np.full((2, 4, 6), 2, np.uint8)
    return a_volume("p1", 2, read_reference=lambda: label)


def bad_affine():
    return a_volume("p1", 2, affine=np.diag([1.0, 1.0, 9.0, 1.0]), spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("broken", "words"),
    [(bad_pixels, "not numbers"), (bad_labels, r"codes \[2\]"), (bad_affine, "its affine")],
)
def test_check_cohort_finds_what_is_broken(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_cohort(Cohort("broken", {"p1": broken()}, CLASSES))


def test_the_phantom_keeps_the_contract(hearts):
    check_cohort(hearts)
