"""What the one visible state line says, and which act is the obvious next one. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alnb.errors import AlnbError
from alnb.records import LabelMap, Metrics, SliceId, Step
from alnb.session.live import LiveProposal
from alnb.session.offers import Offer
from alnb.widgets.walk import Walk

Tone = Literal["plain", "good", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence for the state line, and how it is meant."""

    text: str
    tone: Tone = "plain"

    def as_message(self) -> dict[str, str]:
        """The line as the browser reads it."""
        return {"text": self.text, "tone": self.tone}


@dataclass(frozen=True, slots=True)
class Act:
    """A button: what it does, what it says, why one would press it."""

    act: str
    label: str
    hint: str
    primary: bool = False
    enabled: bool = True

    def as_message(self) -> dict[str, Any]:
        """The button as the browser reads it."""
        return {
            "act": self.act,
            "label": self.label,
            "hint": self.hint,
            "primary": self.primary,
            "enabled": self.enabled,
        }


@dataclass(frozen=True, slots=True)
class Situation:
    """All that decides which buttons there are.

    Attributes
    ----------
    asked : whether there is a query.
    status : of the slice in view: "open", "edited", "submitted" or "skipped".
    ink, proposal : whether something is drawn on it, and whether a model's proposal is shown;
    live : whether one made from the strokes is, which then takes its place.
    pending : how many slices of the query wait, the one in view included.
    untrained : how many answers the last training has not seen; labelled: all answers.
    training, choosing : whether a training runs, or the next query is being chosen.
    left : how many items can still be asked; n : how many the next query takes.
    locked : whether nothing may be changed.
    offered : whether an interpolation is shown, which then takes the place of other proposals.
    walk : where one is in a volume; None where single slices are asked for.
    """

    asked: bool = True
    status: str = "open"
    ink: bool = False
    proposal: bool = False
    pending: int = 0
    untrained: int = 0
    labelled: int = 0
    training: bool = False
    choosing: bool = False
    left: int = 0
    n: int = 6
    locked: bool = False
    live: bool = False
    offered: bool = False
    walk: Walk | None = None


def acts(now: Situation) -> tuple[Act, ...]:
    """The buttons of a situation; at most one is primary.

    It can be pressed, or it is the submit of a slice that waits for its first stroke.
    """
    if now.locked:
        return ()
    unfinished = now.asked and now.status in ("open", "edited")
    buttons = _slice_acts(now) if now.status in ("open", "edited") else []
    if now.pending and not unfinished:
        words = "Next open slice" if now.walk is None else "Go on"
        buttons.append(Act("next_open", words, "Go to the next slice to label"))
    ready = not now.training and not now.choosing
    if now.labelled:
        train = Act("train", "Train", "Train on everything submitted", enabled=ready)
        buttons.append(train)
    if not now.pending or not now.asked:
        # the next query need not wait for a training: that is what drawing on means
        buttons.append(_ask(now, not now.choosing))
    primary = _primary(now, buttons)
    return tuple(
        Act(b.act, b.label, b.hint, primary=b is primary, enabled=b.enabled) for b in buttons
    )


def _slice_acts(now: Situation) -> list[Act]:
    verb = "Submit again" if now.status == "edited" else "Submit"
    mask = Act("mask", "Submit as mask", "Untouched pixels become background", enabled=now.ink)
    if now.walk is not None and not now.ink:
        mask = Act("mask", "Nothing here", "None of the classes is on this slice: background only")
    submit = Act("submit", verb, "Submit the strokes; untouched pixels stay open", enabled=now.ink)
    buttons = [submit, mask]
    if now.offered:
        hint = "Submit what was interpolated, corrected by your strokes (Ctrl+Shift+Enter)"
        buttons.append(Act("accept", "Accept interpolation", hint))
    elif now.proposal or now.live:
        whose = "grown from" if now.live else "of the model, corrected by"
        hint = f"Submit the proposal {whose} your strokes (Ctrl+Shift+Enter)"
        buttons.append(Act("accept", "Accept proposal", hint))
    if now.status == "open":
        buttons.append(Act("skip", "Skip", "Pass over this slice (Ctrl+Space)"))
    return buttons


def track(now: Situation) -> dict[str, Any] | None:
    """The track of a volume as the browser reads it; None where single slices are asked for."""
    walk = now.walk
    if walk is None:
        return None
    return {
        "volume": walk.volume,
        "here": walk.here,
        "cells": list(walk.cells),
        "text": walk.summary(),
        "offering": walk.offering,
        "acts": [] if now.locked else [act.as_message() for act in _volume_acts(walk)],
    }


def _volume_acts(walk: Walk) -> list[Act]:
    reach, back = walk.within_reach, walk.takeable_back
    buttons = []
    if back:
        words = f"Take back {count(len(back), 'interpolated slice')}: they are offered again"
        buttons.append(Act("withdraw", f"Take back {len(back)}", words))
    if reach:
        which = "in this gap" if walk.here in reach else "in this volume"
        words = f"Accept all interpolated slices {which} (Shift+I); each can be undone by itself"
        buttons.append(Act("accept_all", f"Accept all {len(reach)}", words))
    if walk.open:
        words = "The middle, the ends, then the middle of the largest gap (N)"
        buttons.append(Act("worth", "Next worth labelling", words))
        words = "Leave the other slices of this volume unlabelled and go on (Shift+D)"
        buttons.append(Act("finish", "Done with volume", words, enabled=walk.number > 0))
    if walk.finished:
        words = "Give back the slices that were left when this volume was done"
        buttons.append(Act("reopen", "Reopen volume", words))
    return buttons


