"""Training of the embedded saliency networks: scenes, batches, folding, resume, what is shipped."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from blcf_utils.datasets.rendering import photographs, streets
from blcf_utils.datasets.rendering.seeds import generator
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import embedded_dir
from blcf_utils.saliency.networks.networks import NETWORKS, load_embedded
from blcf_utils.saliency.training import scenes
from blcf_utils.saliency.training.folding import fold
from blcf_utils.saliency.training.losses import cross_entropy, sam_loss, squared_error
from blcf_utils.saliency.training.scenes import (
    centre_prior,
    density_of,
    draw_scene,
    render_scenes,
    targets_of,
)
from blcf_utils.saliency.training.training import (
    RECIPES,
    SaliencyTrainingConfig,
    held_out_quality,
    normalised,
    train_saliency,
    untrained,
)
from blcf_utils.saliency.training.training_batches import augment

NAMES = sorted(RECIPES)
TINY = SaliencyTrainingConfig(
    width=0.02, scenes=8, held_out=2, steps=4, batch=4, small=0.2, final_share=0, warmup=1,
    checkpoint_every=2, workers=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, cache):
    monkeypatch.setenv("BLCF_CACHE", str(cache))


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Scenes of a seed that no embedded network was trained on."""
    folder = tmp_path_factory.mktemp("unseen")
    return render_scenes(folder, scenes=20, seed=12_345, part="held-out", workers=1)


def test_a_scene_depends_on_its_name_alone(unseen):
    image, density = draw_scene(12_345, "held-out", 3)
    assert np.array_equal(image, unseen.images[3])
    assert image.shape == (192, 256, 3)
    assert image.dtype == np.uint8
    for other in ((12_345, "held-out", 4), (12_345, "training", 3), (1, "held-out", 3)):
        assert not np.array_equal(draw_scene(*other)[0], image)
    stored = unseen.densities[3].astype(float)
    assert stored.max() == 1
    assert np.corrcoef(stored.ravel(), density[2::4, 2::4].ravel())[0, 1] > 0.99


def test_number_of_processes_changes_no_byte(unseen, tmp_path):
    two = render_scenes(tmp_path, scenes=20, seed=12_345, part="held-out", workers=2)
    assert np.array_equal(two.images, unseen.images)
    assert np.array_equal(two.densities, unseen.densities)


def test_scenes_share_no_name_and_no_photograph_with_the_benchmarks(monkeypatch):
    names, pictures = [], []

    def named(*name):
        names.append(name)
        return generator(*name)

    def read(name, original=photographs.photograph):
        pictures.append(name)
        return original(name)

    monkeypatch.setattr(scenes, "generator", named)
    monkeypatch.setattr(streets, "generator", named)
    monkeypatch.setattr(photographs, "photograph", read)
    for cached in (scenes._pooled_thing, streets.facade, streets._side):
        cached.cache_clear()
    for index in range(14):
        draw_scene(3, "training", index)
    assert {name[:3] for name in names} == {("saliency", 3, "training")}
    assert len({name for name in names if "facade" in name}) > 3
    benchmark = {*photographs.SCENES["benchmark"], *photographs.PICTURES["benchmark"]}
    assert len(set(pictures)) > 5
    assert not benchmark & set(pictures)


def test_scenes_of_another_recipe_are_refused(unseen):
    with pytest.raises(StudyError, match="expected the recipe"):
        render_scenes(unseen.folder, scenes=20, seed=5, part="held-out", workers=1)


