"""What the presets of `alnb.session.nath` assume, because no available source says it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alnb.data.msd import CLIPS
from alnb.strategies.mutual_information import bias

if TYPE_CHECKING:
    from alnb.session.nath import Preset


@dataclass(frozen=True, slots=True)
class Assumption:
    """A constant that no available source states, its value here, and why it is that."""

    name: str
    value: str
    why: str


def assumed_table(assumed: Iterable[Assumption]) -> str:
    """Assumptions as text: name and value on a line, the reason below."""
    rows = list(assumed)
    width = max(len(each.name) for each in rows)
    lines = [f"{each.name:<{width}}  {each.value}\n{'':<{width}}    {each.why}" for each in rows]
    return "\n".join(lines)


def assumptions(p: Preset) -> tuple[Assumption, ...]:
    """Everything that is assumed in `p`."""
    told = _of_the_committee(p), _of_the_networks(p), _of_the_score(p), _of_the_protocol(p)
    return tuple(Assumption(*each) for part in told for each in part)


def _of_the_committee(p: Preset) -> list[tuple[str, str, str]]:
    return [
        (
            "bandwidth rule",
            f"{p.bandwidth}, over all weights at once"
            if p.kernel == "global"
            else f"{p.bandwidth}, {p.kernel}",
            "median of the squared distances, zeros to oneself included, over ln(M + 1): the rule "
            "of SVGD's common reference code",
        ),
        (
            "likelihood",
            f"{p.likelihood}, ε {p.epsilon:g}",
            "the words 'log of the Dice loss', read literally and with the sign of a likelihood; "
            "two other readings are log_dice and ce",
        ),
        ("scale of the likelihood", "1", "no multiplication by the number of images is stated"),
        ("prior", "flat" if not p.decay else f"Gaussian, {p.decay:g}", "none is stated"),
        ("batches of the members", "each its own", "adds diversity; not stated"),
        (
            "initial weights",
            "He, each member its own",
            "not stated; all members alike would never part",
        ),
    ]


def _of_the_networks(p: Preset) -> list[tuple[str, str, str]]:
    whole = p.patch is None
    return [
        ("U-Net widths", "-".join(map(str, p.channels)), "the usual ones; only 'U-Net' is stated"),
        (
            "U-Net depth",
            f"{len(p.channels)} levels, strides {'-'.join(map(str, p.strides)) or 'of 2'}",
            "the usual ones; not stated",
        ),
        ("U-Net blocks", f"{p.residual_units} residual units per level", "not stated"),
        ("normalisation layer", "batch", "that of alnb's other networks; not stated"),
        ("dropout", "none", "not stated; members are what differs"),
        ("optimiser", p.optimiser, "the rate is of its usual order; not stated"),
        ("learning rate schedule", p.schedule, "only one rate is stated"),
        ("gradient clip", f"{p.clip:g}", "the slope of ln of the Dice loss grows as it vanishes"),
        (
            "weights that are kept",
            "those of the last step",
            "model selection by validation is not stated, and would spend labels",
        ),
        (
            "validation",
            "measured alone" if p.validate else "not looked at",
            "what its volumes are for is not stated",
        ),
        ("grey values", _greys(p), "the window is stated, what is done with it then is not"),
        (
            "input grid",
            f"the volume stretched to {p.size}³"
            if whole
            else f"cubes of {p.patch}³, half of them around foreground",
            "'whole volume at 64³' does not say whether it is padded or stretched"
            if whole
            else "how cubes are drawn is not stated",
        ),
        (
            "prediction of a volume",
            "at once" if whole else "by cubes that overlap by half, their probabilities averaged",
            "on the grid it was learnt on, stretched back" if whole else "not stated",
        ),
        *(
            [
                (
                    "resampling",
                    f"to {p.voxel_mm:g} mm, linear after a Gaussian; labels nearest",
                    "interpolation is not stated",
                )
            ]
            if p.voxel_mm is not None
            else []
        ),
    ]


def _of_the_score(p: Preset) -> list[tuple[str, str, str]]:
    return [
        (
            "uncertainty",
            "entropy of the members' mean, background included",
            "called 'epistemic' there; the mean of entropies would be another reading",
        ),
        (
            "reduction",
            p.reduce,
            "the 3D map is summed; over which grid is not stated: the volume's own here",
        ),
        ("MI bins", str(p.bins), "with more, chance alone gives images much in common"),
        ("MI range", "percentiles 0.5 to 99.5 of each volume", "not stated"),
        ("MI mask", p.mask, "not stated; unregistered images share their field of view"),
        ("MI grid", f"{p.grid}³ after a crop to the body", "not stated; images differ in size"),
        ("MI registration", "none", "none is stated"),
        (
            "MI bias correction",
            "none",
            f"none is stated; independent images share about {bias(p.bins, p.grid**3):.2g} nats",
        ),
        ("MI over the labelled", p.aggregate, "mean, maximum or sum is not stated"),
        (
            "MI with oneself",
            "included" if p.include_self else "left out",
            "what keeps a labelled volume from being asked for ever; not stated",
        ),
        ("MI with repeats", p.repeats, "the labelled set is a list that may repeat"),
        ("hats", f"{p.hat} over the candidates", "'normalised' is all that is stated"),
        ("alpha", f"{p.alpha:g}", "both terms alike; no value is stated"),
        ("ties", "by chance", "not stated"),
    ]


def _of_the_protocol(p: Preset) -> list[tuple[str, str, str]]:
    return [
        (
            "queries",
            f"{p.trainings - 1}, one fewer than trainings",
            "the largest published share, 195 of 201, is 39 queries of 5",
        ),
        (
            "start",
            f"{p.initial} volumes by chance, a draw per seed",
            "that it is random is not stated, nor whether arms share it",
        ),
        ("split", "one draw for all seeds", "whether it changes with the seed is not stated"),
        (
            "committee of the baselines",
            "that of the method, but for the entropy arm's ensemble",
            "comparing ways of asking needs one way of learning",
        ),
        (
            "labelled in the baselines",
            "leave the pool",
            "keeping them is the proposal; baselines are as elsewhere",
        ),
        ("JSD and entropy over voxels", p.reduce, "as for the proposal"),
        (
            "max-cover",
            "greedy cover of the pool by twice as many uncertain ones, cosine of the "
            "networks' deepest features",
            "the cited method's own constants",
        ),
        (
            "test Dice",
            "3D at the volume's own size" if p.voxel_mm is None else f"3D at {p.voxel_mm:g} mm",
            "at which size it is measured is not stated; a class empty in both counts 1, in one 0",
        ),
    ]


def _greys(p: Preset) -> str:
    if p.intensity == "percentiles":
        return "percentiles 0.5 to 99.5 of each volume to 0..1"
    low, high = CLIPS[p.intensity]
    return f"clipped to {low:g}..{high:g}, then to 0..1"
