"""The features of a session's pool: computed, learnt in the background, kept, and chosen."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alnb.data.cohort import Cohort
from alnb.errors import BadInput, IllegalEvent, JournalError, UnknownItem
from alnb.protocols import Encoder
from alnb.records import FitReport, Floats, Rows, SliceId, Step
from alnb.rng import stream
from alnb.session.answering import Answering
from alnb.session.jobs import Job
from alnb.store.blobs import atomic_write
from alnb.store.events import Embedded, EmbeddingChosen
from alnb.store.journal import Journal
from alnb.strategies.common import mean_by_owner

if TYPE_CHECKING:
    from alnb.embed.train import EncoderRecipe

PIXELS = "pixels"
"""The features that are always there: the slices themselves, small and standardised."""


class Embedding(Answering):
    """A session's features: which there are, which queries use, and how to learn others.

    Attributes
    ----------
    embedding_job : the training of an encoder that was begun last, or None.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        annotator: str,
        journal: Journal,
        encoder: Encoder | None,
    ) -> None:
        super().__init__(folder, cohort, annotator, journal)
        self.embedding_job: Job[FitReport] | None = None
        self._embedder = Embedder(self, encoder)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the features there are: "pixels" always, a given encoder's, what was learnt."""
        return self._embedder.names

    @property
    def embedding(self) -> str:
        """Name of the features that queries use: the ones learnt or chosen last."""
        return self._embedder.chosen

    def use_embedding(self, name: str) -> None:
        """Let queries use the features called `name` from now on; UnknownItem lists the names."""
        self._embedder.choose(name)

    def features(self, name: str | None = None) -> Floats:
        """(N, D) features of the pool, read-only: those that queries use, or those of `name`.

        Computed at the first call; what an encoder gave is kept in the project.
        """
        return self._embedder.features(name)

    def learn_embedding(
        self, recipe: EncoderRecipe | str = "acdc", *, name: str | None = None
    ) -> FitReport:
        """Train an encoder on the pool's images and wait; see `learn_embedding_in_background`."""
        job = self.learn_embedding_in_background(recipe, name=name)
        try:
            return job.result()
        except KeyboardInterrupt:
            job.stop()
            raise

    def learn_embedding_in_background(
        self, recipe: EncoderRecipe | str = "acdc", *, name: str | None = None
    ) -> Job[FitReport]:
        """Train an encoder on the pool's images in the background. It needs no label.

        recipe : an `EncoderRecipe`, or the name of its loss weights (`alnb.losses.contrastive`).
        name : of the features, the recipe's unless given; the same name replaces.

        Queries use the features once they are there. A training that was stopped or killed goes
        on from where it was when the same recipe is learnt again.
        """
        with self._acting():
            if self.embedding_job is not None and self.embedding_job.running:
                raise IllegalEvent("An encoder is being trained already; wait for it, or stop it.")
            self.embedding_job = self._embedder.prepare(recipe, name)
            self.embedding_job.start()
            return self.embedding_job


