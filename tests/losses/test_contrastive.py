from __future__ import annotations

import math
import re
from dataclasses import astuple
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.errors import BadInput
from alnb.losses import contrastive
from alnb.losses.contrastive import (
    WEIGHTS,
    Weights,
    contrastive_loss,
    group_nt_xent,
    nt_xent,
    relation,
)

KINDS = ("patient", "volume", "slice")
VARIANTS = ("all_views", "paper_literal", "reference_code")

# Two volumes of patient 0, adjacent slices in the first; two distant slices in patient 1's.
PATIENT = np.array([0, 0, 0, 1, 1, 2])
VOLUME = np.array([0, 0, 1, 2, 2, 3])
INDEX = np.array([0, 1, 0, 3, 5, 2])
DEGREES = ((0, 30, 60, 150, 180, 300), (10, 50, 90, 140, 200, 310))

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def circle():
    angles = torch.deg2rad(torch.tensor(DEGREES, dtype=torch.float64).flatten())
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def views(seed=0, slices=6, width=5, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(2 * slices, width)), dtype=dtype)


def codes(seed, slices=6):
    """Patient, volume and index of slices drawn at random from a few patients and volumes."""
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 4, slices)
    return volume // 2, volume, rng.integers(0, 6, slices)


def related(kind, columns=(PATIENT, VOLUME, INDEX)):
    return relation(kind, *columns)


# Independent references, one pair at a time in plain Python.


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def slow_pair(z, i, j, among, temperature):
    """-ln of the share of j among the views `among`, seen from i."""
    weights = [math.exp(cosine(z[i], z[k]) / temperature) for k in among]
    return -(cosine(z[i], z[j]) / temperature - math.log(sum(weights)))


def slow_nt_xent(z, temperature=0.5, drop=None):
    z, terms = z.tolist(), []
    b = len(z) // 2
    for i in range(2 * b):
        other = (i + b) % (2 * b)
        among = [
            k
            for k in range(2 * b)
            if k != i and (k == other or drop is None or not drop[i % b][k % b])
        ]
        terms.append(slow_pair(z, i, other, among, temperature))
    return sum(terms) / (2 * b)


def slow_groups(r):
    """Connected components by walking."""
    unseen, found = set(range(len(r))), 0
    while unseen:
        found += 1
        walk = [unseen.pop()]
        while walk:
            here = walk.pop()
            reached = {there for there in unseen if r[here][there]}
            unseen -= reached
            walk += reached
    return found


def slow_group(z, r, patient, variant, temperature=0.5, tuple_size=None):
    z, b = z.tolist(), len(z) // 2
    everyone = range(2 * b)

    def among(i):
        return [
            k for k in everyone if k != i and (r[i % b][k % b] or patient[i % b] != patient[k % b])
        ]

    if variant == "all_views":
        per_anchor = []
        for i in everyone:
            positives = [j for j in everyone if j != i and r[i % b][j % b]]
            losses = [slow_pair(z, i, j, among(i), temperature) for j in positives]
            per_anchor.append(sum(losses) / len(losses))
        return sum(per_anchor) / (2 * b)
    if variant == "paper_literal":
        total = sum(
            slow_pair(z, i, j, among(i), temperature)
            for i in range(b)
            for j in range(b, 2 * b)
            if r[i][j - b]
        )
        return total / (b * (b / slow_groups(r)))
    total = 0.0
    for i in everyone:
        negatives = [k for k in everyone if k % b // tuple_size != i % b // tuple_size]
        for j in everyone:
            if j != i:
                total += slow_pair(z, i, j, [j, *negatives], temperature)
    return total / (2 * b * (2 * b - 1))


def gradient_on_similarity(monkeypatch, loss):
    """d loss / d s for the (2B, 2B) matrix of cosines that `loss()` is computed from."""
    seen, plain = [], contrastive.similarity

    def kept(z):
        seen.append(plain(z).detach().requires_grad_())
        return seen[-1]

    monkeypatch.setattr(contrastive, "similarity", kept)
    loss().backward()
    return seen[0].grad


# Values


@pytest.mark.parametrize(
    ("variant", "patient", "volume", "adjacent"),
    [
        ("all_views", 1.576837, 1.180379, 0.874981),
        ("paper_literal", 1.955651, 1.361181, 1.071080),
    ],
)
def test_six_slices_on_a_circle_have_the_values_of_the_definition(
    variant, patient, volume, adjacent
):
    for kind, expected in zip(KINDS, (patient, volume, adjacent), strict=True):
        value = group_nt_xent(circle(), related(kind), PATIENT, variant=variant)
        assert value.item() == pytest.approx(expected, abs=5e-7)
    assert nt_xent(circle()).item() == pytest.approx(1.223205, abs=5e-7)


@pytest.mark.parametrize("temperature", [0.5, 0.07])
@pytest.mark.parametrize("seed", range(3))
@each_variant
def test_the_group_loss_is_the_double_loop(variant, seed, temperature):
    columns = codes(seed)
    options = {"variant": variant, "temperature": temperature, "tuple_size": 3}
    for kind in KINDS:
        r = related(kind, columns)
        slow = slow_group(views(seed), r.tolist(), columns[0].tolist(), **options)
        exact = group_nt_xent(views(seed), r, columns[0], **options)
        single = group_nt_xent(views(seed, dtype=torch.float32), r, columns[0], **options)
        assert exact.dtype == torch.float64
        assert exact.item() == pytest.approx(slow, rel=1e-10, abs=1e-10)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(slow, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.07])
