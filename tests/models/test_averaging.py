from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from alnb.errors import BadInput, ColdStart
from alnb.models.averaging import POSES, Averaged, Pose
from alnb.models.estimate import planned_steps
from alnb.models.infer import mean_probs
from alnb.models.learners import SingleNet
from alnb.protocols import GradientLearner, Learner
from alnb.testing.learner import check_learner, toy_train_set
from tests.toys import ClassMeans


class Pointwise:
    """Members that each answer pixel by pixel, so that a turned slice has a turned answer."""

    unit = "slice"

    def __init__(self, members=2):
        self.members = members
        self.seen = []

    def probs(self, images):
        for batch in images:
            self.seen.append(batch)
            sharp = torch.arange(1, self.members + 1).view(-1, 1, 1, 1, 1)
            logits = torch.cat([0 * batch, 2 * batch - 1, 1 - 3 * batch], 1)
            yield (sharp * logits).softmax(2)


class Upright(Pointwise):
    """Answers by the row alone, whatever the slice shows."""

    def probs(self, images):
        for batch in images:
            ramp = torch.linspace(0, 1, batch.shape[2])[None, None, None, :, None]
            ramp = ramp.expand(self.members, len(batch), 1, -1, batch.shape[3])
            yield torch.cat([ramp, 1 - ramp], 2)


def smooth(count=3, shape=(40, 30), seed=0):
    noise = np.random.default_rng(seed).random((count, *shape))
    values = np.stack([gaussian_filter(each, 5) for each in noise])
    values = (values - values.min()) / np.ptp(values)
    return torch.from_numpy(values.astype(np.float32))[:, None]


def answer(learner, images):
    return next(iter(learner.probs([images])))


def place(pose, row, col, shape):
    """Where in the pose the pixel of the slice is seen: (row, col), by plane trigonometry."""
    height, width = shape
    down, right = row - (height - 1) / 2, col - (width - 1) / 2
    angle = math.radians(pose.degrees)
    # counter-clockwise as seen, rows running down
    x = pose.zoom * (right * math.cos(angle) + down * math.sin(angle))
    y = pose.zoom * (down * math.cos(angle) - right * math.sin(angle))
    return y + (height - 1) / 2, x + (width - 1) / 2


def value(image, row, col):
    """Linear between pixel centres; beyond the outermost, these."""
    height, width = image.shape
    row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)
    top, left = min(int(row), height - 2), min(int(col), width - 2)
    down, right = row - top, col - left
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def by_hand(base, image, poses):
    """Pixel by pixel, pose by pose."""
    shape = height, width = image.shape
    shown = []
    for pose in poses:
        back = Pose(-pose.degrees, 1 / pose.zoom)
        view = np.array(
            [[value(image, *place(back, r, c, shape)) for c in range(width)] for r in range(height)]
        )
        probs = answer(base, torch.tensor(view, dtype=torch.float32)[None, None])
        shown.append(probs[:, 0].double().numpy())
    members, classes = shown[0].shape[:2]
    found = np.zeros((members, classes, height, width))
    for r in range(height):
        for c in range(width):
            count = 0
            for pose, probs in zip(poses, shown, strict=True):
                row, col = place(pose, r, c, shape)
                if -0.5 <= row <= height - 0.5 and -0.5 <= col <= width - 0.5:
                    count += 1
                    for m in range(members):
                        for k in range(classes):
                            found[m, k, r, c] += value(probs[m, k], row, col)
            found[:, :, r, c] /= count
    return found


def test_the_slice_as_it_is_gives_the_probabilities_of_the_base_exactly():
    base, images = Pointwise(3), smooth()
    assert torch.equal(answer(Averaged(base, (Pose(),)), images), answer(base, images))
    assert base.seen[0] is images


@pytest.mark.parametrize("poses", [POSES, (Pose(), Pose(35.0, 1.3)), (Pose(zoom=0.7), Pose(90))])
def test_the_mean_is_that_of_a_slow_loop(poses):
    # sides that leave no pixel centre exactly on the border of a pose
    image = smooth(1, (13, 10), seed=4)
    for base in (Pointwise(), Upright()):
        found = answer(Averaged(base, poses), image)[:, 0]
        expected = by_hand(base, image[0, 0].double().numpy(), poses)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)


