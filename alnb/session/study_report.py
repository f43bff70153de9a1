"""A study as text for a reader, and as tables for a spreadsheet."""

from __future__ import annotations

import math

import numpy as np

from alnb.session.statistics import Paired
from alnb.session.study import CONTRASTS, FULL, REFERENCES, Point, Study
from alnb.session.tables import aligned, csv_text, quoted, shown

SHOWN = 8
"""Points of a curve that the text shows."""


def to_table(study: Study) -> str:
    """Everything a reader needs, as text."""
    parts = [study.title, *_finals(study), *_shapes(study), *_needs(study), *_differences(study)]
    return "\n".join([*parts, "", *study.notes])


def trainings_csv(study: Study) -> str:
    """One line per arm, seed and training."""
    names = ["arm", "seed", "training", "draws", "unique", "share", "asked_share", "mean"]
    names += ["seconds", "validation", "rep_ratio", "disagreement"]
    rows = [
        [*(getattr(each, name) for name in names), *each.classes.tolist()]
        for curves in study.curves.values()
        for _, curve in sorted(curves.items())
        for each in curve
    ]
    return csv_text([*names, *quoted(study.classes[1:])], rows)


def points_csv(study: Study) -> str:
    """One line per arm and training: Dice against the share of labels, over seeds."""
    names = [name for name in Point.__slots__ if name != "classes"]
    rows = [[*(getattr(p, name) for name in names), *p.classes] for p in study.points()]
    return csv_text([*names, *quoted(study.classes[1:])], rows)


def needs_csv(study: Study) -> str:
    """One line per arm, target and seed; labels are empty where it was not reached."""
    pool = study.trained[0].pool
    rows = [
        [need.arm, need.target, need.dice, seed, labels, labels / pool]
        for need in study.needs()
        for seed, labels in need.by_seed
    ]
    return csv_text(["arm", "target", "dice", "seed", "labels", "share"], rows)


def _finals(study: Study) -> list[str]:
    head = ["arm", "seeds", "trainings", "draws", "unique", "of all", "of asked", "Dice"]
    head += ["run std", "2 boot SE", *study.classes[1:], "fit s", "disagree", "push/climb"]
    last = {arm: points[-1] for arm, points in _common(study).items()}
    return ["", "after the last training:", *aligned(head, map(_cells, last.values()))]


def _common(study: Study) -> dict[str, list[Point]]:
    """Of each arm the trainings that all of its seeds have reached."""
    found: dict[str, list[Point]] = {}
    for point in study.points():
        if point.seeds == len(study.curves[point.arm]):
            found.setdefault(point.arm, []).append(point)
    return found


def _shapes(study: Study) -> list[str]:
    """Of each arm up to `SHOWN` points, evenly spread, the first and the last among them."""
    lines = []
    for arm, points in _common(study).items():
        if arm != FULL:
            places = np.linspace(0, len(points) - 1, min(len(points), SHOWN)).round().astype(int)
            some = [points[place] for place in places]
            told = "   ".join(f"{_percent(p.share)} {shown(p.mean)}" for p in some)
            lines.append(f"{arm:>20}  {told}")
    return ["", "different labelled volumes of all, and Dice:", *lines] if lines else []


def _needs(study: Study) -> list[str]:
    needs = study.needs()
    if not needs:
        return []
    head = ["arm", "target", "Dice", "labels", "run std", "of all", "reached"]
    head += [f"saving vs {name}" for name in REFERENCES]
    pool = study.trained[0].pool
    body = [
        [
            *(n.arm, f"{n.target:.0%}", shown(n.dice), shown(n.labels, 1), shown(n.run_std, 1)),
            *(_percent(n.labels / pool), f"{n.reached} of {n.seeds}"),
            *(shown(study.saving(n.arm, name, n.target), 2) for name in REFERENCES),
        ]
        for n in needs
    ]
    title = f"labels for a share of {shown(study.full)}, the Dice of the whole pool:"
    return ["", title, *aligned(head, body)]


def _differences(study: Study) -> list[str]:
    head = ["arm", "minus", "seeds", "Dice at the end", "95 %", "won", "area", "95 %", "won"]
    body, meant = [], []
    stronger, weaker = REFERENCES
    pairs = [(arm, stronger, "") for arm in study.curves]
    pairs += [(arm, weaker, "") for arm in study.curves if arm != stronger]
    for arm, reference, what in (*pairs, *CONTRASTS):
        found = None if arm in (FULL, reference) else study.differences(arm, reference)
        if found is not None:
            cells = [cell for each in found for cell in _difference(each)]
            body.append([arm, reference, str(found[0].seeds), *cells])
            meant += [f"{arm} minus {reference}: what comes of {what}."] if what else []
    first = study.saturated()
    if first is not None:
        meant.append(
            f"From training {first + 1} on every arm has 99 % of the whole pool's Dice: "
            "differences there say little."
        )
    return ["", "seed by seed:", *aligned(head, body), *meant] if body else []


def _cells(p: Point) -> list[str]:
    counts = [p.arm, str(p.seeds), str(p.training + 1), shown(p.draws, 1), shown(p.unique, 1)]
    shares = [_percent(p.share), _percent(p.asked_share)]
    bars = map(shown, (p.mean, p.run_std, p.twice_se, *p.classes))
    others = [shown(p.seconds, 0), shown(p.disagreement, 4), shown(p.rep_ratio, 4)]
    return [*counts, *shares, *bars, *others]


def _difference(p: Paired) -> list[str]:
    if not p.seeds:
        return ["–", "–", "–"]
    return [f"{p.mean:+.4f}", f"± {shown(p.half, 4)}", f"{p.won} of {p.seeds}"]


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"
