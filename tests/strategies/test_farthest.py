from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from alnb.errors import BadInput, PoolExhausted
from alnb.strategies import cloud as clouds
from alnb.strategies import frontier
from alnb.strategies.cloud import Cloud
from alnb.strategies.farthest import KCenter
from alnb.strategies.frontier import TIE, Frontier


def plain(x, centres, candidates, n, *, first=None, cost=None, volume=None, cap=None, scale=1.0):
    """Greedy k-center with nothing remembered but each row's nearest distance, in float64.

    scale : a power of two that keeps the squares of extreme values within range.
    """
    x = np.asarray(x).astype(np.float64) * scale
    weight = np.ones(len(x)) if cost is None else (np.min(cost) / cost) ** 2
    nearest = np.full(len(x), np.inf)
    open_ = np.zeros(len(x), dtype=bool)
    open_[list(candidates)] = True
    used = Counter()
    for c in centres:
        nearest = np.minimum(nearest, ((x - x[c]) ** 2).sum(axis=1))
    rows, distances, radii = [], [], []
    for _ in range(n):
        if np.isinf(nearest).all():
            pick = first
        else:
            key = np.where(open_, nearest * weight, -1)
            pick = int(np.flatnonzero(key >= key.max() * TIE)[0])
        rows.append(pick)
        distances.append(nearest[pick])
        nearest = np.minimum(nearest, ((x - x[pick]) ** 2).sum(axis=1))
        nearest[pick] = 0
        open_[pick] = False
        if volume is not None:
            used[volume[pick]] += 1
            if used[volume[pick]] == cap:
                open_[volume == volume[pick]] = False
        radii.append(nearest.max())
    return rows, np.sqrt(distances) / scale, np.sqrt(radii) / scale


def clusters(rng, n, d):
    return rng.normal(size=(6, d))[rng.integers(6, size=n)] * 10 + rng.normal(size=(n, d))