def badge(
    proposal: tuple[SliceId, LabelMap, str] | None, grown: LiveProposal | None, offer: Offer | None
) -> str:
    """Names what is proposed for the slice in view; one proposal is seen at a time."""
    if offer is not None:
        low, high = offer.between
        return f"between slices {low + 1} and {high + 1}"
    if grown is not None:
        return grown.badge
    return "" if proposal is None else proposal[2]


def _ask(now: Situation, ready: bool) -> Act:
    n = min(now.n, now.left)
    label = "Choosing …" if now.choosing else f"Next query ({n})" if now.asked else f"Ask for {n}"
    hint = "Let the strategy choose the next slices" if n else "Every slice was asked"
    return Act("ask", label, hint, enabled=ready and n > 0)


def _primary(now: Situation, buttons: list[Act]) -> Act | None:
    """The obvious next act: finish this slice, go on, train, ask. In this order."""
    # accepting a proposal is a choice of its own, never what the enter key does by itself
    wish = ["submit"] if now.ink else []
    wish += ["next_open"] if now.pending else []
    wish += ["train"] if now.untrained and not now.pending else []
    wish += ["ask"]
    ready = {button.act: button for button in buttons if button.enabled}
    waiting = [button for button in buttons if button.act == "submit" and now.asked]
    return next((ready[name] for name in wish if name in ready), next(iter(waiting), None))


def hint(now: Situation) -> Line:
    """What to do next, in words; in a volume, where one is before that."""
    line = _next(now)
    return line if now.walk is None else Line(f"{now.walk.sentence()} {line.text}", line.tone)


def _next(now: Situation) -> Line:
    drawing = now.status in ("open", "edited") and (now.asked or now.ink)
    cases = (
        (now.locked, Line("Read only.")),
        (now.choosing, Line("Choosing the next slices …")),
        (
            drawing and now.status == "edited",
            Line("Changed since it was submitted: submit it again.", "warn"),
        ),
        (
            drawing and now.offered,
            Line("Accept the interpolation, or correct it."),
        ),
        (
            drawing and now.live,
            Line(
                "Draw where the proposal is wrong. Ctrl+Shift+Enter accepts it, Ctrl+Enter "
                "submits the strokes alone."
            ),
        ),
        (drawing and now.ink, Line("Ctrl+Enter submits and goes on.")),
        (
            drawing and now.proposal,
            Line("Accept the model's proposal, or draw where it is wrong."),
        ),
        (
            drawing and now.walk is not None,
            Line("Draw the structures and submit, or say that nothing is here."),
        ),
        (drawing, Line("Draw a stroke on each structure, background too, then submit.")),
        (not now.asked, Line("Ask for the first slices to begin.")),
        (now.pending > 0, Line(f"{count(now.pending, 'slice')} of the query to go.")),
        (now.training, Line("Training. Draw on, or ask for the next slices meanwhile.")),
        (now.untrained > 0, Line("The query is done. Train on the new answers.", "good")),
    )
    last = Line("The query is done. Ask for the next slices.", "good")
    return next((line for holds, line in cases if holds), last)


def greeting(labelled: int, problems: Sequence[str]) -> Line | None:
    """The first line of a view: what is amiss, or that earlier work is there; else None."""
    if problems:
        return Line(problems[-1], "warn")
    if labelled:
        return Line(f"Session continued: {count(labelled, 'slice')} labelled.", "good")
    return None


def training_text(step: Step | None) -> str:
    """Progress of a training in a few words."""
    if step is None:
        return "Training starts …"
    if step.step >= step.total:
        return "Measuring the new model …"
    text = f"Training step {step.step}/{step.total}"
    if math.isfinite(step.loss):
        text += f", loss {step.loss:.2f}"
    if math.isfinite(step.seconds_left):
        text += f", {duration(step.seconds_left)} left"
    return text


def metrics_text(metrics: Metrics) -> str:
    """One measurement in a few words."""
    mean = "undefined" if metrics.mean is None else f"{metrics.mean:.2f}"
    where = {
        "val": "on the validation patients",
        "test": "on the test patients",
        "new": "on what was drawn since",
    }.get(metrics.split, f"on {metrics.split}")
    return f"Dice {mean} {where}."


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 90 else f"{whole / 60:.0f} min"


def sentence(error: BaseException) -> Line:
    """An exception in words: its own if it is one of alnb's, else short and without a trace."""
    text = str(error) or type(error).__name__
    if not isinstance(error, AlnbError):
        text = f"Something failed: {text.splitlines()[0]}. The log has the details. Ink is safe."
    return Line(text, "error")


def chips(
    queue: Sequence[tuple[dict[str, Any], str]], here: dict[str, Any]
) -> list[dict[str, Any]]:
    """The queue strip: each slice, its status, and whether it is in view."""
    return [
        {
            "slice": slice_,
            "status": "open" if status == "edited" else status,
            "here": slice_ == here,
        }
        for slice_, status in queue
    ]


def count(number: int, word: str) -> str:
    """A number of things, in the singular for one."""
    return f"{number} {word}{'' if number == 1 else 's'}"
