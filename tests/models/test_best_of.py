import numpy as np
import pytest
import torch

from alnb.errors import BadInput, ColdStart
from alnb.models.best_of import BestOf
from alnb.models.scratch import dmpls
from alnb.records import FitReport, Step
from alnb.testing.learner import check_learner, toy_train_set
from tests.models.test_scratch import SMALL


class Guess:
    """Answers with one constant number that its fit draws."""

    unit = "slice"

    def __init__(self, steps=2):
        self.steps, self.value = steps, None

    def __repr__(self):
        return f"Guess({self.steps})"

    def fit(self, train, *, rng, on_step=lambda step: None, stopped=lambda: False):
        for done in range(1, self.steps + 1):
            if stopped():
                return FitReport(done - 1, 0.0, 0.0, stopped=True)
            on_step(Step(done, self.steps, 1.0, 0.0))
        self.value = rng.random()
        return FitReport(self.steps, self.value, 1.0)

    def probs(self, images):
        for batch in images:
            high = torch.full((1, len(batch), 1, *batch.shape[2:]), self.value)
            yield torch.cat([high, 1 - high], 2)

    def features(self, images):
        for batch in images:
            yield torch.full((len(batch), 1), self.value)

    def state_dict(self):
        return {"value": torch.tensor(self.value, dtype=torch.float64)}

    def load_state_dict(self, state):
        self.value = float(state["value"])


def value_of(learner):
    return learner.value


def fitted(networks=4, **changes):
    best = BestOf(Guess(), value_of, networks, **changes)
    report = best.fit(toy_train_set(), rng=np.random.default_rng(0))
    return best, report


IMAGE = torch.zeros(2, 1, 4, 4)


def test_it_keeps_the_contract():
    check_learner(lambda: BestOf(dmpls(**SMALL), lambda _: 0.0, networks=2))


def test_the_network_with_the_best_score_answers():
    best, report = fitted()
    values = [network.value for network in best.committee]
    assert len(set(values)) == 4, "each network has a randomness of its own"
    assert best.scores == tuple(values)
    assert next(best.probs([IMAGE]))[0, 0, 0, 0, 0] == pytest.approx(max(values))
    assert next(best.features([IMAGE]))[0, 0] == pytest.approx(max(values))
    assert f"Network {best.chosen + 1} of 4 answers" in report.notes[0]
    assert report.steps == 8


def test_a_committee_answers_with_every_network():
    best, _ = fitted(answers="all")
    probs = next(best.probs([IMAGE]))
    assert probs.shape == (4, 2, 2, 4, 4)
    assert probs[:, 0, 0, 0, 0].tolist() == pytest.approx([n.value for n in best.committee])


def test_the_state_holds_every_network_and_its_score():
    best, _ = fitted()
    other = BestOf(Guess(), value_of, 1)
    with pytest.raises(ColdStart):
        other.probs([IMAGE])
    other.load_state_dict(best.state_dict())
    assert other.scores == best.scores
    assert [n.value for n in other.committee] == [n.value for n in best.committee]
    with pytest.raises(BadInput, match="scores"):
        other.load_state_dict({})


def test_with_a_seed_the_fits_own_randomness_decides_nothing():
    train = toy_train_set()
    runs = []
    for seed in (1, 2):
        best = BestOf(Guess(), value_of, 2, seed=7)
        best.fit(train, rng=np.random.default_rng(seed))
        runs.append(best.scores)
    assert runs[0] == runs[1]
    best.fit(toy_train_set(5), rng=np.random.default_rng(2))
    assert best.scores != runs[0], "another training set draws anew"


def test_a_fit_that_was_cut_off_goes_on_with_the_next_network():
    train, shelf = toy_train_set(), {"leftover-0": b""}
    whole = BestOf(Guess(), value_of, 3, seed=7)
    whole.fit(train, rng=np.random.default_rng(0))
    steps = []
    cut = BestOf(Guess(), value_of, 3, seed=7, shelf=shelf)

    class Killed(BaseException):
        pass

    def die(step):
        if step.step == 3:
            raise Killed

    with pytest.raises(Killed):
        cut.fit(train, rng=np.random.default_rng(1), on_step=die)
    assert len(shelf) == 1
    resumed = BestOf(Guess(), value_of, 3, seed=7, shelf=shelf)
    resumed.fit(train, rng=np.random.default_rng(2), on_step=lambda s: steps.append(s.step))
    assert resumed.scores == whole.scores
    assert steps == [3, 4, 5, 6], "the first network was not trained again"


def test_a_damaged_network_on_the_shelf_is_trained_again():
    train, shelf = toy_train_set(), {}
    first = BestOf(Guess(), value_of, 2, seed=7, shelf=shelf)
    first.fit(train, rng=np.random.default_rng(0))
    shelf[next(iter(shelf))] = b"torn"
    again = BestOf(Guess(), value_of, 2, seed=7, shelf=shelf)
    again.fit(train, rng=np.random.default_rng(0))
    assert again.scores == first.scores


def test_a_stopped_fit_keeps_the_model_before_it():
    best, _ = fitted()
    before = best.scores
    report = best.fit(toy_train_set(), rng=np.random.default_rng(9), stopped=lambda: True)
    assert report.stopped
    assert best.scores == before


def test_progress_counts_the_steps_of_every_network():
    told = []
    BestOf(Guess(), value_of, 3).fit(
        toy_train_set(), rng=np.random.default_rng(0), on_step=told.append
    )
    assert [(s.step, s.total) for s in told] == [(n, 6) for n in range(1, 7)]


@pytest.mark.parametrize(
    "wrong", [{"networks": 0}, {"answers": "mean"}, {"shelf": {}, "seed": None}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"BestOf|answers|seed"):
        BestOf(Guess(), value_of, **wrong)