def walks(rng, n, d):
    """Slices along volumes: each step is small, two volumes lie around one patient's centre."""
    volumes = -(-n // 5)
    steps = 0.05 * rng.normal(size=(volumes, 5, d)).cumsum(axis=1)
    return (rng.normal(size=(volumes, 1, d))[np.arange(volumes) // 2] + steps).reshape(-1, d)[:n]


def copies(rng, n, d):
    return rng.normal(size=(max(n // 7, 1), d))[rng.integers(max(n // 7, 1), size=n)]


def grid(rng, n, d):
    """Ties everywhere."""
    return rng.integers(-2, 3, size=(n, d)).astype(float)


def crowded(rng, n, d):
    """Clusters so tight and so far apart that float32 sees each of them as one point."""
    return 1e6 * rng.normal(size=(3, d))[rng.integers(3, size=n)] + 1e-3 * rng.normal(size=(n, d))


def outlying(rng, n, d):
    x = rng.normal(size=(n, d))
    x[rng.integers(n)] *= 1e5
    return x


CLOUDS = [
    clusters,
    walks,
    copies,
    grid,
    crowded,
    outlying,
    lambda rng, n, d: rng.normal(size=(n, d)),
    lambda rng, n, d: 1e4 + rng.normal(size=(n, d)),
    lambda rng, n, d: np.repeat(rng.normal(size=(n, 1)), d, axis=1),
]


def same(cover, expected):
    rows, distances, radii = expected
    assert cover.rows.tolist() == rows
    np.testing.assert_allclose(cover.distances, distances, rtol=1e-9)
    np.testing.assert_allclose(cover.radii, radii, rtol=1e-9)


@pytest.fixture(params=["as it is", "in small pieces"])
def pieces(request, monkeypatch):
    """Small pieces reach every loop and every return of rows with a few hundred of them."""
    if request.param == "in small pieces":
        monkeypatch.setattr(clouds, "_BATCH", 5)
        monkeypatch.setattr(clouds, "_STRIP", 3)
        monkeypatch.setattr(frontier, "_MEASURED", 5)
        monkeypatch.setattr(frontier, "_FIRST", 8)
        monkeypatch.setattr(frontier, "_LEAST", 4)
        monkeypatch.setattr(frontier, "_HOT", 3)
        monkeypatch.setattr(frontier, "_FEW", 2)


@pytest.mark.parametrize("cloud", range(len(CLOUDS)))
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_picks_and_radii_are_those_of_the_plain_method(pieces, cloud, kind):
    rng = np.random.default_rng(cloud)
    with np.errstate(over="ignore"):
        x = CLOUDS[cloud](rng, 150, 7).astype(kind)
    if not np.isfinite(x).all():
        x = CLOUDS[cloud](rng, 150, 7).clip(-6e4, 6e4).astype(kind)
    same(KCenter(x).take(150, first=3), plain(x, [], range(150), 150, first=3))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cloud=st.sampled_from(CLOUDS),
    kind=st.sampled_from([np.float32, np.float64]),
    size=st.integers(1, 60),
    width=st.integers(1, 9),
    data=st.data(),
)
def test_any_question_is_answered_as_by_the_plain_method(seed, cloud, kind, size, width, data):
    rng = np.random.default_rng(seed)
    x = cloud(rng, size, width).astype(kind)
    some = st.sets(st.integers(0, size - 1), max_size=size)
    candidates = sorted(data.draw(some) or {0})
    centres = sorted(data.draw(some))
    cost = rng.uniform(0.2, 5, size=size) if data.draw(st.booleans()) else None
    volume = cap = None
    count = len(candidates)
    if data.draw(st.booleans()):
        volume, cap = rng.integers(4, size=size), data.draw(st.integers(1, 4))
        count = int(np.minimum(np.bincount(volume[candidates]), cap).sum())
    n = data.draw(st.integers(0, count))
    asked = {"cost": cost, "volume": volume, "cap": cap}
    state = KCenter(x, centres=centres, candidates=candidates, **asked)
    cover = state.take(n, first=candidates[-1])
    same(cover, plain(x, centres, candidates, n, first=candidates[-1], **asked))


@pytest.mark.parametrize("cloud", [clusters, walks, copies, grid])
@pytest.mark.parametrize("asked", ["plain", "subset", "cost", "cap"])
def test_all_variants_agree_with_the_plain_method_in_small_pieces(monkeypatch, cloud, asked):
    monkeypatch.setattr(clouds, "_BATCH", 5)
    for name, value in (("_FIRST", 8), ("_LEAST", 4), ("_MEASURED", 5), ("_HOT", 3), ("_FEW", 2)):
        monkeypatch.setattr(frontier, name, value)
    rng = np.random.default_rng(5)
    x = cloud(rng, 300, 6).astype(np.float32)
    candidates, centres = np.arange(300), [7, 200]
    more = {}
    if asked == "subset":
        candidates = np.arange(0, 300, 3)
    elif asked == "cost":
        more = {"cost": rng.uniform(0.5, 2, size=300)}
    elif asked == "cap":
        more = {"volume": np.arange(300) // 6, "cap": 2}
    left = np.setdiff1d(candidates, centres)
    state = KCenter(x, centres=centres, candidates=left, **more)
    same(state.take(90), plain(x, centres, left, 90, **more))


@pytest.mark.parametrize("cloud", [clusters, walks, lambda rng, n, d: rng.normal(size=(n, d))])
def test_a_pool_of_many_blocks_is_answered_as_by_the_plain_method(cloud):
    x = cloud(np.random.default_rng(1), 20_000, 8).astype(np.float32)
    same(KCenter(x).take(60, first=11), plain(x, [], range(20_000), 60, first=11))


@pytest.mark.parametrize("asked", ["plain", "subset", "cost"])
def test_several_threads_find_the_same_as_one(monkeypatch, asked):
    rng = np.random.default_rng(13)
    x = walks(rng, 6000, 8).astype(rng.choice([np.float32, np.float64]))
    more = {"cost": rng.uniform(0.5, 2, size=6000)} if asked == "cost" else {}
    if asked == "subset":
        more["candidates"] = np.arange(0, 6000, 2)
    one = KCenter(x, **more).take(60, first=0)
    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    monkeypatch.setattr(clouds, "_LARGE", 1)
    with threadpool_limits(3, user_api="blas"):
        three = KCenter(x, **more).take(60, first=0)
    assert three.rows.tolist() == one.rows.tolist()
    np.testing.assert_array_equal(three.radii, one.radii)
    after = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert after == blas


@pytest.mark.slow
@pytest.mark.parametrize("cloud", [clusters, walks, lambda rng, n, d: rng.normal(size=(n, d))])
def test_a_large_pool_is_answered_as_by_the_plain_method(cloud):
    x = cloud(np.random.default_rng(2), 20_000, 32).astype(np.float32)
    candidates = np.arange(0, 20_000, 2)
    state = KCenter(x, candidates=candidates)
    same(state.take(200, first=0), plain(x, [], candidates, 200, first=0))


@pytest.mark.parametrize("power", [-1000, -500, -66, 50, 500, 1000])
def test_scale_changes_nothing_but_the_unit(power):
    x = np.random.default_rng(3).normal(size=(80, 5))
    expected = KCenter(x).take(80, first=0)
    cover = KCenter(np.ldexp(x, power)).take(80, first=0)
    assert cover.rows.tolist() == expected.rows.tolist()
    np.testing.assert_array_equal(cover.radii, np.ldexp(expected.radii, power))
    np.testing.assert_array_equal(cover.distances, np.ldexp(expected.distances, power))


@pytest.mark.parametrize("unit", [1e-42, 1e-30, 1e-20, 1e15, 1e30])
def test_float32_of_extreme_scale_is_measured_in_full(unit):
    x = (np.random.default_rng(4).normal(size=(80, 5)) * unit).astype(np.float32)
    scale = 2.0 ** -np.frexp(unit)[1]
    same(KCenter(x).take(80, first=0), plain(x, [], range(80), 80, first=0, scale=scale))


def test_one_row_beyond_the_range_of_float32_squares_leaves_the_others_in_order():
    x = np.random.default_rng(5).normal(size=(3000, 4)).astype(np.float32)
    x[1001] = 1e30
    same(KCenter(x).take(20, first=0), plain(x, [], range(3000), 20, first=0))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1.0, 1e8]), width=st.integers(1, 40)
)
def test_bounds_hold_on_both_sides_of_the_distance(seed, scale, width):
    rng = np.random.default_rng(seed)
    x = (scale * (rng.normal(size=(40, width)) + rng.choice([0, 30]))).astype(
        rng.choice([np.float32, np.float64])
    )
    cloud = Cloud(x)
    a, b = (rows.ravel() for rows in np.indices((40, 40)))
    true = cloud.between(a, b).reshape(40, 40)
    near = cloud.near(np.arange(40), np.empty((40, width), dtype=np.float32))
    above = cloud.reach[:, None] + cloud.reach - 2 * cloud.products(near, near)
    excess = cloud.excess(cloud.reach)
    assert (above >= true).all()
    assert (above - excess[:, None] - excess <= true).all()


def test_a_working_set_too_small_for_a_crowd_of_ties_grows():
    x = np.concatenate([np.zeros((1, 3)), np.tile(np.eye(3), (2000, 1))]).astype(np.float32)
    cover = KCenter(x).take(5, first=0)
    assert cover.rows.tolist() == [0, 1, 2, 3, 4]
    same(cover, plain(x, [], range(len(x)), 5, first=0))


def test_few_rows_are_looked_at(monkeypatch):
    looked = []
    bring = Frontier._bring

    def counted(self, points, *others):
        looked.append(len(points))
        bring(self, points, *others)

    monkeypatch.setattr(Frontier, "_bring", counted)
    x = walks(np.random.default_rng(6), 20_000, 16).astype(np.float32)
    KCenter(x).take(200, first=0)
    # The plain method reads all of them for every pick.
    assert 20_000 <= sum(looked) < 20_000 * 200 / 20


def test_answers_come_and_picks_go_on_as_if_begun_anew():
    rng = np.random.default_rng(7)
    x = walks(rng, 400, 6)
    state = KCenter(x, centres=[3])
    taken = state.take(10).rows
    state.add([50, 51, int(taken[0])])
    known = np.union1d([3, 50, 51], taken)
    assert state.centres.tolist() == known.tolist()
    left = np.setdiff1d(np.arange(400), known)
    assert state.candidates.tolist() == left.tolist()
    assert state.radius == KCenter(x, centres=known).radius
    same(state.take(30), plain(x, known, left, 30))


def test_a_pick_that_is_skipped_leaves_no_trace_but_its_absence():
    x = clusters(np.random.default_rng(8), 300, 5)
    state = KCenter(x, centres=[0])
    taken = state.take(6).rows
    state.skip(taken[2:4])
    state.skip([17])
    known = np.union1d([0], np.delete(taken, [2, 3]))
    left = np.setdiff1d(np.arange(300), [0, 17, *taken])
    assert state.radius == KCenter(x, centres=known).radius
    same(state.take(40), plain(x, known, left, 40))


def test_a_row_skipped_before_it_was_picked_counts_in_the_radius():
    x = np.array([[0.0], [1.0], [2.0], [10.0]])
    state = KCenter(x, centres=[0])
    assert state.radius == 10
    state.skip([3])
    cover = state.take(2)
    assert cover.rows.tolist() == [2, 1]
    assert cover.radii.tolist() == [8, 8]


def test_skipping_every_centre_asks_for_a_new_opening():
    x = np.arange(5.0)[:, None]
    state = KCenter(x, centres=[0])
    state.skip([0])
    assert state.radius == np.inf
    with pytest.raises(ValueError, match="first must be one of the candidates, not 0"):
        state.take(1, first=0)
    assert state.take(2, first=2).rows.tolist() == [2, 4]


def test_the_dearer_of_two_equally_far_rows_waits():
    x = np.array([[0.0], [10.0], [-10.0], [4.0]])
    state = KCenter(x, centres=[0], cost=np.array([1.0, 4.0, 2.0, 1.0]))
    cover = state.take(3)
    assert cover.rows.tolist() == [2, 3, 1]  # 10 / 2, then 4 / 1, then 6 / 4
    np.testing.assert_allclose(cover.distances, [10, 4, 6])
    np.testing.assert_allclose(cover.radii, [10, 6, 0])


def test_equal_costs_are_no_costs():
    x = np.random.default_rng(9).normal(size=(50, 3))
    with_costs = KCenter(x, centres=[0], cost=np.full(50, 7.0)).take(20)
    assert with_costs.rows.tolist() == KCenter(x, centres=[0]).take(20).rows.tolist()


def test_a_full_volume_is_passed_over():
    x = np.array([[0.0], [10.0], [11.0], [5.0], [1.0]])
    volume = np.array([0, 1, 1, 2, 2])
    state = KCenter(x, centres=[0], candidates=range(5), volume=volume, cap=1)
    cover = state.take(2)
    assert cover.rows.tolist() == [2, 3]
    assert cover.radii.tolist() == [5, 1]
    with pytest.raises(PoolExhausted, match="Asked for 2 of 1"):
        state.take(2)
    # The centre that stayed a candidate is the last one of its volume.
    assert state.take(1).rows.tolist() == [0]


def test_rows_on_centres_fill_the_rest_under_a_cap_too():
    x = np.zeros((6, 2))
    volume = np.array([0, 0, 0, 1, 1, 1])
    cover = KCenter(x, centres=[0], candidates=range(1, 6), volume=volume, cap=2).take(4)
    assert cover.rows.tolist() == [1, 2, 3, 4]
    assert cover.radii.tolist() == [0, 0, 0, 0]


def test_the_data_is_neither_written_nor_copied():
    x = np.random.default_rng(10).normal(size=(200, 6)).astype(np.float32) + 50
    x.flags.writeable = False
    state = KCenter(x, centres=[0])
    state.take(20)
    assert state._cloud.x.base is x or state._cloud.x is x


def test_many_centres_of_which_few_are_kept_at_hand_give_the_same():
    rng = np.random.default_rng(12)
    x = walks(rng, 150, 5000).astype(np.float32)
    centres = np.sort(rng.choice(150, size=80, replace=False))
    left = np.setdiff1d(np.arange(150), centres)
    same(KCenter(x, centres=centres).take(12), plain(x, centres, left, 12))


def test_a_memory_map_and_other_layouts_give_the_same(tmp_path):
    x = np.random.default_rng(11).normal(size=(200, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected = KCenter(x).take(50, first=1).rows.tolist()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    for other in (mapped, np.asfortranarray(x), wide, x.astype(np.float64)):
        assert KCenter(other).take(50, first=1).rows.tolist() == expected


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_row_that_is_not_finite_is_named(broken, kind):
    x = np.ones((5000, 3), dtype=kind)
    x[3001, 1] = broken
    with pytest.raises(BadInput, match="Row 3001"):
        KCenter(x)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (1, 1)])
def test_empty_and_tiny_pools_are_answered(shape):
    state = KCenter(np.zeros(shape))
    cover = state.take(shape[0], first=0)
    assert cover.rows.tolist() == list(range(shape[0]))
    assert (cover.radii == 0).all()
    assert state.radius == 0


def test_bad_settings_are_refused():
    x = np.zeros((3, 2))
    with pytest.raises(BadInput, match=r"shape \(3,\)"):
        KCenter(np.zeros(3))
    with pytest.raises(ValueError, match="cost needs 3 finite numbers above 0"):
        KCenter(x, cost=np.array([1, 0, 1]))
    with pytest.raises(ValueError, match="a factor of a million"):
        KCenter(x, cost=np.array([1, 1e7, 1]))
    with pytest.raises(ValueError, match="belong together"):
        KCenter(x, cap=1)
    with pytest.raises(ValueError, match="cap is 0"):
        KCenter(x, volume=np.zeros(3, dtype=int), cap=0)
    with pytest.raises(ValueError, match="volume needs 3 codes"):
        KCenter(x, volume=np.zeros(2, dtype=int), cap=1)
    with pytest.raises(ValueError, match=r"must be 0\.\.2"):
        KCenter(x).add([3])
