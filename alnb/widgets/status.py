"""What the one visible state line says, and which act is the obvious next one. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alnb.errors import AlnbError
from alnb.records import Metrics, Step

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


def acts(now: Situation) -> tuple[Act, ...]:
    """The buttons of a situation; at most one is primary.

    It can be pressed, or it is the submit of a slice that waits for its first stroke.
    """
    if now.locked:
        return ()
    unfinished = now.asked and now.status in ("open", "edited")
    buttons = _slice_acts(now) if now.status in ("open", "edited") else []
    if now.pending and not unfinished:
        buttons.append(Act("next_open", "Next open slice", "Go to the next slice to label"))
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
    buttons = [
        Act("submit", verb, "Submit the strokes; untouched pixels stay open", enabled=now.ink),
        Act("mask", "Submit as mask", "Untouched pixels become background", enabled=now.ink),
    ]
    if now.proposal or now.live:
        whose = "grown from" if now.live else "of the model, corrected by"
        hint = f"Submit the proposal {whose} your strokes (Ctrl+Shift+Enter)"
        buttons.append(Act("accept", "Accept proposal", hint))
    if now.status == "open":
        buttons.append(Act("skip", "Skip", "Pass over this slice (Ctrl+Space)"))
    return buttons


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
    """What to do next, in words."""
    drawing = now.status in ("open", "edited") and (now.asked or now.ink)
    cases = (
        (now.locked, Line("Read only.")),
        (now.choosing, Line("Choosing the next slices …")),
        (
            drawing and now.status == "edited",
            Line("Changed since it was submitted: submit it again.", "warn"),
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
