"""The same seed asks the same rows in another process, whatever its hashes are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from alnb.rng import stream
from alnb.strategies import STRATEGIES, resolve
from alnb.strategies.vaal import VAAL
from alnb.strategies.coreset import coreset_pixels
from alnb.testing import toy_snapshot
small = {"vaal": VAAL(size=16, channels=(4, 8), latent=4, width=16, epochs=1),
         "coreset_pixels": coreset_pixels(8)}
toy = toy_snapshot(seed=3, depths=(6, 4, 7, 5, 6, 5))
print(json.dumps({
    name: small.get(name, resolve(name)).select(toy, 6, rng=stream(5, name)).rows.tolist()
    for name in STRATEGIES}))
"""


def test_every_named_strategy_picks_the_same_rows_in_two_processes():
    answers = []
    for hashes in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert len(answers[0]) > 30
    assert all(len(set(rows)) == 6 for rows in answers[0].values())
