import math

import numpy as np
import pytest
import torch

from alnb.embed.quality import recall_at_1
from alnb.embed.train import EncoderRecipe, MetricEncoder, train_encoder
from alnb.errors import BadInput
from alnb.losses.contrastive import WEIGHTS, Weights
from alnb.models.resnet import backbone
from alnb.models.views import Views, two_views
from alnb.records import Step

TINY = EncoderRecipe(size=32, width=0.125, steps=4, batch=6, device="cpu")


def cohort(patients=4, phases=2, slices=3, seed=0):
    """Slices of gratings: a direction per patient, a wave length per phase, drifting along z."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:36, :30] / 36
    images, groups = [], []
    for patient in range(patients):
        angle = math.pi * patient / patients
        for phase in range(phases):
            for z in range(slices):
                wave = np.cos(angle) * rows + np.sin(angle) * columns
                image = np.sin(2 * math.pi * (2 + 2 * phase) * wave + 0.5 * z)
                images.append(image + 0.3 * rng.normal(size=rows.shape))
                groups.append((patient, 2 * patient + phase, z))
    return images, *np.array(groups).T


def train(data=None, *, recipe=TINY, seed=0, **rest):
    images, *groups = cohort() if data is None else data
    rng = np.random.default_rng(seed)
    return train_encoder(images, *groups, recipe=recipe, rng=rng, **rest)


def changed(**changes):
    return EncoderRecipe(**{"size": 32, "width": 0.125, "steps": 4, "device": "cpu"} | changes)


def after(count):
    """Asked before each step, it says stop once `count` steps were taken."""
    asked = iter(range(10_000))
    return lambda: next(asked) == count


def test_it_learns_without_labels_to_tell_volumes_apart():
    data = cohort(patients=8)
    images, _, volume, _ = data
    untrained, _ = train(data, stopped=lambda: True)
    # waves of any phase and place: nothing but direction and length tells a volume
    views = Views(rotate=2, shear=2, scale=(0.95, 1.05), flip=0, erase=0, move=0.3)
    encoder, report = train(
        data, recipe=changed(steps=80, batch=24, views=views, temperature=0.1, rate=3e-3)
    )
    assert recall_at_1(encoder(images), volume) > recall_at_1(untrained(images), volume) + 0.15
    assert report.steps == 80
    assert not report.notes


def test_the_same_seed_gives_the_same_encoder_and_another_another():
    first, same, other = (train(seed=seed)[0] for seed in (1, 1, 2))
    assert first.to_bytes() == same.to_bytes()
    assert first.name == same.name != other.name
    images = cohort()[0]
    assert np.array_equal(first(images), same(images))
    assert not np.allclose(first(images), other(images))


def test_torchs_and_numpys_own_generators_stay_where_they_are():
    before, old = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    train()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], old)  # noqa: NPY002


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "acdc"},
        {"weights": "ntxent", "average": 0.0, "optimiser": "adam", "schedule": "constant"},
    ],
)
def test_a_stopped_training_that_goes_on_ends_as_an_undisturbed_one(changes):
    recipe = changed(steps=9, batch=6, **changes)
    # nine steps reach into the next epoch, so the batches must go on in the middle of one
    whole, _ = train(recipe=recipe)
    kept: list[bytes] = []
    part, stopped = train(recipe=recipe, stopped=after(5), keep=kept.append)
    seen: list[Step] = []
    gone_on, report = train(recipe=recipe, seed=77, resume=kept[-1], on_step=seen.append)
    assert (stopped.stopped, stopped.steps) == (True, 5)
    assert [step.step for step in seen] == [6, 7, 8, 9]
    assert (report.stopped, report.steps) == (False, 9)
    assert gone_on.to_bytes() == whole.to_bytes()
    assert part.to_bytes() != whole.to_bytes()


def test_a_finished_training_that_goes_on_takes_no_step():
    kept: list[bytes] = []
    first, _ = train(keep=kept.append)
    seen: list[Step] = []
    again, report = train(resume=kept[-1], on_step=seen.append)
    assert not seen
    assert report.steps == 4
    assert again.to_bytes() == first.to_bytes()


def test_progress_is_reported_and_a_stop_is_honoured_at_the_next_step():
    seen: list[Step] = []
    encoder, report = train(
        recipe=changed(steps=50), on_step=seen.append, stopped=lambda: len(seen) == 2
    )
    assert [(step.step, step.total) for step in seen] == [(1, 50), (2, 50)]
    assert all(math.isfinite(step.loss) for step in seen)
    assert report.stopped
    assert np.isfinite(encoder(cohort()[0])).all()


@pytest.mark.parametrize("rest", [b"", b"cut short", "other seed of images", "other recipe"])
def test_a_rest_that_does_not_belong_here_is_not_used(rest):
    kept: list[bytes] = []
    if rest == "other seed of images":
        train(cohort(seed=5), keep=kept.append)
    elif rest == "other recipe":
        train(recipe=changed(steps=3, batch=6), keep=kept.append)
    else:
        kept.append(rest)
    fresh, _ = train()
    encoder, report = train(resume=kept[-1])
    assert encoder.to_bytes() == fresh.to_bytes()
    assert "began anew" in report.notes[0]


def test_what_is_kept_holds_no_pickle():
    kept: list[bytes] = []
    train(keep=kept.append)
    size = int.from_bytes(kept[-1][:8], "little")
    assert kept[-1][8:9] == b"{"
    assert size < len(kept[-1])


@pytest.mark.parametrize("name", ["acdc", "single_volume", "single_volume_slice", "ntxent"])
@pytest.mark.parametrize(
    ("patients", "phases", "slices"),
    [(1, 2, 3), (1, 1, 2), (3, 2, 1), (3, 1, 1), (2, 1, 3)],
    ids=["one patient", "two slices", "one slice per volume", "one slice per patient", "few"],
)
@pytest.mark.filterwarnings("ignore:All slices")
def test_small_cohorts_work_and_say_what_they_lack(name, patients, phases, slices):
    data = cohort(patients, phases, slices)
    encoder, report = train(data, recipe=changed(weights=name, steps=2))
    assert np.isfinite(encoder(data[0])).all()
    assert report.steps == 2
    lonely = patients == 1 and name != "ntxent"
    assert ["one patient" in note for note in report.notes] == [True] * lonely


@pytest.mark.filterwarnings("ignore:A batch of")
def test_a_batch_that_the_patients_do_not_fill_shrinks_with_a_note():
    _, report = train(cohort(patients=3), recipe=changed(batch=48))
    assert "batches hold 9 slices" in report.notes[0]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_slices_are_refused_with_a_way_out(count):
    images, *groups = cohort()
    with pytest.raises(BadInput, match=f"got {count}.*'pixels'"):
        train((images[:count], *(g[:count] for g in groups)))


def test_columns_that_do_not_match_are_refused():
    images, patient, volume, index = cohort()
    with pytest.raises(BadInput, match=r"24 images, .* have"):
        train((images, patient, volume[1:], index))


def test_an_image_that_is_not_finite_is_named():
    images, *groups = cohort()
    images[17] = images[17].copy()
    images[17][0, 0] = np.inf
    with pytest.raises(BadInput, match="Image 17 "):
        train((images, *groups))


def test_constant_images_do_no_harm():
    images, *groups = cohort()
    images[3] = np.zeros((36, 30))
    encoder, _ = train(([*images], *groups))
    assert np.isfinite(encoder([*images, np.ones((5, 5))])).all()


def test_a_training_that_diverges_at_once_is_an_error(monkeypatch):
    monkeypatch.setattr("alnb.embed.train.contrastive_loss", lambda z, *a, **k: z.sum() * math.nan)
    with pytest.raises(FloatingPointError, match="Nothing was learnt"):
        train()


def test_out_of_memory_halves_the_tuples(monkeypatch):
    asked = []

    def hungry(images, views, generator):
        asked.append(len(images))
        if len(images) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return two_views(images, views, generator)

    monkeypatch.setattr("alnb.embed.train.two_views", hungry)
    kept: list[bytes] = []
    recipe = changed(steps=3, batch=12)
    whole, report = train(recipe=recipe, keep=kept.append)
    assert asked == [12, 6, 6, 6]
    assert "Out of memory" in report.notes[0]
    again, _ = train(recipe=recipe, stopped=after(2), keep=kept.append)
    gone_on, _ = train(recipe=recipe, resume=kept[-1])
    assert gone_on.to_bytes() == whole.to_bytes() != again.to_bytes()


def test_the_papers_recipe():
    recipes = {name: EncoderRecipe.paper(name) for name in WEIGHTS}
    assert {name: r.batch for name, r in recipes.items() if name in ("acdc", "ntxent")} == {
        "acdc": 9,
        "ntxent": 8,
    }
    for name, recipe in recipes.items():
        assert recipe.batch % WEIGHTS[name].tuple_size == 0
        assert (recipe.size, recipe.rate, recipe.decay) == (256, 3e-4, 1e-6)
        assert (recipe.schedule, recipe.optimiser, recipe.average) == ("constant", "adam", 0)
        assert (recipe.temperature, recipe.width, recipe.epochs) == (0.5, 1, 100)
        assert recipe.intensities == "stored"
        assert recipe.views == Views()


def test_an_epoch_takes_each_slice_as_anchor_once():
    seen: list[Step] = []
    # 24 slices, tuples of 3, 2 tuples to a batch
    train(recipe=changed(steps=None, epochs=1.5, batch=6), on_step=seen.append)
    assert len(seen) == 18


def test_weights_from_a_file_are_where_it_begins(tmp_path):
    net = backbone(generator=torch.Generator())
    torch.save(net.state_dict(), tmp_path / "w.pt")
    recipe = changed(width=1, pretrained=str(tmp_path / "w.pt"))
    encoder, _ = train(recipe=recipe, stopped=lambda: True)
    own = encoder.net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"size": 16}, "at least 32"),
        ({"steps": 0}, "at least 1"),
        ({"epochs": 0}, "positive"),
        ({"width": 0.001}, "one feature"),
        ({"batch": 1}, "told apart"),
        ({"weights": "vepa"}, "acdc"),
        ({"intensities": "raw"}, "'stored'"),
        ({"pretrained": "w.pt", "width": 0.5}, "width=1"),
    ],
)
def test_settings_that_cannot_work_are_refused(bad, why):
    with pytest.raises(BadInput, match=why):
        EncoderRecipe(**bad)


def test_a_batch_that_tuples_do_not_divide_is_refused():
    with pytest.raises(BadInput, match="does not divide"):
        train(recipe=changed(batch=8))


def test_own_weights_give_the_encoder_a_name():
    encoder, _ = train(recipe=changed(weights=Weights(0, 1, 0, 0)))
    assert encoder.name.startswith("patient-32-")
    assert MetricEncoder.from_bytes(encoder.to_bytes()).name == encoder.name