@pytest.mark.parametrize("seed", range(3))
def test_nt_xent_is_the_double_loop_with_and_without_dropped_negatives(seed, temperature):
    z, drop = views(seed), related("volume", codes(seed))
    for left_out in (None, drop):
        slow = slow_nt_xent(z, temperature, None if left_out is None else left_out.tolist())
        exact = nt_xent(z, temperature=temperature, drop=left_out)
        single = nt_xent(z.float(), temperature=temperature, drop=left_out)
        assert exact.item() == pytest.approx(slow, rel=1e-10, abs=1e-10)
        assert single.item() == pytest.approx(slow, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_the_default_variant_is_nt_xent_exactly_where_nothing_is_related(slices):
    z = views(3, slices, dtype=torch.float32)
    strangers, alone = torch.arange(slices), torch.eye(slices, dtype=torch.bool)
    assert torch.equal(group_nt_xent(z, alone, strangers), nt_xent(z))


@pytest.mark.parametrize("variant", ["paper_literal", "reference_code"])
def test_the_other_variants_are_not_nt_xent_where_nothing_is_related(variant):
    z = views(3, 6)
    alone = torch.eye(6, dtype=torch.bool)
    other = group_nt_xent(z, alone, torch.arange(6), variant=variant, tuple_size=2)
    assert abs(other - nt_xent(z)) > 1e-3


@each_kind
def test_a_batch_of_distinct_patients_makes_the_metadata_losses_nt_xent(kind):
    z, each = views(4), torch.arange(6)
    assert torch.equal(group_nt_xent(z, relation(kind, each, each, each), each), nt_xent(z))


# Symmetries


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_no_permutation_of_slices_or_of_the_views_of_a_slice_changes_a_loss(order, swapped):
    order = torch.tensor(order)
    z, flip = views(5), torch.tensor(swapped)[:, None]
    first, second = z[:6][order], z[6:][order]
    plain = torch.cat([first, second])
    mixed = torch.cat([torch.where(flip, second, first), torch.where(flip, first, second)])
    shuffled = tuple(column[order.numpy()] for column in (PATIENT, VOLUME, INDEX))
    torch.testing.assert_close(nt_xent(mixed), nt_xent(z))
    for kind in KINDS:
        for variant, moved in (("all_views", mixed), ("paper_literal", plain)):
            before = group_nt_xent(z, related(kind), PATIENT, variant=variant)
            after = group_nt_xent(moved, related(kind, shuffled), shuffled[0], variant=variant)
            torch.testing.assert_close(after, before)


@pytest.mark.parametrize("tuples", list(permutations(range(3))))
def test_the_order_of_tuples_and_within_them_does_not_change_the_reference_code(tuples):
    z = views(6)
    order = torch.tensor([2 * t + place for t in tuples for place in (1, 0)])
    moved = torch.cat([z[6:][order], z[:6][order]])

    def loss(z):
        return group_nt_xent(z, related("volume"), PATIENT, variant="reference_code", tuple_size=2)

    torch.testing.assert_close(loss(moved), loss(z))


@each_variant
def test_the_length_of_a_view_does_not_matter(variant):
    z = views(7)
    scale = torch.logspace(-3, 3, len(z), dtype=z.dtype)[:, None]

    def loss(z):
        weights = Weights(1, 0.05, 0.35, 0.1)
        return contrastive_loss(
            z[[0, 1, 2, 3, 6, 7, 8, 9]],
            PATIENT[:4],
            VOLUME[:4],
            INDEX[:4],
            weights,
            variant=variant,
        )

    torch.testing.assert_close(loss(z * scale), loss(z))


# Forces


@each_kind
def test_related_attract_other_patients_repel_and_the_rest_of_the_patient_does_nothing(
    monkeypatch, kind
):
    r = related(kind)
    grad = gradient_on_similarity(monkeypatch, lambda: group_nt_xent(circle(), r, PATIENT))
    r2 = r.repeat(2, 2)
    patient = torch.tensor(PATIENT).repeat(2)
    stranger = patient[:, None] != patient
    lone = r2.sum(1) == 2  # itself and its other view
    own = torch.eye(12, dtype=torch.bool)
    assert (grad[~r2 & ~stranger] == 0).all()
    assert (grad[own] == 0).all()
    assert (grad[stranger] > 0).all()
    assert (grad[lone[:, None] & r2 & ~own] < 0).all()
    if kind != "patient":
        assert (~r2 & ~stranger).any()
    assert lone.any()


def test_the_positives_of_an_anchor_are_drawn_in_as_much_as_strangers_are_pushed_away(monkeypatch):
    grad = gradient_on_similarity(
        monkeypatch, lambda: group_nt_xent(circle(), related("volume"), PATIENT)
    )
    torch.testing.assert_close(grad.sum(1), torch.zeros(12, dtype=grad.dtype))


def test_dropped_slices_are_no_negatives_but_the_other_view_stays_positive(monkeypatch):
    drop = related("volume")
    grad = gradient_on_similarity(monkeypatch, lambda: nt_xent(circle(), drop=drop))
    other = torch.eye(6, dtype=torch.bool).repeat(2, 2) & ~torch.eye(12, dtype=torch.bool)
    silent = drop.repeat(2, 2) & ~other
    assert (grad[silent] == 0).all()
    assert (grad[other] < 0).all()
    assert (grad[~silent & ~other] > 0).all()


@each_variant
def test_the_gradient_is_that_of_finite_differences(variant):
    weights = Weights(1, 0.3, 0.5, 0.7)
    patient, volume, index = PATIENT[:4], VOLUME[:4], INDEX[:4]
    z = views(8, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: contrastive_loss(z, patient, volume, index, weights, variant=variant), (z,)
    )


def test_descending_the_volume_loss_gathers_each_volume():
    patient = volume = np.repeat(np.arange(4), 3)
    same = relation("volume", patient, volume, volume)
    z = views(9, 12, 8, torch.float32).requires_grad_()
    for _ in range(40):
        (step,) = torch.autograd.grad(group_nt_xent(z, same, patient), z)
        z = (z - 20 * step).detach().requires_grad_()
    s, same = contrastive.similarity(z), same.repeat(2, 2)
    assert s[same].min() > s[~same].max() + 0.5


# Relations


def test_patient_volume_and_neighbour_are_three_different_relations():
    masks = [related(kind) for kind in KINDS]
    for one, other in combinations(masks, 2):
        assert not torch.equal(one, other)
    by_patient, by_volume, by_slice = masks
    assert by_patient[0, 2]
    assert not by_volume[0, 2]  # the patient's other volume
    assert by_volume[3, 4]
    assert not by_slice[3, 4]  # two apart
    assert by_slice[0, 1]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(*(st.integers(0, 3),) * 3).map(lambda c: (c[0], 4 * c[0] + c[1], c[2])),
        min_size=1,
        max_size=8,
    )
)
def test_relations_are_symmetric_nested_and_hold_for_a_slice_and_itself(slices):
    columns = np.array(slices).T
    by_patient, by_volume, by_slice = (relation(kind, *columns).numpy() for kind in KINDS)
    for mask in (by_patient, by_volume, by_slice):
        assert (mask == mask.T).all()
        assert mask.diagonal().all()
    assert (by_volume <= by_patient).all()
    assert (by_slice <= by_volume).all()
    for i, (p, v, z) in enumerate(slices):
        for j, (q, w, y) in enumerate(slices):
            assert by_patient[i, j] == (p == q)
            assert by_volume[i, j] == (v == w)
            assert by_slice[i, j] == (v == w and abs(z - y) <= 1)


