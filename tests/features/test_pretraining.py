"""Training of the embedded backbone: resume, determinism, export, loss."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from blcf_utils.features.networks.vgg_mini import VggMini
from blcf_utils.features.training.pretraining import PretrainingConfig, nt_xent, train_vgg_mini
from blcf_utils.features.training.pretraining_batches import augment, instances_of_step, load_step
from blcf_utils.finetuning.training_run import training_device
from blcf_utils.ground.errors import StudyError

TINY = PretrainingConfig(
    instances=8, views=3, view_size=48, crop=32, final_crop=48, final_share=0.4, steps=5, batch=4,
    warmup=1, checkpoint_every=2, workers=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, cache):
    monkeypatch.setenv("BLCF_CACHE", str(cache))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_CACHE", str(cache))
        return train_vgg_mini(TINY, tmp_path_factory.mktemp("whole"))


def test_export_fits_the_network_and_says_what_it_is(uninterrupted):
    tensors = load_file(uninterrupted)
    network = VggMini()
    network.load_state_dict({name: t.float() for name, t in tensors.items()})
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    assert uninterrupted.stat().st_size < 5_000_000
    with safe_open(uninterrupted, "pt") as file:
        assert json.loads(file.metadata()["about"])["steps"] == 5
    facts = json.loads(uninterrupted.with_suffix(".json").read_text())
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    assert facts["seed"] == 0
    assert facts["images_seen"] == 5 * 4 * 2
    assert facts["seconds"] > 0
    assert not list(uninterrupted.parent.glob("*.pt"))


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, stop):
    left = train_vgg_mini(TINY, tmp_path, stop_after=stop)
    assert left.suffix == ".pt"
    assert not (tmp_path / "vgg-mini.safetensors").exists()
    weights = train_vgg_mini(TINY, tmp_path)
    assert weights.read_bytes() == uninterrupted.read_bytes()


def test_another_seed_gives_other_weights(uninterrupted, tmp_path):
    other = train_vgg_mini(TINY.model_copy(update={"seed": 1}), tmp_path)
    assert other.read_bytes() != uninterrupted.read_bytes()


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    train_vgg_mini(TINY, tmp_path, stop_after=1)
    with pytest.raises(StudyError, match="other settings"):
        train_vgg_mini(TINY.model_copy(update={"learning_rate": 0.01}), tmp_path)


def test_too_few_instances_for_a_batch(tmp_path):
    with pytest.raises(StudyError, match="at least batch = 64"):
        train_vgg_mini(PretrainingConfig(instances=10), tmp_path)


def test_an_epoch_visits_every_instance_once():
    steps = [instances_of_step(s, instances=12, batch=4, seed=5) for s in range(6)]
    assert sorted(np.concatenate(steps[:3])) == list(range(12))
    assert sorted(np.concatenate(steps[3:])) == list(range(12))
    assert not np.array_equal(np.concatenate(steps[:3]), np.concatenate(steps[3:]))


def test_pairs_are_two_different_views_of_one_instance():
    views = np.zeros((6, 3, 4, 4, 3), np.uint8)
    views[:] = (10 * np.arange(6)[:, None] + np.arange(3))[..., None, None, None]
    for step in range(4):
        images, instances = load_step(views, step, batch=3, seed=0)
        marks = images[:, 0, 0, 0].numpy()
        assert np.array_equal(marks // 10, instances.numpy())
        assert np.array_equal(instances[:3], instances[3:])
        assert (marks[:3] != marks[3:]).all()


def test_nt_xent_against_a_slow_implementation():
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(3, 5), dim=1) for _ in range(2))
    both = [*first, *second]
    total = 0.0
    for i, row in enumerate(both):
        partner = (i + 3) % 6
        others = [float(torch.exp(row @ both[j] / 0.2)) for j in range(6) if j != i]
        total -= float(torch.log(torch.exp(row @ both[partner] / 0.2) / sum(others)))
    assert nt_xent(first, second, 0.2).item() == pytest.approx(total / 6, rel=1e-5)


def test_augmentation_depends_on_its_seed_alone():
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    state = torch.random.get_rng_state()
    first = augment(images, 32, seed=1)
    assert first.shape == (4, 3, 32, 32)
    torch.rand(7)
    assert torch.equal(first, augment(images, 32, seed=1))
    assert not torch.equal(first, augment(images, 32, seed=2))
    torch.random.set_rng_state(state)


def test_training_lowers_the_loss(tmp_path):
    config = TINY.model_copy(
        update={"steps": 60, "instances": 16, "batch": 8, "crop": 32, "final_crop": 32}
    )
    train_vgg_mini(config, tmp_path, stop_after=59)
    losses = torch.load(tmp_path / "vgg-mini.checkpoint.pt", weights_only=True)["losses"]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta:"])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(StudyError, match="device: expected auto, cpu, cuda"):
        training_device(name)
    assert training_device("cpu").type == "cpu"