class Embedder:
    """Owns a session's features. Everything heavy is imported and made when first needed.

    Features are journalled by the SHA-256 of what they hold, so that a query can always be traced
    to them; a project that is opened again reads them instead of computing them.
    """

    def __init__(self, session: Embedding, encoder: Encoder | None) -> None:
        self._session = session
        self._encoder = encoder
        # an encoder named at this opening goes before what was chosen in the past
        self._asked = None if encoder is None else encoder.name
        self._computing = threading.Lock()
        self._held: dict[str, Floats] = {}

    # ------------------------------------------------------------------ which there are

    @property
    def names(self) -> tuple[str, ...]:
        """What can be chosen: the pixels, the given encoder, and all that was learnt."""
        given = () if self._encoder is None else (self._encoder.name,)
        return tuple(dict.fromkeys((PIXELS, *given, *self._session.state.embeddings)))

    @property
    def chosen(self) -> str:
        """The features that queries use."""
        return self._asked or self._session.state.embedding or PIXELS

    def choose(self, name: str) -> None:
        """Let queries use the features called `name` from now on."""
        self._known(name)
        if name != self.chosen:
            self._session._commit(EmbeddingChosen(name))
            self._asked = None
            self._session.say("embedding")

    def features(self, name: str | None = None) -> Floats:
        """(N, D), read-only, of the pool; a volume's are the mean over its slices."""
        name = self.chosen if name is None else name
        self._known(name)
        fresh = None
        with self._computing:
            kept = self._session.state.embeddings.get(name)
            # learnt again under the same name, they are other features
            key = name if kept is None else kept.features
            if key not in self._held:
                found = self._computed(name) if kept is None else self._read(kept)
                self._held[key] = self._pooled(found)
                fresh = found if kept is None else None
            features = self._held[key]
        # not under that lock: who holds the session's may wait for it, never the other way round
        if fresh is not None and name != PIXELS:
            self._keep(name, None, fresh, None)
        return features

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise UnknownItem(
                f"There are no features called {name!r}; there are {', '.join(self.names)}. "
                "Learn others by learn_embedding()."
            )

    # ------------------------------------------------------------------ computing

    def _computed(self, name: str) -> Floats:
        """Per slice, of the pixels or the given encoder."""
        if self._encoder is not None and name == self._encoder.name:
            return self._encoded(self._encoder)
        from alnb.embed.features import PixelFeatures

        return self._encoded(PixelFeatures())

    def _encoded(self, encoder: Encoder) -> Floats:
        cohort, slices = self._session.cohort, self._slices()
        features = encoder(cohort.slice_image(slice_id) for slice_id in slices)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise BadInput(
                f"The encoder {encoder.name} gave values that are not numbers for {len(bad)} "
                f"slices, first {slices[bad[0]]}. Check these images."
            )
        return features

    def _read(self, kept: Embedded) -> Floats:
        """From the project's blobs; where they are damaged, from the encoder once more."""
        try:
            return self._session.blobs.get_array(kept.features)
        except JournalError as error:
            if kept.encoder is None and not (self._encoder and self._encoder.name == kept.name):
                raise
            self._session.report(f"The features {kept.name!r} are computed again. {error}")
            encoder = self._encoder if kept.encoder is None else self.encoder(kept.name)
            assert encoder is not None, "an encoder is given, or its weights are kept"
            features = self._encoded(encoder)
            self._session.blobs.put_array(features)
            return features

    def encoder(self, name: str) -> Encoder:
        """The encoder that was learnt under `name`; UnknownItem if there is none."""
        kept = self._session.state.embeddings.get(name)
        if kept is None or kept.encoder is None:
            raise UnknownItem(f"No encoder was learnt under the name {name!r}.")
        from alnb.embed.train import MetricEncoder

        return MetricEncoder.from_bytes(self._session.blobs.get(kept.encoder))

    def _keep(
        self, name: str, encoder: bytes | None, features: Floats, report: FitReport | None
    ) -> None:
        session = self._session
        weights = None if encoder is None else session.blobs.put(encoder)
        sha = session.blobs.put_array(features)
        session._commit(Embedded(name, weights, sha, report))

    def _slices(self) -> list[SliceId]:
        return [slice_id for slices in self._session.pool.slices for slice_id in slices]

    def _pooled(self, features: Floats) -> Floats:
        pool = self._session.pool
        owners = np.repeat(np.arange(len(pool)), [len(slices) for slices in pool.slices])
        pooled = mean_by_owner(features, owners, len(pool))
        pooled.flags.writeable = False
        return pooled

    # ------------------------------------------------------------------ learning

    def prepare(self, recipe: EncoderRecipe | str, name: str | None) -> Job[FitReport]:
        """A training of an encoder on the pool's images, not yet started. It needs no label."""

        def work(*, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> FitReport:
            return self._learn(recipe, name, on_step, stopped)

        return Job(work, on_change=lambda: self._session.say("progress"))

    def _learn(
        self,
        recipe: EncoderRecipe | str,
        name: str | None,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> FitReport:
        from alnb.embed.train import EncoderRecipe, train_encoder

        session = self._session
        if isinstance(recipe, str):
            name, recipe = name or recipe, EncoderRecipe(recipe)
        elif name is None:
            name = recipe.weights if isinstance(recipe.weights, str) else "learnt"
        if name == PIXELS:
            raise BadInput(
                f"The name {PIXELS!r} is taken by the slices themselves; choose another."
            )
        patient, volume, index = self._groups()
        images = [session.cohort.slice_image(slice_id) for slice_id in self._slices()]
        part = self._part(recipe, name)

        def keep(data: bytes) -> None:
            # a full disk costs the way back to this point, not the training
            with contextlib.suppress(OSError):
                atomic_write(part, data)

        encoder, report = train_encoder(
            images,
            patient,
            volume,
            index,
            recipe=recipe,
            rng=stream(session.seed, "encoder", name),
            on_step=on_step,
            stopped=stopped,
            resume=part.read_bytes() if part.exists() else None,
            keep=keep,
        )
        if report.stopped:
            return report
        self._keep(name, encoder.to_bytes(), self._encoded(encoder), report)
        self._asked = None
        part.unlink(missing_ok=True)
        session.say("embedding")
        return report

    def _groups(self) -> tuple[Rows, Rows, Rows]:
        """Patient, volume and index along the volume of every slice of the pool."""
        pool = self._session.pool
        counts = [len(slices) for slices in pool.slices]
        index = np.array([s.index for s in self._slices()], dtype=np.int64)
        return np.repeat(pool.patient, counts), np.repeat(pool.volume, counts), index

    def _part(self, recipe: EncoderRecipe, name: str) -> Path:
        """Where a training of this recipe on this pool leaves its state while it is unfinished."""
        created = self._session.created
        told = f"{name} {recipe!r} {created.cohort} {created.split} {created.seed}"
        key = hashlib.sha256(told.encode()).hexdigest()[:16]
        return self._session.folder / f"encoder-{key}.part"
