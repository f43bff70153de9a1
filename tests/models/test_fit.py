import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from alnb.models.fit import Recipe, fit
from alnb.models.hardware import fast_dtype, threads
from alnb.records import Step

QUIET = Recipe(batch=4, rate=0.05)


def line():
    """y = 2x - 1 to be learnt by one neuron."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    x = torch.linspace(-1, 1, 16)[:, None]

    def batches(size):
        return x[:size], 2 * x[:size] - 1

    return net, batches


def squares(output, wanted):
    return (output.float() - wanted).square().mean()


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def test_it_learns_and_reports_every_step():
    net, batches = line()
    seen: list[Step] = []
    recipe = Recipe(batch=16, rate=0.1, decay=0)
    report = fit(net, batches, squares, steps=200, recipe=recipe, on_step=seen.append)
    assert weights(net).tolist() == pytest.approx([2, -1], abs=0.05)
    assert [step.step for step in seen] == list(range(1, 201))
    assert report.steps == 200
    assert not report.stopped
    assert seen[-1].seconds_left == 0
    assert not net.training


def test_the_weights_kept_are_an_average_over_the_steps():
    net, batches = line()
    visited = []

    def loss(output, wanted):
        visited.append(weights(net))
        return squares(output, wanted)

    fit(net, batches, loss, steps=3, recipe=QUIET)
    # weights after steps 1 and 2 were seen by the loss; those after step 3 follow from the result
    kept = visited[0]
    for step, after in enumerate(visited[1:]):
        share = min(QUIET.average, (1 + step) / (10 + step))
        kept = share * kept + (1 - share) * after
    share = (1 + 2) / (10 + 2)
    last = (weights(net) - share * kept) / (1 - share)
    assert (last - visited[2]).norm() < (visited[2] - visited[1]).norm()
    assert not torch.equal(last, weights(net))


def test_stop_is_honoured_before_the_next_step():
    net, batches = line()
    seen: list[Step] = []
    report = fit(
        net,
        batches,
        squares,
        steps=50,
        recipe=QUIET,
        on_step=seen.append,
        stopped=lambda: len(seen) == 3,
    )
    assert report.steps == 3
    assert report.stopped


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_fit_with_the_last_finite_weights(bad):
    net, batches = line()
    calls = 0

    def loss(output, wanted):
        nonlocal calls
        calls += 1
        return squares(output, wanted) * (bad if calls == 4 else 1.0)

    report = fit(net, batches, loss, steps=50, recipe=QUIET)
    reference, _ = line()
    fit(reference, batches, squares, steps=50, recipe=QUIET, stopped=after(3))
    assert report.steps == 3
    assert "step 4" in report.notes[0]
    assert "diverged" in report.notes[0]
    assert torch.equal(weights(net), weights(reference))


def after(count):
    """Asked before each step, it says stop once `count` steps were taken."""
    asked = iter(range(10_000))
    return lambda: next(asked) == count


def test_a_gradient_that_is_not_finite_moves_nothing():
    net, batches = line()

    def loss(output, wanted):
        return (
            output.float().sub(wanted).abs().sqrt().sum() * 0
            + output.sum().sub(output.sum().detach()).sqrt()
        )

    before = weights(net)
    report = fit(net, batches, loss, steps=5, recipe=QUIET)
    assert report.steps == 0
    assert report.notes
    assert torch.equal(weights(net), before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.10 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(error):
    net, batches = line()
    asked = []

    def hungry(size):
        asked.append(size)
        if size > 3:
            raise error
        return batches(size)

    report = fit(net, hungry, squares, steps=2, recipe=Recipe(batch=12, rate=0.05))
    assert asked == [12, 6, 3, 3]
    assert report.steps == 2
    assert [note.split(";")[0] for note in report.notes] == [
        "Out of memory with 12 items per step",
        "Out of memory with 6 items per step",
    ]


def test_out_of_memory_with_a_single_item_is_an_error_with_a_way_out():
    net, _ = line()

    def hungry(size):
        raise MemoryError("asked 9.1 GB")

    with pytest.raises(MemoryError, match=r"asked 9\.1 GB.*smaller size"):
        fit(net, hungry, squares, steps=2, recipe=QUIET)


def test_other_errors_pass_through():
    net, _ = line()

    def broken(size):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        fit(net, broken, squares, steps=2, recipe=QUIET)


def test_the_global_random_state_is_left_alone():
    net, batches = line()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(net, batches, squares, steps=2, recipe=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_threads_are_set_inside_the_worker_and_put_back():
    seen = []

    def work():
        torch.set_num_threads(2)
        with threads(1):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [1, 2]
    assert torch.get_num_threads() == before


def cubes():
    """Batches that hold their own place, and a loss that is not quadratic."""
    x = torch.linspace(-1, 1, 64)[:, None]
    place = {"at": 0}

    def batches(size):
        place["at"] += 1
        rows = (torch.arange(size) * 7 + 13 * place["at"]) % 64
        return x[rows], x[rows] ** 3 - 1

    return batches, place


@pytest.mark.parametrize("recipe", [QUIET, Recipe(4, 0.01, average=0, schedule="constant")])
def test_a_fit_that_goes_on_ends_where_an_undisturbed_one_does(recipe):
    whole, _ = line()
    fit(whole, cubes()[0], squares, steps=40, recipe=recipe)

    halves, _ = line()
    batches, place = cubes()
    kept = []

    def keep(state):
        kept.append({name: value.clone() for name, value in state.items()})

    first = fit(halves, batches, squares, steps=40, recipe=recipe, stopped=after(17), keep=keep)
    again, _ = line()
    batches, fresh = cubes()
    fresh.update(place)
    seen: list[Step] = []
    report = fit(
        again, batches, squares, steps=40, recipe=recipe, resume=kept[-1], on_step=seen.append
    )
    assert first.stopped
    assert [step.step for step in seen] == list(range(18, 41))
    assert report.steps == 40
    assert report.seconds >= first.seconds
    assert torch.equal(weights(again), weights(whole))


def test_states_are_handed_out_in_time_and_at_the_end(monkeypatch):
    monkeypatch.setattr("alnb.models.fit.KEEP_SECONDS", 0.0)
    net, batches = line()
    done = []
    fit(net, batches, squares, steps=5, recipe=QUIET, keep=lambda s: done.append(s["fit"][0]))
    assert done[-1] == 5
    assert 1 < len(done) <= 6


def test_a_state_after_a_divergence_is_not_handed_out():
    net, batches = line()
    kept = []
    fit(net, batches, lambda *a: squares(*a) * math.nan, steps=5, recipe=QUIET, keep=kept.append)
    assert not kept


def test_a_constant_rate_without_average_is_plain_adam():
    net, batches = line()
    recipe = Recipe(4, 0.01, decay=0.1, average=0, clip=math.inf, schedule="constant",
                    optimiser="adam")  # fmt: skip
    fit(net, batches, squares, steps=10, recipe=recipe)
    mine, batches = line()
    optimiser = torch.optim.Adam(mine.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(10):
        source, wanted = batches(4)
        optimiser.zero_grad()
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=fast_dtype(torch.device("cpu")) is not None
        ):
            output = mine(source)
        squares(output, wanted).backward()
        optimiser.step()
    assert torch.allclose(weights(net), weights(mine), atol=1e-6)