def test_neighbours_of_a_neighbour_are_not_related_but_one_group_in_the_papers_scale():
    columns = np.zeros(3, int), np.zeros(3, int), np.arange(3)
    chain = relation("slice", *columns)
    assert not chain[0, 2]
    z = views(10, 3)
    value = group_nt_xent(z, chain, columns[0], variant="paper_literal")
    # One component, so that G = B = 3.
    slow = slow_group(z, chain.tolist(), [0, 0, 0], "paper_literal")
    assert slow_groups(chain.tolist()) == 1
    assert value.item() == pytest.approx(slow, rel=1e-10)


def test_volume_codes_that_start_anew_in_each_patient_are_different_volumes():
    assert not relation("volume", [0, 1], [7, 7], [2, 2])[0, 1]
    assert not relation("slice", [0, 1], [7, 7], [2, 2])[0, 1]


# Number formats and degenerate batches


@each_variant
def test_bfloat16_views_are_computed_in_float32_also_under_autocast(variant):
    z = views(11).bfloat16()
    arguments = (PATIENT, VOLUME, INDEX, Weights(1, 0, 0.35, 0))
    expected = contrastive_loss(z.float(), *arguments, variant=variant)
    leaf = z.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = contrastive_loss(leaf, *arguments, variant=variant)
        also = contrastive_loss(z.float(), *arguments, variant=variant)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(also, expected)
    assert leaf.grad.isfinite().all()


