"""Every strategy that has a name: where it comes from, what it needs, what a query costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One named strategy.

    Attributes
    ----------
    name : at a command line, in `Session.open` and in the view.
    where : "module:attribute", a class or function that needs no argument.
    asks : what it asks for, in a few words.
    source : paper or practice it comes from.
    needs : what must be there besides the images.
    cost : of one query. N rows in the pool, K candidates, n asked, M members, C classes, D
        features, L labelled.
    start : what chooses while what it needs is not there.
    """

    name: str
    where: str
    asks: str
    source: str
    needs: str
    cost: str
    start: str = "native"


_ROWS = (
    ("random", "random_sampling:RandomSampling", "chance", "-", "nothing", "K"),
    (
        "stratified",
        "random_sampling:StratifiedRandom",
        "chance, spread over volumes",
        "-",
        "nothing",
        "K",
    ),
    (
        "strided",
        "strided:Strided",
        "evenly spaced slices, volume by volume",
        "Burmeister et al. 2022",
        "nothing",
        "K",
    ),
    (
        "foreground",
        "presets:foreground",
        "slices that hold structures, or their borders",
        "nnActive 2025",
        "a model; references in an experiment",
        "K forward",
        "strided",
    ),
    (
        "coreset",
        "coreset:CoreSet",
        "the slice farthest from all labelled ones",
        "Gonzalez 1985; Sener and Savarese 2018",
        "features",
        "at most n N D, far less as a rule",
    ),
    (
        "vepa2024",
        "coreset:vepa2024",
        "the same from a random start, on features of an encoder learnt by groups",
        "Vepa et al. 2024",
        "features",
        "as coreset",
    ),
    (
        "coreset_pixels",
        "coreset:coreset_pixels",
        "the same on whole images of 256 x 256",
        "Vepa et al. 2024, baseline",
        "nothing",
        "as coreset, D = 65536",
    ),
    (
        "coreset_features",
        "coreset:coreset_features",
        "the same on the bottleneck of the network in training",
        "Sener and Savarese 2018",
        "a model",
        "K forward, and as coreset",
        "strided",
    ),
    (
        "coreset_frozen",
        "coreset:coreset_frozen",
        "the same on features of length 1",
        "MedCAL-Bench 2025",
        "features of a pretrained encoder",
        "as coreset",
    ),
    (
        "entropy",
        "presets:by_entropy",
        "the largest mean pixel entropy",
        "Shannon 1948",
        "a model",
        "M K forward",
        "strided",
    ),
    (
        "margin",
        "presets:by_margin",
        "the smallest lead of the likeliest class",
        "Settles 2009",
        "a model",
        "M K forward",
        "strided",
    ),
    (
        "least_confidence",
        "presets:by_least_confidence",
        "the least probable likeliest class",
        "Settles 2009",
        "a model",
        "M K forward",
        "strided",
    ),
    (
        "bald",
        "presets:by_bald",
        "what the members disagree on",
        "Houlsby et al. 2011; Gal et al. 2017",
        "a committee",
        "M K forward",
        "strided",
    ),
    (
        "variation_ratio",
        "presets:by_variation_ratio",
        "where members vote against the majority",
        "Beluch et al. 2018",
        "a committee",
        "M K forward",
        "strided",
    ),
    (
        "class_variance",
        "presets:by_class_variance",
        "where members' probabilities vary",
        "-",
        "a committee",
        "M K forward",
        "strided",
    ),
    (
        "dice_disagreement",
        "presets:by_dice_disagreement",
        "slices whose members' masks overlap least",
        "-",
        "a committee",
        "M K forward",
        "strided",
    ),
    (
        "power",
        "presets:by_power",
        "entropy, drawn in proportion",
        "Kirsch et al. 2023",
        "a model",
        "M K forward + K log K",
        "strided",
    ),
    (
        "softrank",
        "presets:by_softrank",
        "the ranks of entropy, drawn",
        "Kirsch et al. 2023",
        "a model",
        "M K forward + K log K",
        "strided",
    ),
    (
        "softmax",
        "presets:by_softmax",
        "exp of entropy, drawn",
        "Kirsch et al. 2023",
        "a model",
        "M K forward + K log K",
        "strided",
    ),
    (
        "stochastic_batches",
        "presets:by_stochastic_batches",
        "the best of random groups, by mean entropy",
        "Gaillochet et al. 2023",
        "a model",
        "M K forward + K log K",
        "strided",
    ),
    (
        "claspe",
        "presets:by_claspe",
        "entropy shared out among the classes, ever more strictly",
        "ClaSP PE, 2026",
        "a model, better a committee",
        "M K forward + C K log K",
        "strided",
    ),
    (
        "selective",
        "presets:by_selective_entropy",
        "entropy of target and boundary pixels",
        "Ma et al. 2024",
        "a model",
        "M K forward",
        "strided",
    ),
    (
        "suggestive",
        "presets:by_suggestive",
        "uncertain slices that cover the pool",
        "Yang et al. 2017",
        "a committee",
        "M K forward + features + n K D",
        "strided",
    ),
    (
        "entropy_minus_mi",
        "presets:by_entropy_minus_mi",
        "uncertain images that share little with the labelled ones",
        "Nath et al. 2021",
        "a committee",
        "M K forward + K joint histograms per new label",
        "strided",
    ),
    (
        "usim_like",
        "presets:by_usim",
        "uncertain and unlike what is known",
        "after Föllmer et al. 2024, not their method",
        "a model",
        "M K forward + features + (n + L) K D",
        "strided",
    ),
    (
        "per_second",
        "presets:by_second",
        "entropy per predicted second",
        "Settles et al. 2008",
        "a model",
        "2 M K forward",
        "strided",
    ),
    (
        "typiclust",
        "typiclust:TypiClust",
        "the most typical slice of each uncovered cluster",
        "Hacohen et al. 2022",
        "features",
        "k-means k N D",
    ),
    (
        "probcover",
        "probcover:ProbCover",
        "the slice whose ball covers most",
        "Yehuda et al. 2022",
        "features",
        "2 N N D, blocked",
    ),
    (
        "badge",
        "presets:by_badge",
        "large and diverse gradients of the last layer",
        "Ash et al. 2020",
        "a model with gradients",
        "K forward + n K C F",
        "strided",
    ),
    (
        "kmeans_bald",
        "presets:by_kmeans_bald",
        "diverse slices among those of largest BALD",
        "nnActive 2025",
        "a committee",
        "M K forward + n n D",
        "strided",
    ),
    (
        "coregcn",
        "presets:by_coregcn",
        "k-center on a graph network's view of labelled and not",
        "Caramalau et al. 2021",
        "a model",
        "N forward + 200 steps of N D",
        "strided",
    ),
    (
        "vaal",
        "presets:by_vaal",
        "what a discriminator finds unlike the labelled",
        "Sinha et al. 2019",
        "labels",
        "trains a VAE",
        "strided",
    ),
    (
        "alps",
        "alps:ALPS",
        "the slice nearest to each k-means centre",
        "COLosSAL 2023",
        "features",
        "k-means n N D",
    ),
    (
        "calr",
        "alps:CALR",
        "the densest slice of each cluster",
        "Jin et al. 2022",
        "features",
        "Ward, 5000 rows at most",
    ),
)

CATALOGUE: tuple[Entry, ...] = tuple(
    Entry(name, f"alnb.strategies.{where}", *rest) for name, where, *rest in _ROWS
)


def table(entries: Iterable[Entry] = CATALOGUE) -> str:
    """The catalogue as a Markdown table, as README shows it and ``alnb strategies`` prints it."""
    lines = ["| name | asks for | source | needs | cost of a query | cold start |"]
    lines.append("|---|---|---|---|---|---|")
    for e in entries:
        cells = (f"`{e.name}`", e.asks, e.source, e.needs, e.cost, e.start)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
