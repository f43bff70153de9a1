"""Contrastive losses that know which slices belong together: NT-Xent and the group loss.

Two augmented views of each of B slices are embedded; views attract when their slices are related
and repel when they are not. Relations come from metadata alone: same patient, same volume,
adjacent slices.

Sources: Vepa et al., NeurIPS 2024, arXiv 2411.15763 (group loss, Eq. 4; total, Eq. 5); Chen et
al., ICML 2020, arXiv 2002.05709 (NT-Xent); Khosla et al., NeurIPS 2020, arXiv 2004.11362 (mean over
several positives outside the logarithm).

Rows of z (2B, D): 0..B-1 are the first views of the B slices, B..2B-1 the second views in the same
order. All arithmetic from the cosines on is float32 (float64 for float64 input), whatever the
network's type and also under autocast, because exp of a bfloat16 logit has two digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alnb.errors import BadInput
from alnb.records import Rows

Kind = Literal["patient", "volume", "slice"]
"""A relation between slices: same patient, same volume, or neighbours in a volume."""

Variant = Literal["all_views", "paper_literal", "reference_code"]
"""A reading of the group loss; see `group_nt_xent`."""


def relation(
    kind: Kind, patient: Tensor | Rows, volume: Tensor | Rows, index: Tensor | Rows
) -> Tensor:
    """(B, B) bool, symmetric with a true diagonal: which slices belong together.

    "patient": the same patient; "volume": the same volume; "slice": the same volume and indices at
    most 1 apart, which is not transitive. patient, volume, index : (B,) integer codes and the
    place along the axis. A volume belongs to a patient: equal volume codes of two patients are two
    volumes. BadInput for another kind.
    """
    patient, volume, index = (torch.as_tensor(codes) for codes in (patient, volume, index))
    together = patient[:, None] == patient
    if kind == "patient":
        return together
    together = together & (volume[:, None] == volume)
    if kind == "volume":
        return together
    if kind == "slice":
        return together & ((index[:, None] - index).abs() <= 1)
    raise BadInput(f"Relation {kind!r} is not one of {', '.join(get_args(Kind))}.")


def similarity(z: Tensor) -> Tensor:
    """(2B, 2B) cosines of all pairs of views; a zero vector has cosine 0 with everything."""
    if z.ndim != 2 or not len(z) or len(z) % 2:
        raise BadInput(
            f"Views have shape {tuple(z.shape)}; they must be (2B, D), all first views and then "
            "all second views."
        )
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        unit = z / torch.where(length > 0, length, 1.0)
        return unit @ unit.T


def nt_xent(z: Tensor, *, temperature: float = 0.5, drop: Tensor | None = None) -> Tensor:
    """-1/2B Σ_i [s_ii⁺/τ - ln Σ_{k≠i} exp(s_ik/τ)], i⁺ being the other view of i's slice.

    z : (2B, D) -> scalar. drop : (B, B) bool, slices whose views are no negatives of each other,
    such as those of one volume; a slice's own other view stays. Source: Chen et al., 2020.
    """
    return _nt_xent(_logits(z, temperature), drop)


def group_nt_xent(
    z: Tensor,
    related: Tensor,
    patient: Tensor | Rows,
    *,
    temperature: float = 0.5,
    variant: Variant = "all_views",
    tuple_size: int | None = None,
) -> Tensor:
    """Draw together the views of related slices and push away those of other patients.

    Per anchor view i and positive j, ``-s_ij/τ + ln Σ_k exp(s_ik/τ)`` over all views k ≠ i that
    are related to i or show another patient. Views of the same patient that are not related
    neither attract nor repel, so that several group losses can be added without pulling against
    each other (Vepa et al., 2024, Eq. 4).

    z : (2B, D). related : (B, B) bool, as `relation` gives it. patient : (B,) codes. -> scalar.

    variant :
        "all_views": every view is an anchor, all other views of related slices are its positives,
        and the mean is over anchors of the mean over positives (Khosla et al., 2020). With distinct
        patients and nothing related it is NT-Xent exactly.
        "paper_literal": anchors are first views and positives second views; Σ / (B G) with G = B
        over the number of groups in the batch, a group being a connected component of `related`.
        "reference_code": what the authors' published program optimises, for comparison: every
        other view is a positive, one at a time against the views of other tuples, so that
        `related` and `patient` have no say. It needs `tuple_size`, the number of consecutive
        slices that were drawn as one tuple; the other variants ignore it.
    """
    logits = _logits(z, temperature)
    return _group(logits, related, _codes(patient, z.device), variant, tuple_size)


@dataclass(frozen=True, slots=True)
class Weights:
    """The λ of Vepa et al., Eq. 5: how much each loss counts. Each at least 0, one of them more.

    nt : NT-Xent. patient, volume, slice : the group loss of that relation.
    """

    nt: float = 1.0
    patient: float = 0.0
    volume: float = 0.0
    slice: float = 0.0

    def __post_init__(self) -> None:
        values = tuple(self._by_term().values())
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise BadInput(f"Weights are {values}; each must be 0 or more, and one above 0.")

    @classmethod
    def of(cls, weights: str | Weights) -> Weights:
        """The weights themselves, or those that `WEIGHTS` has under this name."""
        if isinstance(weights, Weights):
            return weights
        if weights not in WEIGHTS:
            raise BadInput(f"There are no weights {weights!r}; there are {', '.join(WEIGHTS)}.")
        return WEIGHTS[weights]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The relations whose group loss counts."""
        weight = self._by_term()
        return tuple(kind for kind in get_args(Kind) if weight[kind] > 0)

    @property
    def tuple_size(self) -> int:
        """Slices that a sampler draws together: an anchor and a mate for each kind."""
        return 1 + len(self.kinds)

    @property
    def name(self) -> str:
        """Every weight above 0, 1 being understood: "nt+patient.05+volume.35"."""
        return "+".join(
            term if value == 1 else term + str(float(value)).removeprefix("0")
            for term, value in self._by_term().items()
            if value > 0
        )

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Σ weight · loss over "nt" and the kinds; only those with a weight above 0 are read."""
        weight = {term: value for term, value in self._by_term().items() if value > 0}
        return torch.stack([value * terms[term] for term, value in weight.items()]).sum()

    def _by_term(self) -> dict[str, float]:
        return {
            "nt": self.nt,
            "patient": self.patient,
            "volume": self.volume,
            "slice": self.slice,
        }


_ABLATIONS = (
    Weights(0, 1, 0, 0),
    Weights(0, 0, 1, 0),
    Weights(0, 0, 0, 1),
    Weights(1, 0.35, 0, 0),
    Weights(1, 0, 0, 0.35),
    Weights(0, 0.125, 0.875, 0),
    Weights(0, 0.5, 0.5, 0),
    Weights(0, 0, 0.5, 0.5),
    Weights(0, 0, 0.125, 0.875),
    Weights(0, 0, 0.875, 0.125),  # how the authors' notebooks read the row above
    Weights(1, 0.10, 0.35, 0),
    Weights(1, 0.117, 0.233, 0),
    Weights(0, 0.33, 0.33, 0.33),
    Weights(0, 0.05, 0.25, 0.70),
    Weights(1, 0.10, 0.20, 0.05),
    Weights(1, 0.05, 0.35, 0.025),
)

WEIGHTS: dict[str, Weights] = {
    "acdc": Weights(1, 0.05, 0.35, 0),
    "single_volume": Weights(1, 0, 0.35, 0),
    "single_volume_slice": Weights(1, 0, 0.10, 0.30),
    "pretrained": Weights(0, 1, 0, 0),
    "ntxent": Weights(1, 0, 0, 0),
    **{weights.name: weights for weights in _ABLATIONS},
}
"""Weights by name: those of the experiments of Vepa et al., then the ablations of their Table 4.