@each_variant
@pytest.mark.parametrize("temperature", [0.5, 1e-3])
def test_equal_and_opposite_views_keep_loss_and_gradient_finite(variant, temperature):
    row = views(12, dtype=torch.float32)[:1]
    for z in (row.repeat(8, 1), row * torch.tensor([[1.0], [-1.0]]).repeat(4, 1)):
        leaf = z.clone().requires_grad_()
        weights = Weights(1, 1, 1, 0)
        # 4 slices are no tuples of 3: take the volume loss alone for the variant that asks.
        if variant == "reference_code":
            weights = Weights(1, 0, 1, 0)
        value = contrastive_loss(
            leaf,
            PATIENT[:4],
            VOLUME[:4],
            INDEX[:4],
            weights,
            temperature=temperature,
            variant=variant,
        )
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()


def test_a_collapsed_embedding_costs_the_logarithm_of_the_number_of_views_it_is_among():
    z = torch.ones(8, 3)
    assert nt_xent(z).item() == pytest.approx(math.log(7))
    pairs = torch.tensor([0, 0, 1, 1])
    # Two related slices, four views: 3 others of the group, 4 of the stranger.
    assert group_nt_xent(
        z, relation("patient", pairs, pairs, pairs), pairs
    ).item() == pytest.approx(math.log(7))
    # Same patient, nothing related: only the own other view is left.
    assert group_nt_xent(z, torch.eye(4, dtype=torch.bool), torch.zeros(4)).item() == 0


@each_variant
def test_a_zero_vector_has_no_direction_and_a_finite_gradient(variant):
    z = views(13, dtype=torch.float32)
    z[2] = 0
    z.requires_grad_()
    weights = Weights(1, 0, 0.35, 0)
    value = contrastive_loss(z, PATIENT, VOLUME, INDEX, weights, variant=variant)
    value.backward()
    assert (contrastive.similarity(z)[2] == 0).all()
    assert value.isfinite()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() < 10