def _square(y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros((192, 256), np.float32)
    mask[y : y + side, x : x + side] = 1
    return mask


def test_density_grows_with_the_root_of_the_area_and_with_the_weight():
    small, large = _square(60, 20, 20), _square(60, 150, 40)
    density = density_of([small, large], [1.0, 1.0])
    assert density[:, 128:].sum() / density[:, :128].sum() == pytest.approx(2, rel=0.01)
    density = density_of([small, large], [0.2, 1.0])
    assert density[:, 128:].sum() / density[:, :128].sum() == pytest.approx(10, rel=0.01)
    assert np.unravel_index(density.argmax(), density.shape) == pytest.approx((79.5, 169.5), abs=1)


def test_targets_sum_to_one_and_are_higher_on_the_object():
    mask = _square(20, 30, 50)
    density = torch.from_numpy(density_of([mask], [1.0]))
    target = targets_of(density).numpy()
    assert target.sum() == pytest.approx(1, rel=1e-4)
    assert target[mask > 0].mean() > 10 * target[mask == 0].mean()
    assert target.min() > 0
    prior = centre_prior(192, 256)
    assert torch.equal(targets_of(torch.zeros(192, 256)), prior)
    assert prior.sum().item() == pytest.approx(1, rel=1e-4)
    assert prior[96, 128] == prior.max()


@pytest.mark.parametrize(
    ("canvas", "size"),
    [("squashed", (96, 128)), ("padded", (96, 128)), ("free", (96, 128)), ("free", (128, 96))],
)
def test_targets_follow_the_object_through_the_augmentation(canvas, size):
    mask = _square(40, 60, 70)
    images = torch.from_numpy(40 + 200 * mask).to(torch.uint8).expand(24, 3, 192, 256)
    densities = torch.nn.functional.avg_pool2d(torch.from_numpy(mask)[None], 4).expand(24, 48, 64)
    inputs, targets = augment(images, densities, size, canvas, seed=1)
    assert inputs.shape == (24, 3, *size)
    assert targets.shape == (24, 1, *(side // 2 for side in size))
    assert torch.allclose(targets.sum((1, 2, 3)), torch.ones(24), atol=1e-4)
    grey = nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 2)
    black = grey == 0
    compared = 0
    for picture, target, border in zip(grey, targets, black, strict=True):
        seen, looks = picture[~border], target[~border]
        bright = (seen > (seen.min() + seen.max()) / 2).float()
        if seen.max() > 2 * seen.min() and 0.05 < bright.mean() < 0.95:
            assert torch.corrcoef(torch.stack([bright, looks]))[0, 1] > 0.85
            compared += 1
    assert compared > 12
    assert black.any() == (canvas == "padded")
    assert (targets[black] == 0).all()
    assert ((black.float().mean((1, 2, 3)) > 0).float().mean() < 0.8).item()


def test_augmentation_depends_on_its_seed_alone(unseen):
    images = torch.from_numpy(np.array(unseen.images[:4])).permute(0, 3, 1, 2)
    densities = torch.from_numpy(unseen.densities[:4].astype(np.float32))
    first = augment(images, densities, (48, 64), "padded", seed=1)
    torch.rand(3)
    again = augment(images, densities, (48, 64), "padded", seed=1)
    other = augment(images, densities, (48, 64), "padded", seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", NAMES)
def test_training_feeds_what_the_network_itself_prepares(name):
    height, width = RECIPES[name].size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    fed = normalised(torch.from_numpy(image).permute(2, 0, 1)[None].float(), name)
    assert torch.allclose(fed, NETWORKS[name]().prepare(image), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_folded_network_is_the_plain_one_and_equals_the_trained_one(name):
    network = untrained(name, 0.03, seed=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    height, width = RECIPES[name].size
    images = torch.randn(2, 3, height, width) * 60 * RECIPES[name].scale
    with torch.no_grad():
        network.train()
        for _ in range(3):  # running statistics that are neither zero nor one
            network(nn.functional.avg_pool2d(images, 4) * 2)
        network.eval()
        plain = NETWORKS[name](0.03).eval()
        plain.load_state_dict(fold(network).state_dict())
        expected, found = network(images), plain(images)
    assert expected.std() > 1e-4
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


def test_sam_loss_against_the_formulas():
    generate = torch.Generator().manual_seed(0)
    saliency = torch.rand(3, 1, 6, 8, generator=generate, dtype=torch.float64)
    targets = torch.rand(3, 1, 6, 8, generator=generate, dtype=torch.float64)
    targets = targets / targets.sum((2, 3), keepdim=True)
    total = 0.0
    for s, t in zip(saliency.numpy(), targets.numpy(), strict=True):
        kl = (t * np.log(t / (s / s.sum()))).sum()
        cc = np.corrcoef(s.ravel(), t.ravel())[0, 1]
        nss = (t * (s - s.mean()) / s.std()).sum()
        total += (10 * kl - 2 * cc - nss) / 3
    assert sam_loss(saliency, targets).item() == pytest.approx(total, abs=1e-3)


def test_losses_of_salnet_and_salgan_against_the_formulas():
    targets = torch.tensor([[[[0.1, 0.4], [0.4, 0.1]]]])
    saliency = torch.tensor([[[[0.2, 0.9], [0.5, 0.3]]]])
    highest_one = np.array([0.25, 1, 1, 0.25])
    s = saliency.numpy().ravel()
    squares = (s - (2 * highest_one - 1)) ** 2
    assert squared_error(saliency, targets).item() == pytest.approx(squares.mean(), rel=1e-5)
    entropy = -(highest_one * np.log(s) + (1 - highest_one) * np.log(1 - s))
    assert cross_entropy(saliency, targets).item() == pytest.approx(entropy.mean(), rel=1e-5)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_CACHE", str(cache))
        return {
            name: train_saliency(name, TINY, tmp_path_factory.mktemp(name))
            for name in ("salnet", "sam-vgg")
        }


def test_export_fits_its_class_and_says_what_it_is(uninterrupted):
    for name, path in uninterrupted.items():
        assert path.name == f"{name}-mini.safetensors"
        network = load_embedded(path)
        assert type(network) is NETWORKS[name]
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert facts["parameters"] == sum(p.numel() for p in network.parameters())
        assert (facts["steps"], facts["scenes_seen"], facts["held_out"]["scenes"]) == (4, 16, 2)
        assert set(facts["held_out"]["network"]) == {"cc", "sim", "kl", "nss"}
        assert not list(path.parent.glob("*.pt"))


@pytest.mark.parametrize(("name", "stop"), [("salnet", 3), ("sam-vgg", 1)])
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, name, stop):
    left = train_saliency(name, TINY, tmp_path, stop_after=stop)
    assert left.suffix == ".pt"
    assert not (tmp_path / f"{name}-mini.safetensors").exists()
    weights = train_saliency(name, TINY, tmp_path)
    assert weights.read_bytes() == uninterrupted[name].read_bytes()


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    train_saliency("salgan", TINY, tmp_path, stop_after=1)
    other = TINY.model_copy(update={"learning_rate": 0.01})
    with pytest.raises(StudyError, match="other settings"):
        train_saliency("salgan", other, tmp_path)


def test_unknown_network_and_too_few_scenes(tmp_path):
    with pytest.raises(StudyError, match="expected one of salgan, salnet, sam-resnet, sam-vgg"):
        train_saliency("salnett", TINY, tmp_path)
    with pytest.raises(StudyError, match="at least batch = 16"):
        train_saliency("salnet", SaliencyTrainingConfig(scenes=10), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(tmp_path, name):
    config = TINY.model_copy(update={"steps": 40, "width": 0.05, "small": 0.25})
    checkpoint = train_saliency(name, config, tmp_path, stop_after=36)
    losses = torch.load(checkpoint, weights_only=True)["losses"]
    before, after = np.mean(losses[:5]), np.mean(losses[-5:])
    # SAM's loss goes below zero; cross-entropy cannot fall under the entropy of its targets.
    assert after < (0.95 * before if name == "salgan" else 0.8 * before)


@pytest.mark.parametrize("name", NAMES)
def test_embedded_weights_find_unseen_objects_and_random_weights_do_not(name, unseen):
    path = embedded_dir() / f"{name}-mini.safetensors"
    assert path.stat().st_size < 3_000_000
    network = load_embedded(path)
    assert type(network) is NETWORKS[name]
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about == {key: facts[key] for key in about}
    assert facts["held_out"]["network"]["cc"] > facts["held_out"]["centre_prior"]["cc"] + 0.1

    def judged(network) -> dict:
        def predict(image):
            with torch.inference_mode():
                output = network(network.prepare(image))
            return network.finish(output[0, 0].numpy(), *image.shape[:2])

        return held_out_quality(predict, unseen)

    trained = judged(network)
    assert trained["network"]["cc"] > trained["centre_prior"]["cc"] + 0.1
    assert trained["network"]["kl"] < trained["centre_prior"]["kl"]
    random = judged(fold(untrained(name, facts["width"], seed=0).eval()))
    assert trained["network"]["cc"] > random["network"]["cc"] + 0.1