"acdc" is for several volumes per patient, "single_volume" and "single_volume_slice" for one,
"pretrained" for a segmentation network that was pretrained, "ntxent" is plain SimCLR.
"""


def contrastive_loss(
    z: Tensor,
    patient: Tensor | Rows,
    volume: Tensor | Rows,
    index: Tensor | Rows,
    weights: Weights,
    *,
    temperature: float = 0.5,
    variant: Variant = "all_views",
    nt_exclude_same_group: bool = False,
) -> Tensor:
    """λ0 L_NT + λ1 L_patient + λ2 L_volume + λ3 L_slice (Vepa et al., 2024, Eq. 5) -> scalar.

    z : (2B, D). patient, volume, index : (B,) as for `relation`. variant : see `group_nt_xent`;
    "reference_code" expects the B slices in tuples of `weights.tuple_size`.

    NT-Xent counts slices that belong together as negatives of each other, against the group terms,
    as the paper does; with `nt_exclude_same_group` it leaves out those of any relation in use.
    """
    logits = _logits(z, temperature)
    codes = [_codes(values, z.device) for values in (patient, volume, index)]
    related = {kind: relation(kind, *codes) for kind in weights.kinds}
    terms: dict[str, Tensor] = {
        kind: _group(logits, together, codes[0], variant, weights.tuple_size)
        for kind, together in related.items()
    }
    if weights.nt > 0:
        drop = None
        if nt_exclude_same_group and related:
            drop = torch.stack(tuple(related.values())).any(0)
        terms["nt"] = _nt_xent(logits, drop)
    return weights.total(terms)


def _codes(values: Tensor | Rows, device: torch.device) -> Tensor:
    return torch.as_tensor(values, device=device)


def _logits(z: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise BadInput(f"Temperature is {temperature}; it must be above 0.")
    return similarity(z) / temperature


def _nt_xent(logits: Tensor, drop: Tensor | None) -> Tensor:
    same = torch.eye(len(logits) // 2, dtype=torch.bool, device=logits.device)
    if drop is None:
        kept = torch.ones_like(logits, dtype=torch.bool)
    else:
        _check_square("drop", drop, logits)
        kept = (~drop.to(logits.device) | same).repeat(2, 2)
    return _mean_over_positives(logits, same.repeat(2, 2), kept)


def _group(
    logits: Tensor, related: Tensor, patient: Tensor, variant: Variant, tuple_size: int | None
) -> Tensor:
    _check_square("related", related, logits)
    slices = len(related)
    if patient.shape != (slices,):
        raise BadInput(f"Patient has shape {tuple(patient.shape)}; {slices} slices need one each.")
    if variant == "reference_code":
        return _reference_code(logits, _checked_tuple_size(tuple_size, slices))
    same = torch.eye(slices, dtype=torch.bool, device=logits.device)
    related = related.to(logits.device) | same
    kept = (related | (patient[:, None] != patient)).repeat(2, 2)
    if variant == "all_views":
        return _mean_over_positives(logits, related.repeat(2, 2), kept)
    if variant == "paper_literal":
        across = _log_share(logits, kept)[:slices, slices:]
        return -torch.where(related, across, 0.0).sum() * _components(related) / slices**2
    raise BadInput(f"Variant {variant!r} is not one of {', '.join(get_args(Variant))}.")


def _mean_over_positives(logits: Tensor, positive: Tensor, kept: Tensor) -> Tensor:
    """Mean over anchors of the mean over their positives of -ln softmax among the kept views."""
    positive = positive & ~_own(logits)
    chosen = torch.where(positive, _log_share(logits, kept), 0.0)
    return -(chosen.sum(1) / positive.sum(1)).mean()


def _log_share(logits: Tensor, kept: Tensor) -> Tensor:
    """s_ij/τ - ln Σ_k exp(s_ik/τ) over the kept k ≠ i. Views that are not kept get gradient 0."""
    left_out = ~kept | _own(logits)
    return logits - logits.masked_fill(left_out, -torch.inf).logsumexp(1, keepdim=True)


def _own(logits: Tensor) -> Tensor:
    return torch.eye(len(logits), dtype=torch.bool, device=logits.device)


def _components(related: Tensor) -> Tensor:
    """How many connected components a symmetric relation (B, B) with a true diagonal has."""
    reach = related
    for _ in range(len(related).bit_length()):
        step = reach.float()
        reach = step @ step > 0
    # Each row adds its share of its own component.
    return (1.0 / reach.sum(1)).sum()


def _reference_code(logits: Tensor, tuple_size: int) -> Tensor:
    """Mean over i and j ≠ i of -ln[e_ij / (e_ij + Σ e_ik)], e = exp(s/τ), k in other tuples."""
    views = len(logits)
    which = torch.arange(views // 2, device=logits.device).repeat(2) // tuple_size
    same_tuple = which[:, None] == which
    others = logits.masked_fill(same_tuple, -torch.inf).logsumexp(1, keepdim=True)
    pairs = torch.nn.functional.softplus(others - logits)
    return pairs.masked_fill(_own(logits), 0.0).sum() / (views * (views - 1))


def _checked_tuple_size(tuple_size: int | None, slices: int) -> int:
    if tuple_size is None or tuple_size < 1 or slices % tuple_size:
        raise BadInput(
            f"Variant 'reference_code' got tuple_size={tuple_size} for {slices} slices. It must "
            "say of how many consecutive slices each tuple consists, and divide their number: draw "
            "the batch by GroupBatches for the same kinds and pass its tuple_size."
        )
    return tuple_size


def _check_square(what: str, matrix: Tensor, logits: Tensor) -> None:
    slices = len(logits) // 2
    if matrix.shape != (slices, slices) or matrix.dtype != torch.bool:
        raise BadInput(
            f"{what} is {matrix.dtype} of shape {tuple(matrix.shape)}; for {slices} slices in two "
            f"views each it must be bool of shape {(slices, slices)}."
        )
