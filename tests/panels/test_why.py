from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alnb.panels.covers import covers
from alnb.panels.places import centres_and_waiting
from alnb.panels.ranks import Rank, Ranking, as_asked, rankings, ranks_of
from alnb.panels.why import Why, sentences, strategy_name, why
from alnb.records import SliceId, Stroke


def record(session, row):
    features = session.features()
    known = covers(features, *centres_and_waiting(session))
    return why(session, session.pool.ids[row], features, known)


def slow(session, row):
    """The numbers of a card by loops over all pairs."""
    x = session.features().astype(float)
    labelled, waiting = (each.tolist() for each in centres_and_waiting(session))

    def gap(a, b):
        return float(np.linalg.norm(x[a] - x[b]))

    others = [c for c in labelled if c != row]
    before = [min((gap(i, c) for c in others), default=np.inf) for i in range(len(x))]
    after = [min(before[i], gap(i, row)) for i in range(len(x))]
    whole = labelled + waiting
    radius = max(min((gap(i, c) for c in whole), default=np.inf) for i in range(len(x)))
    rest = [i for i in range(len(x)) if i not in others and i != row]
    return {
        "nearest": min(others, key=lambda c: gap(row, c), default=None),
        "distance": before[row],
        "farther": (
            sum(before[i] < before[row] for i in rest) / len(rest) if others and rest else None
        ),
        "closer": sum(gap(i, row) < before[i] for i in range(len(x)) if i != row),
        "gained": sum(
            before[i] > radius and gap(i, row) <= radius * (1 + 1e-6)
            for i in range(len(x))
            if i != row
        ),
        "before": max(before),
        "after": max(after),
        "radius": radius,
    }


@pytest.mark.parametrize("labelled", [(), (3,), (3, 17, 30)])
@pytest.mark.parametrize("row", [4, 9, 20, 3])
def test_the_numbers_are_those_of_slow_loops(fake, labelled, row):
    session = fake()
    session.ask([3, 17, 30, 4, 9])
    for each in labelled:
        session.label(each)
    found, told = record(session, row), slow(session, row)
    nearest = None if told["nearest"] is None else session.pool.ids[told["nearest"]]
    assert found.nearest == nearest
    for name in ("distance", "before", "after", "radius"):
        assert getattr(found, name) == pytest.approx(told[name]), name
    assert found.farther == (None if told["farther"] is None else pytest.approx(told["farther"]))
    assert (found.closer, found.gained) == (told["closer"], told["gained"])
    assert found.labelled == (row in labelled)


def test_a_card_names_patient_place_and_who_asked(fake):
    session = fake()
    session.ask([3, 17])
    found = record(session, 17)
    assert (found.patient, found.position) == ("p1", "slice 3 of 5, middle third")
    assert found.asked == "asked by Strided, number 2 of 2 in round 1"
    assert record(session, 8).asked == ""


def test_a_slice_outside_the_pool_is_said_to_be_held_out(fake):
    session = fake()
    session.cohort.volumes["v/ED"] = dataclasses.make_dataclass("V", ["patient", "shape"])(
        "v", (4, 8, 8)
    )
    features = session.features()
    known = covers(features, *centres_and_waiting(session))
    found = why(session, SliceId("v/ED", 1), features, known)
    assert found.nearest is None
    assert "never asked" in sentences(found)[0]


def test_the_sentences_say_what_a_person_wants_to_know():
    found = Why(
        SliceId("p1/ED", 4),
        "p1",
        "slice 5 of 10, middle third",
        nearest=SliceId("patient012/ED", 2),
        distance=4.2,
        farther=0.97,
        closer=23,
        radius=3.1,
        gained=12,
        before=5.2,
        after=4.4,
        asked="asked by CoreSet, number 1 of 6 in round 2",
    )
    assert sentences(found) == (
        "Looks least like anything labelled so far: nearest is patient012/ED slice 3 "
        "(distance 4.2, farther than 97 % of the rest).",
        "23 other slices look more like it than like anything labelled. Labelling it covers 12 "
        "more slices within r = 3.1. The cover radius goes from 5.2 to 4.4.",
    )
    alike = dataclasses.replace(found, farther=0.1, closer=1, gained=0, after=5.2)
    assert sentences(alike)[0].startswith("Looks much like something labelled already")
    assert sentences(alike)[1] == (
        "1 other slice looks more like it than like anything labelled. The cover radius stays 5.2."
    )
    first = dataclasses.replace(found, nearest=None, distance=np.inf, farther=None, before=np.inf)
    assert sentences(first) == (
        "Nothing is labelled yet, so it cannot be compared with anything.",
        "Labelling it covers 12 more slices within r = 3.1.",
    )


