from __future__ import annotations

import time

import numpy as np

from alnb.records import FitReport, Step
from alnb.widgets.messages import slice_message


class Bright:
    """A learner that calls every bright pixel class 1; it learns nothing, in four steps."""

    unit = "slice"

    def __init__(self):
        import torch

        self.weight = torch.zeros(1)

    def fit(self, train, *, rng, on_step=lambda step: None, stopped=lambda: False):
        done = 0
        for done in range(1, 5):
            on_step(Step(done, 4, 1.0 / done, 0.0))
            if stopped():
                break
        self.weight = self.weight + 1
        return FitReport(done, 1.0 / done, 0.1, stopped())

    def probs(self, images):
        import torch

        for batch in images:
            label = (batch[:, 0] > batch.mean()).long()
            yield torch.nn.functional.one_hot(label, 4).permute(0, 3, 1, 2)[None].float()

    def features(self, images):
        for batch in images:
            yield batch.flatten(1)[:, :4]

    def state_dict(self):
        return {"weight": self.weight.clone()}

    def load_state_dict(self, state):
        self.weight = state["weight"].clone()


class Page:
    """A browser page without a browser: it records what is sent and sends what a person does."""

    def __init__(self, labeller):
        self.labeller = labeller
        self.sent = []
        labeller.canvas.booster.send = lambda content, buffers=None: self.sent.append(
            (content, [bytes(b) for b in buffers or []])
        )

    def say(self, content, *buffers):
        self.labeller.canvas.receive(None, content, list(buffers))

    def hello(self):
        self.say({"kind": "hello"})
        self.labeller.settle()

    def act(self, name, **details):
        here = self.labeller.here
        self.say({"kind": "act", "name": name, "slice": slice_message(here), **details})
        self.labeller.settle()

    def stroke(self, points, *, name="a", label=1, radius=2.0, where=None, **more):
        where = where or self.labeller.here
        content = {"kind": "stroke", "id": name, "slice": slice_message(where)}
        content |= {"label": label, "radius": radius, "tool": "brush", "keep": [], **more}
        self.say(content, np.array(points, "<f4").tobytes())
        return self.last("ack")

    def of(self, kind):
        return [content for content, _ in self.sent if content["kind"] == kind]

    def last(self, kind):
        return self.of(kind)[-1]

    def buffers(self, kind):
        return [buffers for content, buffers in self.sent if content["kind"] == kind][-1]

    def primary(self):
        return next((a["act"] for a in self.last("ui")["acts"] if a["primary"]), None)


def eventually(holds, seconds=10.0):
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
