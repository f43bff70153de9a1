# ruff: noqa: T201 - a command line prints
"""What metric learning changes: recall@1 and cover radius, by loss, with spread over seeds.

``python benchmarks/embeddings.py [--data FOLDER] [--seeds 3] [--weights ntxent acdc]`` trains the
encoder with the default recipe on all slices of a cohort (the phantom if no folder is named) and
prints a Markdown table: mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from alnb.data.load import load
from alnb.data.phantom import phantom
from alnb.embed.features import PixelFeatures
from alnb.embed.quality import Quality, quality
from alnb.embed.train import EncoderRecipe, train_encoder
from alnb.rng import stream


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", nargs="+", default=["ntxent", "acdc"])
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    options = parser.parse_args()
    cohort = load(options.data) if options.data else phantom()
    pool = cohort.pool("slice")
    images = [cohort.slice_image(slice_id) for slice_id in pool.ids]
    index = np.array([slice_id.index for slice_id in pool.ids])
    print(f"{cohort.name}: {len(pool)} slices, {len(set(pool.patient))} patients\n")

    def measured(features: np.ndarray) -> Quality:
        return quality(features, pool.patient, pool.volume)

    rows = {"pixels": [measured(PixelFeatures()(images))]}
    seconds: dict[str, list[float]] = {}
    for weights in options.weights:
        recipe = EncoderRecipe(weights, threads=1)
        if options.steps:
            recipe = EncoderRecipe(weights, threads=1, steps=options.steps)
        for seed in range(options.seeds):
            start = time.process_time()
            encoder, _ = train_encoder(
                images, pool.patient, pool.volume, index, recipe=recipe, rng=stream(seed, weights)
            )
            seconds.setdefault(weights, []).append(time.process_time() - start)
            rows.setdefault(weights, []).append(measured(encoder(images)))
    first = rows["pixels"][0]
    heads = [f"radius at {budget}" for budget in first.budgets]
    print(
        "| features | volume | patient | patient in another volume | " + " | ".join(heads), end=""
    )
    print(" | training, CPU s |\n|" + "---|" * (5 + len(heads)))
    for name, found in rows.items():
        cells = [
            spread([getattr(q, kind).recall for q in found])
            for kind in ("volume", "patient", "across")
        ]
        cells += [spread([q.radii[place] for q in found]) for place in range(len(first.budgets))]
        cells.append(spread(seconds[name], 0) if name in seconds else "")
        print(f"| {name} | " + " | ".join(cells) + " |")
    chance = [f"{getattr(first, kind).chance:.3f}" for kind in ("volume", "patient", "across")]
    print("| chance | " + " | ".join(chance) + " |" + " |" * (len(heads) - 3))


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and, of several values, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
