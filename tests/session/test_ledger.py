import numpy as np

from alnb.records import IGNORE
from alnb.session.experiment import run
from alnb.session.ledger import ledger
from alnb.session.oracle import SimulatedOracle


def test_the_ledger_counts_what_was_spent_until_each_round(project, hearts):
    session = project()
    run(session, SimulatedOracle(hearts, "mask"), (3, 5))
    asked = [s for r in session.state.rounds for s in r.query]
    first, second = ledger(session, 0), ledger(session, 1)
    assert (first.slices, second.slices, second.draws) == (3, 5, 5)
    assert second.volumes == len({s.volume for s in asked})
    truth = [hearts.reference(s) for s in asked]
    assert second.pixels == sum(t.size for t in truth)
    assert second.foreground == sum(int((t > 0).sum()) for t in truth)
    assert second.full_masks == 5
    assert (second.repeats, second.control, second.strokes) == (0, 0, 0)
    assert second.fit_seconds >= first.fit_seconds
    held = [v for v in hearts.volumes.values() if v.patient in session.split.val]
    assert second.validation_volumes == len(held) > 0
    assert second.validation_slices == sum(len(v) for v in held)
    assert second.validation_pixels == sum(int(np.prod(v.shape)) for v in held)


def test_scribbles_count_drawn_pixels_alone_and_a_fifteenth_of_a_mask_each(project, hearts):
    session = project()
    run(session, SimulatedOracle(hearts, "simulated"), (3,))
    drawn = [session.merged(a) for a in session.state.answers.values()]
    spent = ledger(session, 0)
    assert spent.pixels == sum(int((d != IGNORE).sum()) for d in drawn)
    assert spent.strokes > 3
    assert spent.full_masks * 15 == 3
