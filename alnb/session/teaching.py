"""What a learner is taught of a session's answers: slices, or volumes that are labelled in part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alnb.data.volume import unlabelled
from alnb.errors import ColdStart
from alnb.records import IGNORE, ItemId, LabelMap, SliceId, TrainSet, Unit
from alnb.session.reading import Reading
from alnb.session.state import SessionState


def train_set(session: Reading, state: SessionState, unit: Unit) -> TrainSet:
    """Everything answered in `state`, for a learner of `unit`; ColdStart if every answer is blank.

    A slice weighs as often as it, or the volume it belongs to, was chosen. A volume has IGNORE
    where nobody answered, and weighs as often as it was chosen: as a whole in a pool of volumes, in
    a pool of slices by any of those that were answered. So two labelled slices of one volume are
    learnt as often as two of different volumes, and a learner of volumes meets each labelled slice
    as often as a learner of slices would.
    """
    owner = {
        s: i
        for i, slices in zip(session.pool.ids, session.pool.slices, strict=True)
        for s in slices
    }
    answers = state.answers
    targets = {s: session.merged(answers[s]) for s in owner if s in answers}
    said = {s: labels for s, labels in targets.items() if (labels != IGNORE).any()}
    if not said:
        raise ColdStart("Every answer is blank, so there is nothing to learn. Draw something.")
    # what was answered without being asked was chosen never, and is learnt all the same
    times = {item: max(1, state.counts.get(item, 1)) for item in {owner[s] for s in said}}
    if unit == "volume":
        return _of_volumes(session, said, owner, times)
    return TrainSet(
        images=tuple(session.cohort.slice_image(s) for s in said),
        targets=tuple(said.values()),
        weight=np.array([times[owner[s]] for s in said], np.int64),
        classes=len(session.classes),
        names=tuple(str(s) for s in said),
    )


def _of_volumes(
    session: Reading,
    said: Mapping[SliceId, LabelMap],
    owner: Mapping[SliceId, ItemId],
    times: Mapping[ItemId, int],
) -> TrainSet:
    by_volume: dict[str, list[SliceId]] = {}
    for slice_id in said:
        by_volume.setdefault(slice_id.volume, []).append(slice_id)
    targets, weight = [], []
    for name, slices in by_volume.items():
        target = unlabelled(session.cohort.volumes[name].shape)
        for slice_id in slices:
            target[slice_id.index] = said[slice_id]
        targets.append(target)
        weight.append(sum(times[item] for item in {owner[s] for s in slices}))
    return TrainSet(
        images=tuple(session.cohort.volumes[name].image() for name in by_volume),
        targets=tuple(targets),
        weight=np.array(weight, np.int64),
        classes=len(session.classes),
        names=tuple(by_volume),
    )
