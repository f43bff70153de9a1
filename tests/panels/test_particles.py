from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from alnb.errors import BadInput
from alnb.models.svgd import Stein, svgd_direction
from alnb.panels.particles import (
    RATE,
    WITHIN,
    Landscape,
    Manner,
    fading,
    relief,
    trajectory,
)
from alnb.panels.swarm import SwarmPanel, sentence, swarm_figure
from alnb.rng import stream


def walked(landscape="two hills", manner="SVGD", *, seed=0, **changes):
    return trajectory(landscape, manner, rng=np.random.default_rng(seed), **changes)


@pytest.mark.parametrize("landscape", get_args(Landscape))
def test_the_push_spreads_particles_like_the_density_and_without_it_they_gather(landscape):
    ground = relief(landscape)
    spread = {manner: walked(landscape, manner).spread[-1] for manner in get_args(Manner)}
    assert spread["SVGD"] == pytest.approx(ground.spread, rel=0.12)
    assert spread["without push"] < 0.9 * spread["SVGD"]
    if landscape != "two hills":  # there, particles of either hill stay apart
        assert spread["each alone"] < 0.01


def test_particles_that_begin_on_one_hill_do_not_find_the_other():
    ends = walked(start="in one corner").places[-1]
    assert (ends[:, 0] < 0).all()


def test_climb_and_push_are_the_terms_of_the_direction_that_networks_take():
    found = walked(members=7, frames=3)
    places = torch.tensor(found.places[1], requires_grad=True)
    x, y = places[:, 0], places[:, 1]
    hills = [-((x - side) ** 2 + y**2) / (2 * 0.6**2) for side in (-1.4, 1.4)]
    (slope,) = torch.autograd.grad(torch.logaddexp(*hills).sum(), places)
    direction, forces = svgd_direction(places.detach(), slope, Stein())
    np.testing.assert_allclose(found.climb[1] + found.push[1], direction.numpy(), atol=1e-12)
    np.testing.assert_allclose(found.push[1].sum(axis=0), 0, atol=1e-12)
    assert found.ratio[1] == forces.rep_ratio
    assert found.bandwidth[1] == forces.bandwidth[0]


def test_a_frame_is_so_many_steps_after_the_last_and_alone_is_plain_ascent():
    found = walked("one hill", "each alone", members=3, frames=2)
    along, across = np.array([1, 1]) / 2**0.5, np.array([1, -1]) / 2**0.5
    here = found.places[0]
    for _ in range(WITHIN):
        slope = -np.outer(here @ along / 1.2**2, along) - np.outer(here @ across / 0.5**2, across)
        here = here + RATE * slope
    np.testing.assert_allclose(found.places[1], here, atol=1e-12)
    assert not found.push.any()


def test_the_same_rng_state_gives_the_same_way_and_one_particle_reaches_a_top():
    one, again, other = walked(seed=1), walked(seed=1), walked(seed=2)
    np.testing.assert_array_equal(one.places, again.places)
    assert not np.allclose(one.places, other.places)
    single = walked("one hill", members=1)
    np.testing.assert_allclose(single.places[-1], 0, atol=1e-3)


def test_the_spread_of_a_density_is_that_of_draws_from_it():
    draws = np.random.default_rng(0).normal(size=(200_000, 2)) * (1.2, 0.5)
    assert relief("one hill").spread == pytest.approx(np.sqrt((draws**2).sum(1).mean()), rel=0.02)


def test_the_push_fades_with_the_root_of_the_weights_and_k_goes_to_its_limit():
    members = 5
    found = fading(rng=np.random.default_rng(0), members=members, widths=(1000, 10_000, 100_000))
    falls = found.ratio[:-1] / found.ratio[1:]
    np.testing.assert_allclose(falls, 10**0.5, rtol=0.05)
    np.testing.assert_allclose(found.kernel[-1], found.limit, atol=0.002)
    # by hand: every distance is 2 d s², h that over ln(M + 1), K = 1/(M + 1)
    k, apart = found.limit, 2 * 100_000 * 0.05**2
    h = apart / np.log(members + 1)
    push = 2 / h * k * np.sqrt(members * (members - 1) / 2 * apart)
    climb = np.sqrt(1 + (members - 1) * k**2)
    assert found.ratio[-1] == pytest.approx(push / climb, rel=0.02)


@pytest.mark.parametrize("change", [{"landscape": "a plain"}, {"start": "far"}, {"members": 0}])
def test_what_is_not_known_is_refused(change):
    with pytest.raises(BadInput, match=r"far|plain|at least 1"):
        walked(**change)


def test_a_frame_is_drawn_with_its_numbers_in_words():
    found, ground = walked(frames=4), relief("two hills")
    text = sentence(found, ground, 2)
    assert text.startswith("Step 6, SVGD: gradients are shared, and particles push each other.")
    assert f"{ground.spread:.2f}" in text
    assert "Push" not in sentence(walked(manner="each alone", frames=4), ground, 2)
    drawn = swarm_figure(found, ground, fading(rng=np.random.default_rng(0), widths=(2, 10)), 2)
    # the last view's traces come first
    assert len(drawn.data) == 2 + 5
    np.testing.assert_array_equal(drawn.data[-1].x, found.places[2, :, 0])


def test_the_panel_walks_through_frames_and_begins_anew_when_something_changes():
    panel = SwarmPanel(seed=3)
    part = panel.swarm
    particles = panel.figure.data[-1]
    same = trajectory(rng=stream(3, "swarm", "all around", 25))
    part.slider.value = 20
    np.testing.assert_array_equal(particles.x, same.places[20, :, 0])
    part.manner.value = "without push"
    assert part.slider.value == 0
    np.testing.assert_array_equal(particles.x, same.places[0, :, 0])
    assert "without push" in part.words.value
    part.arrows.value = False
    assert not len(panel.figure.data[-2].x)
    panel.close()
