from __future__ import annotations

import numpy as np
import pytest

from alnb.embed.project import pca_map
from alnb.errors import BadInput


def svd_map(features, dims):
    """Textbook: scores of the singular value decomposition, loadings of largest size positive."""
    x = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    axes = axes[:dims]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return x @ axes.T


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 30)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_map_is_the_one_of_the_singular_value_decomposition(shape, dims):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 9, shape[1])
    np.testing.assert_allclose(pca_map(x, dims), svd_map(x, dims), atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_permuting_the_rows_permutes_the_map_without_flipping_it(shape):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype(np.float32)
    order = rng.permutation(shape[0])
    np.testing.assert_allclose(pca_map(x[order]), pca_map(x)[order], atol=1e-6)
    np.testing.assert_array_equal(pca_map(x), pca_map(x.copy()))


def test_an_offset_moves_nothing():
    x = np.random.default_rng(2).normal(size=(30, 5))
    np.testing.assert_allclose(pca_map(x + 1000), pca_map(x), atol=1e-8)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 4), (5, 1)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_rows_all_lie_at_the_origin(shape, value):
    assert (pca_map(np.full(shape, value, dtype=np.float32)) == 0).all()


def test_components_that_do_not_exist_are_zero():
    line = np.outer(np.arange(6.0), [3.0, 4.0, 0.0])
    places = pca_map(line, dims=3)
    np.testing.assert_allclose(places[:, 0], 5 * (np.arange(6) - 2.5))
    assert (places[:, 1:] == 0).all()
    assert pca_map(np.arange(5.0)[:, None]).shape == (5, 2)
    assert pca_map(np.empty((0, 4))).shape == (0, 2)


def test_duplicates_share_their_place():
    x = np.random.default_rng(3).normal(size=(10, 20)).repeat(3, axis=0)
    places = pca_map(x)
    np.testing.assert_allclose(places[0::3], places[2::3], atol=1e-9)


def test_features_that_are_not_finite_are_named():
    x = np.zeros((4, 3))
    x[2, 0] = np.inf
    with pytest.raises(BadInput, match="Row 2"):
        pca_map(x)
    with pytest.raises(BadInput, match=r"\(4,\)"):
        pca_map(np.zeros(4))
