import numpy as np
import torch

from alnb.models.infer import batched, predict_volume, volume_probs


class Threshold:
    """Two members that disagree about pixels between 0.4 and 0.6."""

    def __init__(self):
        self.sizes = []

    def probs(self, images):
        for batch in images:
            self.sizes.append(len(batch))
            yield torch.stack(
                [torch.cat([batch <= cut, batch > cut], 1).float() for cut in (0.4, 0.6)]
            )


def volume():
    return np.random.default_rng(0).random((11, 5, 4))


def test_a_volume_is_streamed_and_stacked_in_order():
    learner = Threshold()
    labels = predict_volume(learner, volume(), batch=4)
    assert learner.sizes == [4, 4, 3]
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, volume().astype(np.float32) > 0.6)


def test_probabilities_are_the_mean_over_the_members():
    probs = volume_probs(Threshold(), volume(), batch=4)
    image = volume().astype(np.float32)
    expected = ((image > 0.4).astype(np.float32) + (image > 0.6)) / 2
    assert np.array_equal(probs[:, 1], expected)


def test_batches_break_where_the_size_changes_and_lose_nothing():
    sizes = [(4, 4), (4, 4), (4, 4), (4, 5), (4, 4)]
    slices = [np.full(size, i, np.float64) for i, size in enumerate(sizes)]
    batches = list(batched(slices, batch=2))
    assert [tuple(b.shape) for b in batches] == [
        (2, 1, 4, 4),
        (1, 1, 4, 4),
        (1, 1, 4, 5),
        (1, 1, 4, 4),
    ]
    assert [float(image.mean()) for b in batches for image in b] == [0, 1, 2, 3, 4]
    assert batches[0].dtype == torch.float32