@each_variant
def test_one_slice_has_nothing_to_be_told_from_and_costs_a_connected_zero(variant):
    z = views(14, 1).requires_grad_()
    one = np.array([0])
    value = group_nt_xent(
        z, relation("volume", one, one, one), one, variant=variant, tuple_size=1
    ) + nt_xent(z)
    value.backward()
    assert value.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_a_single_tuple_has_nothing_to_be_told_from_in_the_reference_code():
    z = views(14, 3).requires_grad_()
    value = group_nt_xent(
        z, related("volume")[:3, :3], PATIENT[:3], variant="reference_code", tuple_size=3
    )
    value.backward()
    assert value.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("variant", ["all_views", "paper_literal"])
def test_a_slice_is_related_to_itself_also_if_the_diagonal_does_not_say_so(variant):
    r = related("volume")
    bare = r & ~torch.eye(6, dtype=torch.bool)
    z = views(14)
    value = group_nt_xent(z, bare, PATIENT, variant=variant)
    assert torch.equal(value, group_nt_xent(z, r, PATIENT, variant=variant))


# The total


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("variant", ["all_views", "paper_literal"])
def test_the_total_is_the_weighted_sum_of_its_losses(name, variant):
    z, weights = views(15), WEIGHTS[name]
    expected = weights.nt * nt_xent(z)
    for kind in KINDS:
        loss = group_nt_xent(z, related(kind), PATIENT, variant=variant)
        expected = expected + getattr(weights, kind) * loss
    value = contrastive_loss(z, PATIENT, VOLUME, INDEX, weights, variant=variant)
    torch.testing.assert_close(value, expected)


def test_a_loss_without_weight_is_not_asked_for():
    weights = Weights(0, 0, 0.5, 0)
    assert weights.kinds == ("volume",)
    assert weights.tuple_size == 2
    value = weights.total({"volume": torch.tensor(3.0), "patient": torch.tensor(math.nan)})
    assert value.item() == 1.5


def test_codes_may_be_tensors_or_arrays():
    z, weights = views(15), WEIGHTS["acdc"]
    tensors = tuple(torch.tensor(column) for column in (PATIENT, VOLUME, INDEX))
    from_arrays = contrastive_loss(z, PATIENT, VOLUME, INDEX, weights)
    assert torch.equal(contrastive_loss(z, *tensors, weights), from_arrays)


def test_slices_of_a_group_in_use_can_be_left_out_of_the_negatives_of_nt_xent():
    z = views(16)
    weights = Weights(1, 0, 0.35, 0.2)
    value = contrastive_loss(z, PATIENT, VOLUME, INDEX, weights, nt_exclude_same_group=True)
    by_volume, by_slice = related("volume"), related("slice")
    expected = (
        nt_xent(z, drop=by_volume | by_slice)
        + 0.35 * group_nt_xent(z, by_volume, PATIENT)
        + 0.2 * group_nt_xent(z, by_slice, PATIENT)
    )
    torch.testing.assert_close(value, expected)
    plain = Weights(1, 0, 0, 0)
    assert torch.equal(
        contrastive_loss(z, PATIENT, VOLUME, INDEX, plain, nt_exclude_same_group=True), nt_xent(z)
    )


def test_in_the_reference_code_the_relations_have_no_say_and_only_the_sum_of_weights_counts():
    z = views(17)
    losses = {
        kind: group_nt_xent(z, related(kind), PATIENT, variant="reference_code", tuple_size=3)
        for kind in KINDS
    }
    assert torch.equal(losses["patient"], losses["volume"])
    assert torch.equal(losses["patient"], losses["slice"])
    totals = [
        contrastive_loss(z, PATIENT, VOLUME, INDEX, weights, variant="reference_code")
        for weights in (Weights(1, 0.3, 0.1, 0), Weights(1, 0, 0.3, 0.1), Weights(1, 0.2, 0, 0.2))
    ]
    for total in totals:
        torch.testing.assert_close(total, nt_xent(z) + 0.4 * losses["volume"])


# Weights by name


