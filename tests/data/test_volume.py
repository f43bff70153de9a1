from __future__ import annotations

import pickle
import threading
from itertools import permutations

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.data.volume import ArrayCache, Volume
from alnb.errors import BadInput, UnknownItem


def volume(shape=(3, 4, 5), **changes):
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    fields = {"name": "p1/ED", "patient": "p1", "phase": "ED", "shape": shape}
    return Volume(**(fields | {"read_image": lambda: pixels} | changes))


def test_the_cache_keeps_what_was_used_last_within_its_limit():
    cache = ArrayCache(limit=3 * 80)
    reads = []

    def read(key):
        reads.append(key)
        return np.zeros(10)

    for key in ["a", "b", "c", "a", "d", "a", "b"]:
        cache.get(key, lambda key=key: read(key))
        assert cache.held <= 3 * 80
    assert reads == ["a", "b", "c", "d", "b"]


def test_the_cache_keeps_one_array_that_exceeds_its_limit():
    cache = ArrayCache(limit=8)
    first = cache.get("large", lambda: np.zeros(100))
    assert cache.get("large", lambda: pytest.fail("read twice")) is first


def test_threads_that_want_one_array_wait_for_one_read():
    cache, started, go, reads = ArrayCache(), threading.Event(), threading.Event(), []

    def read():
        reads.append(1)
        started.set()
        go.wait(5)
        return np.zeros(3)

    got = []
    threads = [threading.Thread(target=lambda: got.append(cache.get("x", read))) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait(5)
    go.set()
    for thread in threads:
        thread.join(5)
    assert len(reads) == 1
    assert len({id(array) for array in got}) == 1


def test_a_failed_read_is_tried_again():
    cache = ArrayCache()

    def fail():
        raise BadInput("x.nii: is damaged.")

    with pytest.raises(BadInput):
        cache.get("x", fail)
    assert cache.get("x", lambda: np.ones(2)).tolist() == [1, 1]


def test_a_volume_is_read_once_and_its_slices_are_copies():
    reads = []

    def read():
        reads.append(1)
        return np.zeros((3, 4, 5))

    one = volume(read_image=read)
    assert not reads
    one.slice_image(1)[:] = 9
    assert one.slice_image(1).max() == 0
    assert one.image().dtype == np.float32
    assert len(reads) == 1
    with pytest.raises(ValueError, match="read-only"):
        one.image()[0, 0, 0] = 1


@pytest.mark.parametrize("index", [-1, 3])
def test_a_slice_beyond_the_ends_is_unknown(index):
    with pytest.raises(UnknownItem, match="0 to 2"):
        volume().slice_image(index)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_native_order_is_undone_for_every_order_of_axes(axes):
    source = np.random.default_rng(0).random((4, 5, 6))
    stored = source.transpose(axes)
    one = volume(stored.shape, axes=axes)
    np.testing.assert_array_equal(one.to_native(stored), source)
    np.testing.assert_array_equal(one.from_native(source), stored)


def test_a_label_map_of_another_shape_is_refused():
    with pytest.raises(BadInput, match=r"\(3, 4, 5\)"):
        volume().to_native(np.zeros((4, 3, 5)))
    with pytest.raises(BadInput, match=r"\(3, 4, 5\)"):
        volume().from_native(np.zeros((4, 3, 5)))


def test_an_image_that_is_not_as_its_header_promised_is_refused():
    with pytest.raises(BadInput, match="promised"):
        volume(read_image=lambda: np.zeros((3, 4, 4))).image()


@pytest.mark.parametrize(
    "wrong", [{"shape": (3, 4)}, {"shape": (0, 4, 5)}, {"axes": (0, 1, 1)},
              {"spacing_mm": (1.0, 0.0, 1.0)}, {"spacing_mm": (1.0, float("nan"), 1.0)}],
)  # fmt: skip
def test_impossible_geometry_is_refused(wrong):
    with pytest.raises(BadInput):
        Volume(**({"name": "v", "patient": "p", "phase": "", "shape": (3, 4, 5),
                   "read_image": lambda: np.zeros((3, 4, 5))} | wrong))  # fmt: skip


def test_a_volume_survives_pickling():
    one = next(iter(phantom(1, size=32, slices=(2, 2)).volumes.values()))
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.image(), one.image())
    np.testing.assert_array_equal(again.scribble(), one.scribble())
