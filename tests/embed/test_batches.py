from __future__ import annotations

import warnings
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.embed.batches import GroupBatches
from alnb.errors import BadInput

NARROW_TO_WIDE = ("slice", "volume", "patient")
every_kinds = pytest.mark.parametrize(
    "kinds",
    [kinds for size in (1, 2, 3) for kinds in combinations(NARROW_TO_WIDE, size)],
    ids="+".join,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def pool(*patients):
    """Columns of a pool; a patient is a list of volumes, a volume the indices of its slices."""
    rows = [
        (p, v, z)
        for p, volumes in enumerate(patients)
        for v, indices in enumerate(volumes, start=10 * p)
        for z in indices
    ]
    return tuple(np.array(rows, dtype=np.int64).T)


def even(patients, volumes=2, slices=5):
    return pool(*[[range(slices)] * volumes for _ in range(patients)])


def quiet(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GroupBatches(*arguments)


def together(kind, columns, i, j):
    patient, volume, index = columns
    if patient[i] != patient[j]:
        return False
    if kind == "patient":
        return True
    if volume[i] != volume[j]:
        return False
    return kind == "volume" or abs(index[i] - index[j]) <= 1


def may_follow(kind, columns, taken):
    """The slices that Algorithm 1 may put next into the tuple `taken`, by brute force."""
    for wider in NARROW_TO_WIDE[NARROW_TO_WIDE.index(kind) :]:
        free = {
            row
            for row in range(len(columns[0]))
            if row not in taken and together(wider, columns, taken[0], row)
        }
        if free:
            return free
    return {taken[0]}


@st.composite
def pools(draw):
    """Few patients of few volumes of one to five slices, some missing, in any order."""
    volume = st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True)
    patients = draw(st.lists(st.lists(volume, min_size=1, max_size=3), min_size=1, max_size=7))
    columns = pool(*patients)
    order = rng(draw(st.integers(0, 99))).permutation(len(columns[0]))
    return tuple(column[order] for column in columns)


some_kinds = st.lists(st.sampled_from(NARROW_TO_WIDE), unique=True, max_size=3)


# Tuples


@settings(deadline=None, max_examples=60)
@given(pools(), some_kinds, st.integers(0, 9))
def test_every_member_of_a_tuple_is_one_that_the_algorithm_may_pick(columns, kinds, seed):
    batches = quiet(*columns, kinds, 1 + len(kinds))
    tuples = batches.tuples(rng(seed))
    assert tuples.shape == (len(columns[0]), 1 + len(kinds))
    assert (tuples[:, 0] == np.arange(len(tuples))).all()
    for members in tuples.tolist():
        for place, kind in enumerate((k for k in NARROW_TO_WIDE if k in kinds), start=1):
            assert members[place] in may_follow(kind, columns, members[:place])


@every_kinds
def test_every_slice_that_may_be_picked_is_picked_about_as_often_as_the_others(kinds):
    columns = pool([range(4), [0, 1]], [[0]], [[3], [5]], [[0, 2]])
    batches = quiet(*columns, kinds, 1 + len(kinds))
    generator, draws = rng(1), 400
    seen = Counter(tuple(t) for _ in range(draws) for t in batches.tuples(generator).tolist())

    def walk(members, chance):
        rest = [k for k in NARROW_TO_WIDE if k in kinds][len(members) - 1 :]
        if not rest:
            # Six standard deviations around the binomial mean.
            slack = 6 * np.sqrt(draws * chance * (1 - chance))
            assert abs(seen[members] - draws * chance) <= slack, members
            return
        following = may_follow(rest[0], columns, list(members))
        for row in following:
            walk((*members, row), chance / len(following))

    for anchor in range(len(columns[0])):
        walk((anchor,), 1.0)


def test_a_tuple_holds_a_neighbour_then_a_volume_mate_then_a_patient_mate():
    columns = even(3)
    batches = GroupBatches(*columns, ("patient", "slice", "volume"), 4)
    for anchor, near, mate, other in batches.tuples(rng()):
        assert abs(columns[2][anchor] - columns[2][near]) == 1
        assert together("volume", columns, anchor, near)
        assert together("volume", columns, anchor, mate)
        assert together("patient", columns, anchor, other)
        assert len({anchor, near, mate, other}) == 4


def test_at_the_end_of_a_volume_the_only_neighbour_is_taken():
    columns = pool([range(5)], [range(5)])
    tuples = GroupBatches(*columns, ("slice",), 4).tuples(rng())
    assert tuples[[0, 4, 5, 9], 1].tolist() == [1, 3, 6, 8]


def test_a_slice_without_a_neighbour_takes_a_volume_mate_then_a_patient_mate_then_itself():
    # A gap in a volume, a volume of one slice, a patient of one slice.
    columns = pool([[0, 2]], [[0], [5]], [[7]])
    for kinds in [("slice",), ("volume",), ("slice", "volume"), ("slice", "volume", "patient")]:
        tuples = quiet(*columns, kinds, 1 + len(kinds)).tuples(rng())
        assert tuples[:, 1].tolist() == [1, 0, 3, 2, 4]
        # The second mate finds nothing new in such small patients.
        assert (tuples[:, 2:] == tuples[:, :1]).all()


def test_two_patients_whose_volumes_have_the_same_codes_are_not_mixed():
    patient, _, index = even(2, volumes=1)
    tuples = GroupBatches(patient, np.zeros(10, int), index, ("volume",), 4).tuples(rng())
    assert (patient[tuples[:, 0]] == patient[tuples[:, 1]]).all()


def test_the_metadata_relation_holds_within_every_tuple_of_ordinary_volumes():
    from alnb.losses.contrastive import relation

    columns = even(6)
    batches = GroupBatches(*columns, NARROW_TO_WIDE, 8)
    for rows in batches.epoch(rng(2)):
        part = [column[rows] for column in columns]
        for place, kind in enumerate(NARROW_TO_WIDE, start=1):
            related = relation(kind, *part).numpy()
            for start in range(0, len(rows), batches.tuple_size):
                assert related[start, start + place]


# Epochs


def most_batches(counts, per_batch):
    """The most batches of distinct patients, found by always drawing the largest first."""
    counts, batches = list(counts), 0
    while sum(count > 0 for count in counts) >= per_batch:
        for place in np.argsort(counts)[::-1][:per_batch]:
            counts[place] -= 1
        batches += 1
    return batches


@settings(deadline=None, max_examples=60)
@given(pools(), some_kinds.filter(bool), st.integers(1, 5), st.integers(0, 9))
def test_an_epoch_has_batches_of_distinct_patients_and_as_many_as_there_can_be(
    columns, kinds, per_batch, seed
):
    batches = quiet(*columns, kinds, per_batch * (1 + len(kinds)))
    size = batches.tuple_size
    epoch = list(batches.epoch(rng(seed)))
    patients = len(set(columns[0]))
    assert batches.batch == size * min(per_batch, patients)
    anchors = []
    for rows in epoch:
        assert rows.shape == (batches.batch,)
        assert rows.dtype == np.int64
        owners = columns[0][rows].reshape(-1, size)
        assert (owners == owners[:, :1]).all()
        assert len(set(owners[:, 0])) == len(owners)
        anchors += rows[::size].tolist()
    assert len(set(anchors)) == len(anchors)
    counts = Counter(columns[0].tolist())
    assert len(epoch) == len(batches) == most_batches(counts.values(), batches.batch // size)
    # What is left would not fill another batch.
    left = set(range(len(columns[0]))) - set(anchors)
    assert len({columns[0][row] for row in left}) < batches.batch // size


@every_kinds
@pytest.mark.parametrize("patients", [4, 5, 12])
def test_with_equally_many_slices_per_patient_every_slice_is_an_anchor_once(kinds, patients):
    columns = even(patients, volumes=2, slices=2)
    batches = GroupBatches(*columns, kinds, 4 * (1 + len(kinds)))
    for seed in range(5):
        anchors = np.concatenate(list(batches.epoch(rng(seed))))[:: batches.tuple_size]
        assert sorted(anchors) == list(range(4 * patients))


@every_kinds
def test_the_same_rng_gives_the_same_epoch_and_the_next_one_differs(kinds):
    columns = even(5)
    batches = GroupBatches(*columns, kinds, 3 * (1 + len(kinds)))
    generator = rng(7)
    first, second = (np.stack(list(batches.epoch(generator))) for _ in range(2))
    again = GroupBatches(*columns, kinds, 3 * (1 + len(kinds)))
    repeated = rng(7)
    assert (np.stack(list(again.epoch(repeated))) == first).all()
    assert (np.stack(list(again.epoch(repeated))) == second).all()
    assert (first != second).any()


def test_an_epoch_is_drawn_whole_so_that_others_may_use_the_rng_between_batches():
    batches = GroupBatches(*even(5), ("volume",), 4)
    undisturbed, disturbed = rng(3), rng(3)
    expected = np.stack(list(batches.epoch(undisturbed)))
    epoch = batches.epoch(disturbed)
    assert (np.stack([row for row in epoch if disturbed.random() < 2]) == expected).all()


def test_all_patients_meet_each_other_within_some_epochs():
    columns = even(7, volumes=1)
    batches = GroupBatches(*columns, ("volume",), 4)
    generator = rng(4)
    met = {
        frozenset(columns[0][rows[::2]].tolist())
        for _ in range(10)
        for rows in batches.epoch(generator)
    }
    assert met == {frozenset(pair) for pair in combinations(range(7), 2)}


def test_the_slices_of_a_patient_come_in_random_order():
    columns = even(2, volumes=1, slices=4)
    batches = GroupBatches(*columns, ("volume",), 4)
    generator = rng(8)
    first = {int(row) for _ in range(60) for row in next(batches.epoch(generator))[::2]}
    assert first == set(range(8))


def test_a_large_patient_is_spread_over_the_epoch_not_left_to_its_end():
    columns = pool([range(20)], *[[range(2)]] * 10)
    batches = GroupBatches(*columns, ("volume",), 4)
    # 20 of its 20 tuples are needed for 20 batches of two patients each: one in every batch.
    epoch = list(batches.epoch(rng(5)))
    assert len(epoch) == 20
    assert all((columns[0][rows] == 0).sum() == 2 for rows in epoch)


def test_without_relations_batches_are_plain_shuffled_slices():
    columns = even(3, volumes=1, slices=7)
    batches = GroupBatches(*columns, (), 8)
    assert batches.tuple_size == 1
    assert batches.problems == ()
    epoch = np.stack(list(batches.epoch(rng(6))))
    assert epoch.shape == (2, 8)
    assert len(np.unique(epoch)) == 16
    # Eight slices of three patients: some patient comes twice.
    first = Counter(row for seed in range(50) for row in next(batches.epoch(rng(seed))).tolist())
    assert set(first) == set(range(21))


def test_the_inputs_stay_as_they_are():
    columns = even(4)
    before = [column.copy() for column in columns]
    for column in columns:
        column.flags.writeable = False
    list(GroupBatches(*columns, NARROW_TO_WIDE, 8).epoch(rng()))
    for column, copy in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, copy)


# Shortages


def test_fewer_patients_than_tuples_shrink_the_batch_and_say_so():
    with pytest.warns(UserWarning, match="needs 4 distinct patients and there are 3") as caught:
        batches = GroupBatches(*even(3), ("volume",), 8)
    assert batches.batch == 6
    assert batches.problems == (str(caught[0].message),)
    assert caught[0].filename == __file__
    assert len(list(batches.epoch(rng()))) == 10


def test_one_patient_alone_still_gives_batches_and_a_warning():
    with (
        pytest.warns(UserWarning, match="needs 3 distinct patients and there is 1"),
        pytest.warns(UserWarning, match="no other to tell it from"),
    ):
        batches = GroupBatches(*even(1), ("volume", "patient"), 9)
    assert batches.batch == 3
    assert len(batches.problems) == 2
    epoch = np.stack(list(batches.epoch(rng())))
    assert sorted(epoch[:, 0]) == list(range(10))


def test_a_pool_smaller_than_a_batch_is_used_as_far_as_it_goes():
    with pytest.warns(UserWarning, match="needs 8 distinct slices and there are 3"):
        batches = GroupBatches(*even(3, 1, 1), (), 8)
    assert sorted(next(batches.epoch(rng()))) == [0, 1, 2]
    one = quiet(*pool([[0]]), NARROW_TO_WIDE, 4)
    assert [rows.tolist() for rows in one.epoch(rng())] == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("kinds", "batch", "message"),
    [
        (("volume", "patient"), 8, "8 does not divide into tuples of 3 .*volume, patient.* 6 or 9"),
        (NARROW_TO_WIDE, 9, "9 does not divide into tuples of 4 .* use 8 or 12"),
        (("slice",), 1, "1 does not divide into tuples of 2 .* use 2"),
        (("slice",), 0, "0 does not divide into tuples of 2 .* use 2"),
        ((), 0, "single slices.* use 1"),
    ],
)
def test_a_batch_that_tuples_do_not_divide_is_refused_with_one_that_they_do(kinds, batch, message):
    with pytest.raises(BadInput, match=message):
        GroupBatches(*even(4), kinds, batch)


def test_misfits_are_named():
    patient, volume, index = even(4)
    with pytest.raises(BadInput, match=r"\('scanner',\); each must be one of slice"):
        GroupBatches(patient, volume, index, ("scanner",), 4)
    with pytest.raises(BadInput, match="once"):
        GroupBatches(patient, volume, index, ("volume", "volume"), 6)
    with pytest.raises(BadInput, match=r"shapes \[\(3,\), \(40,\)\]"):
        GroupBatches(patient, volume, index[:3], ("volume",), 4)
    with pytest.raises(BadInput, match="no slices"):
        GroupBatches(patient[:0], volume[:0], index[:0], ("volume",), 4)
