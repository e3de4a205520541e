"""The trainings of the small saliency networks run, resume and follow their seed."""

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
from workshop import scenes
from workshop.folding import fold
from workshop.losses import cross_entropy, sam_loss, squared_error
from workshop.saliency_training import (
    RECIPES,
    SaliencyTrainingConfig,
    held_out_quality,
    train_saliency,
    untrained,
)
from workshop.scenes import draw_scene, render_scenes

NAMES = sorted(RECIPES)
TINY = SaliencyTrainingConfig(
    width=0.02, scenes=8, held_out=2, steps=4, batch=4, small=0.2, final_share=0, warmup=1,
    checkpoint_every=2, workers=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Scenes of a seed that no embedded network was trained on."""
    folder = tmp_path_factory.mktemp("unseen")
    return render_scenes(folder, scenes=12, seed=12_345, part="held-out", workers=1)


def test_scenes_depend_on_their_names_alone(unseen, tmp_path):
    image, _ = draw_scene(12_345, "held-out", 3)
    assert np.array_equal(image, unseen.images[3])
    for other in ((12_345, "held-out", 4), (12_345, "training", 3), (1, "held-out", 3)):
        assert not np.array_equal(draw_scene(*other)[0], image)
    two = render_scenes(tmp_path, scenes=12, seed=12_345, part="held-out", workers=2)
    assert np.array_equal(two.images, unseen.images)
    assert np.array_equal(two.densities, unseen.densities)
    with pytest.raises(StudyError, match="expected the recipe"):
        render_scenes(unseen.folder, scenes=12, seed=5, part="held-out", workers=1)


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


@pytest.mark.parametrize("name", NAMES)
def test_a_training_runs_resumes_and_follows_its_seed(name, tmp_path):
    whole = train_saliency(name, TINY, tmp_path / "whole")
    assert type(load_embedded(whole)) is NETWORKS[name]
    facts = json.loads(whole.with_suffix(".json").read_text(encoding="utf-8"))
    assert (facts["steps"], facts["scenes_seen"], facts["held_out"]["scenes"]) == (4, 16, 2)
    assert not list(whole.parent.glob("*.pt"))
    left = train_saliency(name, TINY, tmp_path / "killed", stop_after=3)
    assert left.suffix == ".pt"
    assert not list(left.parent.glob("*.safetensors"))
    with pytest.raises(StudyError, match="other settings"):
        train_saliency(name, TINY.model_copy(update={"learning_rate": 0.01}), left.parent)
    assert train_saliency(name, TINY, left.parent).read_bytes() == whole.read_bytes()
    other = train_saliency(name, TINY.model_copy(update={"seed": 1}), tmp_path / "seed")
    assert other.read_bytes() != whole.read_bytes()


def test_unknown_network_and_too_few_scenes(tmp_path):
    with pytest.raises(StudyError, match="expected one of salgan, salnet, sam-resnet, sam-vgg"):
        train_saliency("salnett", TINY, tmp_path)
    with pytest.raises(StudyError, match="at least batch = 16"):
        train_saliency("salnet", SaliencyTrainingConfig(scenes=10), tmp_path)


def test_losses_against_the_formulas():
    targets = torch.tensor([[[[0.1, 0.4], [0.4, 0.1]]]])
    saliency = torch.tensor([[[[0.2, 0.9], [0.5, 0.3]]]])
    highest_one = np.array([0.25, 1, 1, 0.25])
    s, t = saliency.numpy().ravel(), targets.numpy().ravel()
    squares = (s - (2 * highest_one - 1)) ** 2
    assert squared_error(saliency, targets).item() == pytest.approx(squares.mean(), rel=1e-5)
    entropy = -(highest_one * np.log(s) + (1 - highest_one) * np.log(1 - s))
    assert cross_entropy(saliency, targets).item() == pytest.approx(entropy.mean(), rel=1e-5)
    kl = (t * np.log(t / (s / s.sum()))).sum()
    nss = (t * (s - s.mean()) / s.std()).sum()
    sam = 10 * kl - 2 * np.corrcoef(s, t)[0, 1] - nss
    assert sam_loss(saliency, targets).item() == pytest.approx(sam, abs=1e-3)


def test_the_exported_network_equals_the_trained_one():
    network = untrained("sam-vgg", 0.03, seed=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    images = torch.randn(2, 3, *RECIPES["sam-vgg"].size) * 60
    with torch.no_grad():
        network.train()
        for _ in range(3):  # running statistics that are neither zero nor one
            network(nn.functional.avg_pool2d(images, 4) * 2)
        network.eval()
        plain = NETWORKS["sam-vgg"](0.03).eval()
        plain.load_state_dict(fold(network).state_dict())
        expected, found = network(images), plain(images)
    assert expected.std() > 1e-4
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_embedded_weights_find_unseen_objects_and_random_weights_do_not(name, unseen):
    path = embedded_dir() / f"{name}-mini.safetensors"
    assert path.stat().st_size < 3_000_000
    network = load_embedded(path)
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about == {key: facts[key] for key in about}

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
