from __future__ import annotations

import subprocess
import sys

import pytest

from alnb.errors import BadInput
from alnb.rng import stream
from alnb.strategies import STRATEGIES, resolve
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald
from alnb.strategies.wrappers import WarmStart
from alnb.testing.toy import toy_snapshot


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_name_gives_a_strategy_that_starts_without_a_model(name):
    chosen = resolve(name).select(toy_snapshot(labelled=0, fitted=False), 4, rng=stream(0))
    assert len(set(chosen.rows.tolist())) == 4


def test_a_model_based_name_asks_the_model_once_there_is_one():
    assert resolve("bald") == WarmStart(Strided(), TopScore(bald))
    toy = toy_snapshot()
    expected = TopScore(bald).select(toy, 4, rng=stream(0))
    assert resolve("bald").select(toy, 4, rng=stream(0)).rows.tolist() == expected.rows.tolist()


def test_names_are_written_into_repr_without_addresses():
    assert all("0x" not in repr(resolve(name)) for name in STRATEGIES)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BadInput, match=r"'corset'\. Did you mean 'coreset'\?.*random, stratified"):
        resolve("corset")


def test_choosing_without_a_model_loads_no_torch():
    code = (
        "import sys, alnb.strategies as s\n"
        "from alnb.testing import toy_snapshot\n"
        "import numpy as np\n"
        "s.resolve('coreset').select(toy_snapshot(), 3, rng=np.random.default_rng(0))\n"
        "[s.resolve(name) for name in ('random', 'stratified', 'strided', 'entropy', 'bald')]\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules\n"
        "[s.resolve(name) for name in s.STRATEGIES]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