def test_the_named_weights_are_those_of_the_experiments():
    assert astuple(WEIGHTS["acdc"]) == (1, 0.05, 0.35, 0)
    assert astuple(WEIGHTS["single_volume"]) == (1, 0, 0.35, 0)
    assert astuple(WEIGHTS["single_volume_slice"]) == (1, 0, 0.10, 0.30)
    assert astuple(WEIGHTS["pretrained"]) == (0, 1, 0, 0)
    assert astuple(WEIGHTS["ntxent"]) == (1, 0, 0, 0)
    assert WEIGHTS["ntxent"].kinds == ()
    assert WEIGHTS["acdc"].kinds == ("patient", "volume")


def test_ablations_are_named_by_their_weights():
    assert astuple(WEIGHTS["patient"]) == (0, 1, 0, 0)
    assert astuple(WEIGHTS["nt+patient.05+volume.35+slice.025"]) == (1, 0.05, 0.35, 0.025)
    assert astuple(WEIGHTS["volume.125+slice.875"]) == (0, 0, 0.125, 0.875)
    presets = {"acdc", "single_volume", "single_volume_slice", "pretrained", "ntxent"}
    for name, weights in WEIGHTS.items():
        assert name in presets or weights.name == name
    # Table 4 has 15 rows besides the presets, one of them in two readings.
    assert len(WEIGHTS) == len(presets) + 16


@settings(deadline=None, max_examples=30)
@given(st.tuples(*(st.sampled_from([0.0, 1.0, 0.05, 0.5, 10.5, 1e-7, 2.0]),) * 4))
def test_different_weights_have_different_names(values):
    if any(values):
        weights = Weights(*values)
        parts = dict.fromkeys(("nt", *KINDS), 0.0)
        for part in weights.name.split("+"):
            term, value = re.fullmatch("([a-z]+?)(-?[0-9.].*)?", part).groups()
            parts[term] = float(value or 1)
        assert tuple(parts.values()) == values


def test_weights_are_found_by_name_or_passed_through():
    own = Weights(1, 0.2, 0, 0)
    assert Weights.of(own) is own
    assert Weights.of("acdc") is WEIGHTS["acdc"]
    with pytest.raises(BadInput, match=r"no weights 'adcd'; there are acdc"):
        Weights.of("adcd")


# Errors


@pytest.mark.parametrize("values", [(0, 0, 0, 0), (1, -0.1, 0, 0), (math.nan, 0, 0, 0)])
def test_weights_that_weigh_nothing_or_less_are_refused(values):
    with pytest.raises(BadInput, match="one above 0"):
        Weights(*values)


@pytest.mark.parametrize("tuple_size", [None, 0, 4])
def test_the_reference_code_says_which_tuple_size_it_needs(tuple_size):
    with pytest.raises(BadInput, match=rf"tuple_size={tuple_size} for 6 .*GroupBatches"):
        group_nt_xent(
            views(), related("volume"), PATIENT, variant="reference_code", tuple_size=tuple_size
        )
    with pytest.raises(BadInput, match="tuple_size=4 for 6"):
        contrastive_loss(
            views(), PATIENT, VOLUME, INDEX, Weights(0, 1, 1, 1), variant="reference_code"
        )


def test_misfits_are_named():
    z, r = views(), related("volume")
    with pytest.raises(BadInput, match="Variant 'supcon' is not one of all_views"):
        group_nt_xent(z, r, PATIENT, variant="supcon")
    with pytest.raises(BadInput, match="Relation 'scanner' is not one of patient"):
        relation("scanner", PATIENT, VOLUME, INDEX)
    with pytest.raises(BadInput, match=r"shape \(5, 5\).*shape \(6, 6\)"):
        group_nt_xent(z, r[:5, :5], PATIENT)
    with pytest.raises(BadInput, match=r"float32.*must be bool"):
        nt_xent(z, drop=r.float())
    with pytest.raises(BadInput, match=r"Patient has shape \(5,\)"):
        group_nt_xent(z, r, PATIENT[:5])
    for shape in ((5, 3), (0, 3), (6,)):
        with pytest.raises(BadInput, match=r"\(2B, D\)"):
            nt_xent(torch.ones(shape))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="above 0"):
            nt_xent(z, temperature=temperature)