def test_a_base_whose_answer_turns_with_the_slice_answers_the_same():
    base, images = Pointwise(), smooth()
    found, plain = answer(Averaged(base), images), answer(base, images)
    assert found.shape == plain.shape == (2, 3, 3, 40, 30)
    assert (found - plain).abs().max() < 0.02
    assert not torch.equal(found, plain)


def test_it_sums_to_one_for_any_size_and_keeps_members_apart():
    for shape in ((40, 30), (17, 64), (2, 3)):
        found = answer(Averaged(Pointwise(3)), torch.rand(2, 1, *shape))
        assert found.shape == (3, 2, 3, *shape)
        torch.testing.assert_close(found.sum(2), torch.ones(3, 2, *shape))
        assert (found >= 0).all()
    assert (found[0] - found[2]).abs().max() > 0.01


def test_what_a_pose_does_not_show_is_left_to_the_others():
    """The corners are out of sight of a slice turned by 45 degrees, its middle is not."""
    base, images = Upright(1), smooth(1, (20, 20))
    poses = (Pose(), Pose(degrees=45.0))
    found, plain = answer(Averaged(base, poses), images), answer(base, images)
    corners = found[0, 0, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(corners, plain[0, 0, 0][[0, 0, -1, -1], [0, -1, 0, -1]])
    assert (found - plain).abs().max() > 0.1


def test_beyond_its_edge_a_slice_goes_on_as_it_ends():
    """A slice of one grey shows no border, so that nothing is found there."""
    images = torch.full((1, 1, 12, 9), 700.0)
    for pose in POSES:
        torch.testing.assert_close(pose.show(images), images)


def test_a_quarter_turn_is_that_of_the_pixels():
    images = torch.rand(1, 1, 9, 9)
    torch.testing.assert_close(Pose(degrees=90.0).show(images), images.rot90(1, (2, 3)))


def test_undoing_a_pose_brings_every_pixel_in_sight_back():
    images = smooth()
    for pose in POSES:
        back, seen = pose.undo(pose.show(images))
        assert ((back - images).abs() * seen).max() < 0.05
        assert seen.mean() > 0.75
        assert seen.all() == pose.whole


def test_batches_are_streamed_and_may_be_of_several_sizes():
    drawn = []

    def batches():
        for shape in ((12, 10), (9, 14)):
            drawn.append(shape)
            yield torch.rand(2, 1, *shape)

    answers = Averaged(Pointwise()).probs(batches())
    assert drawn == []
    assert next(answers).shape[3:] == (12, 10)
    assert drawn == [(12, 10)]
    assert next(answers).shape[3:] == (9, 14)
    (mean,) = mean_probs(Averaged(Pointwise()), [torch.rand(2, 1, 8, 8)])
    assert mean.shape == (2, 3, 8, 8)


def test_learning_and_states_are_those_of_the_base():
    learner, base = Averaged(ClassMeans()), ClassMeans()
    assert isinstance(learner, Learner)
    images = torch.as_tensor(toy_train_set().images[0])[None, None]
    with pytest.raises(ColdStart):
        answer(learner, images)
    for each in (learner, base):
        each.fit(toy_train_set(), rng=np.random.default_rng(0))
    assert torch.equal(learner.state_dict()["means"], base.state_dict()["means"])
    other = Averaged(ClassMeans())
    other.load_state_dict(base.state_dict())
    assert torch.equal(answer(other, images), answer(learner, images))
    with pytest.raises(BadInput, match="ClassMeans"):
        learner.gradients([images])
    assert isinstance(learner, GradientLearner)
    assert planned_steps(Averaged(SingleNet(steps=7)), 3) == 7


def test_it_keeps_the_contract():
    small = {"size": 16, "steps": 2, "channels": (4, 8), "residual_units": 0}
    check_learner(lambda: Averaged(SingleNet(**small), POSES[:2]))


def test_poses_that_leave_pixels_out_are_refused():
    with pytest.raises(ValueError, match="none shows a whole slice"):
        Averaged(ClassMeans(), (Pose(degrees=5.0), Pose(zoom=1.1)))
    with pytest.raises(ValueError, match="none shows a whole slice"):
        Averaged(ClassMeans(), ())
    with pytest.raises(ValueError, match="learner of volumes"):
        Averaged(replace(ClassMeans(), unit="volume"))
    for wrong in ({"zoom": 0.0}, {"degrees": math.nan}, {"zoom": math.inf}):
        with pytest.raises(ValueError, match="must be a number"):
            Pose(**wrong)