def test_the_cap_around_a_strategy_and_its_settings_are_not_part_of_its_name():
    assert strategy_name("PerVolume(strategy=CoreSet(start='medoid'), cap=2)") == "CoreSet"
    assert strategy_name("Strided(per_volume=None)") == "Strided"
    assert strategy_name("StratifiedRandom()") == "StratifiedRandom"
    warm = "WarmStart(first=Strided(per_volume=None), then=TopScore(entropy, mean))"
    assert strategy_name(warm) == "WarmStart(first=Strided, then=TopScore(entropy, mean))"


def test_a_rank_says_when_there_is_none_and_why():
    rows = np.array([7, 2, 5])
    assert str(Ranking(rows, 3).rank(2)) == "2 of 3"
    assert str(Ranking(rows, 9).rank(4)) == "after 3"
    assert str(Ranking(rows, 9, sample=True).rank(5)) == "3 of 3 sampled"
    assert str(Ranking(rows, 9, sample=True).rank(4)) == "not in the sample"
    assert str(Ranking(rows, 3).rank(4)) == "not a candidate"
    assert Ranking(rows[:0], 9, "needs a model").rank(7) == Rank(None, 9, "needs a model")


def label(session, slice_id):
    session.draw(slice_id, Stroke(points=((5.0, 5.0), (20.0, 20.0)), label=1, id="a"))
    session.draw(slice_id, Stroke(points=((30.0, 5.0), (40.0, 9.0)), label=0, id="b"))
    session.submit(slice_id, "scribble", seconds=1.0)


def test_rankings_are_those_the_strategies_would_have_given_when_the_query_was_asked(project):
    from alnb.rng import stream
    from alnb.strategies.coreset import CoreSet
    from alnb.strategies.uncertainty import TopScore

    session = project()
    session.ask(3)
    before = session.snapshot()
    orders = rankings(session)
    free = len(before.candidates)
    expected = CoreSet().select(before, free, rng=stream(0))
    assert orders["coreset"].rows.tolist() == expected.rows.tolist()
    assert str(orders["entropy"].rank(0)) == "needs a model"

    label(session, session.queue[0])
    again = rankings(session)
    assert again["coreset"].rows.tolist() == orders["coreset"].rows.tolist()
    assert again["strided"].rows.tolist() == orders["strided"].rows.tolist()
    asked_row = session.pool.rows(session.round.query)[0]
    assert ranks_of(again, int(asked_row))["coreset"].place is not None

    session.fit()
    snapshot, query = as_asked(session)
    by_entropy = rankings(session)["entropy"]
    assert set(by_entropy.rows.tolist()) == set(snapshot.candidates.tolist())
    scores = snapshot.reduce(TopScore().per_slice, by_entropy.rows)
    assert (np.diff(scores) <= 1e-6).all()
    assert set(query.tolist()) <= set(by_entropy.rows.tolist())


def test_what_was_asked_twice_before_its_answer_is_ranked_as_unlabelled(project):
    from alnb.strategies.coreset import CoreSet

    session = project(strategy=CoreSet())
    session.ask(2)
    session.ask(3)  # nobody answered, so the same slices come again
    for slice_id in session.queue[:2]:
        label(session, slice_id)
    order = rankings(session)["coreset"]
    query = session.pool.rows(session.round.query)
    assert [order.rank(int(row)).place for row in query] == [1, 2, 3]


def test_a_large_pool_is_ranked_by_a_sample_that_holds_the_query(project, monkeypatch):
    from alnb.panels import ranks

    monkeypatch.setattr(ranks, "SCORED", 8)
    session = project()
    session.ask(3)
    label(session, session.queue[0])
    session.fit()
    found = rankings(session)["margin"]
    assert found.sample
    assert len(found.rows) == 8
    assert set(session.pool.rows(session.round.query).tolist()) <= set(found.rows.tolist())
