"""The loop around the drawing: train, stop, ask for the next slices, and tell what came of it."""

from __future__ import annotations

from alnb.records import Round, VolumeId
from alnb.session.session import Session
from alnb.store.events import Entry, Evaluated, FitFailed, FitFinished, FitStarted, RoundOpened
from alnb.widgets import status
from alnb.widgets.display import Display
from alnb.widgets.status import Line
from alnb.widgets.strategies import chosen_line
from alnb.widgets.worker import Worker


class Flow:
    """Begins trainings and queries on the worker, so that no callback waits for one.

    `heard` and `watched` are for the session to call; like the rest, from any thread.
    """

    def __init__(self, session: Session, display: Display, worker: Worker) -> None:
        self._session = session
        self._display = display
        self._worker = worker
        self._chain = False
        self._wanted = ""

    # ---- a person's acts ----

    def train(self) -> None:
        """Train on everything submitted."""
        self._worker.soon("train", self._train)

    def train_then_ask(self) -> None:
        """Train on new answers, if there are any, and ask for the next query when that is done."""
        if self._display.situation().untrained:
            self._chain = True
            self.train()

    def stop(self) -> None:
        """Stop the training that runs; no query follows by itself."""
        self._chain = False
        if self._session.job is not None:
            self._session.job.stop()
        self._display.refresh()

    def ask(self) -> None:
        """A person asks, so the automatic round need not ask again when its training ends."""
        self._chain = False
        self._begin_asking()

    def choose(self, strategy: str) -> None:
        """Let the strategy of that name choose from the next query on; the last wish counts."""
        self._wanted = strategy
        self._worker.soon("strategy", self._choose)

    def _choose(self) -> None:
        session, name = self._session, self._wanted
        try:
            session.choose_strategy(name)
        finally:
            self._display.refresh()
        self._display.say(chosen_line(name, trained=session.last_fit is not None))

    def _train(self) -> None:
        job = self._session.job
        if job is not None and job.running:
            return
        self._session.fit_in_background()
        self._display.refresh()

    def _begin_asking(self) -> None:
        self._display.choosing = True
        self._display.refresh()
        self._worker.soon("ask", self._ask)

    def _ask(self) -> None:
        display = self._display
        try:
            now = display.situation()
            opened = self._session.ask(min(now.n, now.left))
        finally:
            display.choosing = False
            display.refresh()
        line = display.line = _announcement(opened)
        if self._session.pending:
            display.begin()
            display.say(line)

    # ---- from the session ----

    def heard(self, entry: Entry) -> None:
        """Follow what the journal says of queries and trainings."""
        event = entry.event
        match event:
            case RoundOpened():
                self._worker.soon("round", self._round)
            case FitStarted():
                self._worker.soon("refresh", self._display.refresh)
            case FitFinished():
                self._worker.soon("fitted", lambda: self._fitted(event))
            case FitFailed():
                self._worker.soon("failed", lambda: self._failed(event))
            case Evaluated():
                self._worker.soon("measured", lambda: self._measured(event))

    def watched(self, what: str) -> None:
        """Notice what a training will take, and its end."""
        job = self._session.job
        if what == "progress" and job is not None:
            if not job.running:
                self._worker.soon("ended", self._ended)
            elif job.progress is None and self._session.trainer.forecast:
                self._worker.soon("forecast", self._foretold)
        elif what == "strategies":
            self._worker.soon("refresh", self._display.refresh)

    def _round(self) -> None:
        """A query came, perhaps from a cell: go there unless something is open under the pen."""
        display = self._display
        if display.choosing:
            return
        pending, opened = self._session.pending, self._session.round
        if pending and display.here not in pending:
            display.begin()
        if opened is not None and opened.note and pending:
            display.say(_announcement(opened))
        else:
            display.refresh()

    def _fitted(self, event: FitFinished) -> None:
        fit = self._session.state.fits[event.fit]
        report = event.report
        text = (
            f"Trained on {status.count(len(fit.taught), 'slice')} in "
            f"{status.duration(report.seconds)}"
            f"{' (stopped early)' if report.stopped else ''}. The outline is its proposal."
        )
        self._display.say(Line(" ".join((text, *report.notes)), "good"))

    def _measured(self, event: Evaluated) -> None:
        line = self._display.line
        text = line.text if line is not None else "Model measured."
        self._display.say(Line(f"{text} {status.metrics_text(event.metrics)}", "good"))

    def _failed(self, event: FitFailed) -> None:
        self._chain = False
        self._display.say(Line(event.error, "error"))

    def _foretold(self) -> None:
        """Say what a training will take; it stands until the person does something else."""
        job = self._session.job
        if job is not None and job.running:
            self._display.say(Line(self._session.trainer.forecast))

    def _ended(self) -> None:
        self._display.propose()
        self._display.refresh()
        job = self._session.job
        if self._chain and job is not None and job.error is None:
            self._chain = False
            self._begin_asking()


def _announcement(opened: Round) -> Line:
    """How much a query brings, and why another strategy than asked for chose it."""
    volumes = sum(isinstance(item, VolumeId) for item in opened.query)
    what = status.count(volumes, "volume") if volumes else str(len(opened.query))
    text = f"Round {opened.number + 1}: {what} to label."
    return Line(f"{text} {opened.note}", "warn") if opened.note else Line(text, "good")
