import numpy as np
import pytest
import torch

from alnb.models.infer import batched, batches, in_slices, mean_probs, predict_volume, volume_probs
from alnb.models.volumes import predict
from tests.toys import VolumeMeans, VolumeMembers


class Threshold:
    """Two members that disagree about pixels between 0.4 and 0.6."""

    unit = "slice"

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


def knowing(kind, **settings):
    return kind(means=torch.tensor([0.1, 0.5, 0.9]), **settings)


@pytest.mark.parametrize("kind", [VolumeMeans, VolumeMembers])
def test_a_learner_of_volumes_sees_a_volume_once_as_a_whole(kind):
    learner, image = knowing(kind), volume()
    whole = torch.from_numpy(image.astype(np.float32))[None, None]
    (stacked,) = learner.probs([whole])
    expected = stacked.mean(0)[0].permute(1, 0, 2, 3).numpy()
    learner.seen.clear()
    probs = volume_probs(learner, image, batch=4)
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    np.testing.assert_array_equal(predict_volume(learner, image, batch=4), probs.argmax(1))
    found = predict(learner, image, batch=4)
    np.testing.assert_array_equal(found.labels, probs.argmax(1))
    assert learner.seen == [(1, 1, 11, 5, 4)] * 3
    share = -(probs * np.log(probs)).sum(1) / np.log(3)
    np.testing.assert_allclose(found.uncertainty, share, atol=1e-6)
    logs = stacked.double().log()
    within = -(logs.exp() * logs).sum(2).mean(0)[0] / np.log(3)
    np.testing.assert_allclose(found.information, share - within.numpy(), atol=1e-6)


def test_a_learner_of_slices_is_left_as_it_is():
    learner = Threshold()
    assert in_slices(learner) is learner
    assert [len(batch) for batch in batches(learner, volume(), batch=4)] == [4, 4, 3]


def test_what_is_said_of_a_volume_is_said_of_each_of_its_slices():
    learner = knowing(VolumeMeans)
    (batch,) = batches(learner, volume())
    assert batch.shape == (11, 1, 5, 4)
    whole = batch.transpose(0, 1)[None]
    for name in ("features", "gradients"):
        (one,) = getattr(learner, name)([whole])
        (each,) = getattr(in_slices(learner), name)([batch])
        assert torch.equal(each, one.repeat(11, 1))


def test_on_a_coarse_grid_each_slice_has_the_nearest_plane():
    learner = knowing(VolumeMembers, members=1)
    (batch,) = batches(learner, volume())
    (fine,) = mean_probs(learner, [batch])
    ((coarse,),) = in_slices(learner).log_probs([batch], coarse=True)
    # planes 0, 2, 4, 6, 8 and 10 stand for eleven slices
    nearest = [0, 0, 2, 2, 4, 6, 6, 8, 8, 10, 10]
    middles = (np.arange(11) + 0.5) * 6 / 11
    assert [2 * int(m) for m in middles] == nearest
    torch.testing.assert_close(coarse.exp(), fine[nearest])
