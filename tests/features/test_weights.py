"""Weights: which are taken, downloads against a server here, and the pixels that they expect."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from blcf_utils.config.profile import BackboneConfig, Profile, load_profile
from blcf_utils.features.networks.backbones import (
    BACKBONES,
    load_backbone,
)
from blcf_utils.features.networks.heads import load_head, missing_head
from blcf_utils.features.networks.published import published_weights, torch_checkpoints
from blcf_utils.features.networks.weight_files import (
    EMBEDDED,
    EMBEDDED_FROZEN,
    candidate_files,
    choose_weights,
    refuse,
    settled,
    weights_identity,
    with_classifier,
)
from blcf_utils.features.networks.weights import CAFFE, IMAGENET, read_state
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root

SQUEEZE = BackboneConfig(name="squeezenet1_1", layer="fire2")
# The first filters of two published VGG-16 as they are printed, red, green, blue: Caffe's, and
# torchvision's IMAGENET1K_V1; and the first eight biases.
CAFFE_FILTER = """
 0.4800  0.4085 -0.0651  0.3105  0.0502 -0.4034 -0.0509 -0.2852 -0.4185
 0.5504  0.4401 -0.0814  0.3457  0.0406 -0.4535 -0.0586 -0.3307 -0.4850
 0.4295  0.3735 -0.0614  0.2748  0.0387 -0.3672 -0.0575 -0.2622 -0.3501"""
CAFFE_BIASES = "0.7343 0.0934 0.0678 0.8863 0.2599 0.6643 -0.0158 0.3249"
OTHER_FILTER = """
-0.5537  0.1427  0.5290 -0.5831  0.3566  0.7657 -0.6902 -0.0480  0.4841
 0.1755  0.0099 -0.0814  0.0441 -0.0703 -0.2604  0.1324 -0.1728 -0.1323
 0.3130 -0.1659 -0.4275  0.4752 -0.0827 -0.4870  0.6320  0.0193 -0.2775"""
OTHER_BIASES = "0.4034 0.3778 0.4644 -0.3228 0.3940 -0.3953 0.3951 -0.5496"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of its own without weights, beside an empty torch hub."""
    profiles = project_root() / "data" / "profiles"
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data" / "profiles").symlink_to(profiles)
    monkeypatch.setenv("BLCF_HOME", str(root))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("BLCF_WEIGHTS", raising=False)
    return root


def published(project, body: bytes, *urls: str, digest: str = "", name: str = SQUEEZE.name) -> None:
    digest = digest or hashlib.sha256(body).hexdigest()
    file = {"name": f"{name}-{digest[:8]}.pth", "about_bytes": len(body), "urls": list(urls)}
    entry = {"title": "t", "page": "p", "terms": "t", "citation": "c", "kind": "backbone"}
    entry["file"] = file | {"checksum": f"sha256:{digest[:8]}"}
    path = project / "data" / "weights.yaml"
    known = yaml.safe_load(path.read_text()) if path.exists() else {}
    path.write_text(yaml.safe_dump(known | {name: entry}))


@pytest.fixture(scope="module")
def squeezenet() -> bytes:
    torch.manual_seed(0)
    content = io.BytesIO()
    torch.save(BACKBONES["squeezenet1_1"].build().state_dict(), content)
    return content.getvalue()


def test_auto_downloads_what_torchvision_publishes_once(site, project, squeezenet, caplog):
    site.files["w.pth"] = squeezenet
    published(project, squeezenet, site.url("w.pth"))
    assert candidate_files(SQUEEZE) == []
    with caplog.at_level(logging.INFO, "blcf"):
        profile = settled(Profile(name="p", datasets=("d",), features={"backbone": SQUEEZE}))
    taken = profile.features.backbone
    assert taken == SQUEEZE.model_copy(update={"weights": "torchvision"})
    said = "squeezenet1_1 fire2, weights auto: taken is squeezenet1_1 fire2 (torchvision); "
    assert caplog.messages == [f"{said}BLCF_WEIGHTS is not set, torchvision's are there"]
    digest = hashlib.sha256(squeezenet).hexdigest()[:16]
    stored = torch_checkpoints() / f"squeezenet1_1-{digest[:8]}.pth"
    assert stored.read_bytes() == squeezenet
    assert weights_identity(profile) == [["squeezenet1_1", stored.name, digest]]
    assert load_backbone(SQUEEZE).weights_digest == load_backbone(taken).weights_digest == digest
    assert len(site.requests) == 1


def test_a_wrong_checksum_is_refused_and_the_next_address_used(site, project, squeezenet):
    site.files |= {"wrong.pth": squeezenet[:-1] + b"!", "right.pth": squeezenet}
    published(project, squeezenet, site.url("wrong.pth"))
    config = SQUEEZE.model_copy(update={"weights": "torchvision"})
    expected = f"sha256:{hashlib.sha256(squeezenet).hexdigest()[:8]}"
    with pytest.raises(StudyError, match=rf"wrong\.pth: expected {expected} but got [0-9a-f]+"):
        load_backbone(config)
    assert [path.suffix for path in torch_checkpoints().iterdir()] == []
    published(project, squeezenet, site.url("wrong.pth"), site.url("right.pth"))
    backbone = load_backbone(config)
    assert backbone.weights_digest.startswith(expected[7:])
    assert backbone.config.weights == "torchvision"
    (torch_checkpoints() / backbone.origin).write_bytes(squeezenet[:-1] + b"!")
    with pytest.raises(StudyError, match=rf"expected {expected} \(published\); delete it"):
        load_backbone(config)


def test_a_local_file_comes_first(site, project, squeezenet, tmp_path, monkeypatch, caplog):
    published(project, squeezenet, site.url("w.pth"))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "squeezenet1_1.pth").write_bytes(squeezenet)
    taken, why = choose_weights(SQUEEZE)
    assert (taken.weights, why) == ("local", "squeezenet1_1.pth lies in BLCF_WEIGHTS")
    (tmp_path / "mine" / "squeezenet1_1-2.pth").write_bytes(squeezenet)
    with pytest.raises(StudyError, match="expected one file"):
        choose_weights(SQUEEZE)
    assert site.requests == []


def test_offline_the_embedded_network_takes_the_place_everywhere(site, project, squeezenet, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/w.pth"
    published(project, squeezenet, url)
    asked = load_profile(
        "paper",
        {
            "features.backbone": {**SQUEEZE.document(), "weights": "auto"},
            "compare_backbones": [
                {"name": "squeezenet1_1", "layer": "fire3"},
                {"name": "squeezenet1_1", "layer": "fire3", "weights": "random"},
            ],
        },
    )
    with caplog.at_level(logging.WARNING, "blcf"):
        profile = settled(asked)
    assert profile.features.backbone == EMBEDDED
    assert [one.weights for one in profile.compare_backbones] == ["random"]
    assert profile.finetuning.training.frozen == EMBEDDED_FROZEN
    mini = load_profile("mini").finetuning.training
    assert mini.frozen == EMBEDDED_FROZEN
    assert profile.sum_pooling.full_layer == ""
    assert "taken is efficientnet_lite0 block11_expand (embedded)" in caplog.messages[0]
    assert "torchvision's could not be had" in caplog.messages[0]
    assert f"{url}: no connection" in caplog.messages[0]
    assert load_backbone(SQUEEZE).document() == load_backbone(EMBEDDED).document()
    assert settled(asked, refuse) == profile == settled(profile)


def test_the_network_s_own_embedded_weights_come_before_another_network(project):
    published(project, b"x", "http://127.0.0.1:9/w.pth")
    auto = EMBEDDED.model_copy(update={"weights": "auto"})
    assert choose_weights(auto)[0] == EMBEDDED


def test_finding_weights_does_not_load_torch():
    code = (
        "import sys; from blcf_utils.features.networks import weight_files as w;"
        "from blcf_utils.config.profile import load_profile;"
        "w.settled(load_profile('paper'), w.refuse); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_list_agrees_with_torchvision():
    from blcf_utils.ground.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from torchvision import models

    enums = {
        "vgg16": models.VGG16_Weights.IMAGENET1K_FEATURES,
        "vgg16-classifier": models.VGG16_Weights.IMAGENET1K_V1,
        "vgg19": models.VGG19_Weights.IMAGENET1K_V1,
        "alexnet": models.AlexNet_Weights.IMAGENET1K_V1,
        "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
        "resnet50": models.ResNet50_Weights.IMAGENET1K_V2,
        "resnet101": models.ResNet101_Weights.IMAGENET1K_V2,
        "squeezenet1_1": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    listed = {n: s for n, s in published_weights().items() if s.kind == "backbone"}
    assert list(listed) == list(enums)
    for name, source in listed.items():
        weights, file = enums[name], source.file
        assert file.urls[0] == weights.url
        assert all(url.endswith(f"/{file.name}") for url in file.urls)
        assert file.checksum == f"sha256:{Path(file.name).stem[-8:]}"
        assert file.about_bytes == pytest.approx(weights.meta["_file_size"] * 2**20, rel=1e-3)
        mean, std = {"caffe": CAFFE, "imagenet": IMAGENET}[source.normalisation]
        transforms = weights.transforms()
        np.testing.assert_allclose((mean, std), (transforms.mean, transforms.std))


def vgg16_state(filter_: str, biases: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The first layer of a VGG-16 whose first filter and biases are those printed."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 3, 3, 3, generator=generator) * 0.2
    weight[0] = torch.tensor([float(v) for v in filter_.split()]).reshape(3, 3, 3)
    bias = torch.randn(64, generator=generator)
    bias[:8] = torch.tensor([float(v) for v in biases.split()])
    return {"features.0.weight": weight * scale, "features.0.bias": bias}


def loaded(state: dict[str, torch.Tensor], path: Path, **settings):
    torch.save(state, path)
    return load_backbone(
        BackboneConfig(name="vgg16", layer="conv1_1", weights=str(path), **settings)
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (vgg16_state(CAFFE_FILTER, CAFFE_BIASES), CAFFE),
        (vgg16_state(OTHER_FILTER, OTHER_BIASES), IMAGENET),
        # Caffe's network for pixels normalised as torchvision does: (x - mean) / (255 * .226).
        (vgg16_state(CAFFE_FILTER, CAFFE_BIASES, 255 * 0.226), IMAGENET),
    ],
)
def test_a_vgg16_is_known_by_its_first_layer_whatever_its_name(tmp_path, state, expected):
    backbone = loaded(state, tmp_path / "vgg16-renamed.pth")
    assert (backbone.mean, backbone.std) == expected
    # A network that was fine-tuned, all layers: the first moves by less than this.
    noise = torch.Generator().manual_seed(1)
    tuned = {
        k: v + 0.03 * v.std() * torch.randn(v.shape, generator=noise) for k, v in state.items()
    }
    assert loaded(tuned, tmp_path / "tuned.pth").mean == expected[0]
    assert loaded(state, tmp_path / "w.pth", normalisation="caffe").std == CAFFE[1]


def test_what_cannot_be_told_is_asked_for(tmp_path):
    unknown = vgg16_state(CAFFE_FILTER, OTHER_BIASES[::-1].replace("-", ""))
    half = vgg16_state(CAFFE_FILTER, CAFFE_BIASES, 0.5)
    for state in (unknown, half):
        with pytest.raises(StudyError, match=r"w\.pth: nothing says .* features\.backbone\.norm"):
            loaded(state, tmp_path / "w.pth")
        own = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
        backbone = loaded(state, tmp_path / "w.pth", normalisation=own)
        assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    blue_first = vgg16_state(CAFFE_FILTER, CAFFE_BIASES)
    blue_first["features.0.weight"] = blue_first["features.0.weight"].flip(1)
    with pytest.raises(StudyError, match=r"reads BGR, expected RGB"):
        loaded(blue_first, tmp_path / "w.pth")
    with pytest.raises(StudyError, match=r"features\.backbone\.normalisation"):
        load_profile("mini", {"features.backbone.normalisation": "imagnet"})
    for wrong in ({"mean": [0, 0, 0]}, {"mean": [0, 0, 0], "std": [1, 1, 0]}):
        with pytest.raises(ValidationError):
            BackboneConfig(normalisation=wrong)


def test_a_published_file_is_known_under_another_name(project, tmp_path):
    state = vgg16_state(OTHER_FILTER, CAFFE_BIASES)  # of neither network
    torch.save(state, tmp_path / "x.pth")
    published(project, (tmp_path / "x.pth").read_bytes(), name="vgg16")
    config = BackboneConfig(name="vgg16", layer="conv1_1", weights=str(tmp_path / "x.pth"))
    assert load_backbone(config).std == IMAGENET[1]


@pytest.mark.weights
def test_the_real_caffe_weights_are_recognised_without_their_metadata(shared_weights, tmp_path):
    state = read_state(shared_weights / "vgg16_imagenet_features.safetensors")
    first = {key: state[key] for key in ("features.0.weight", "features.0.bias")}
    backbone = loaded(first, tmp_path / "vgg16-397923af.pth")  # as torchvision calls its other one
    assert (backbone.mean, backbone.std) == CAFFE


def test_netvlad_checkpoints_are_read(tmp_path):
    plain = vgg16_state(OTHER_FILTER, OTHER_BIASES)
    expected = loaded(plain, tmp_path / "plain.pth").module.state_dict()
    for prefix in ("encoder.", "module.encoder.", "encoder.module."):
        state = {key.replace("features.", prefix): value for key, value in plain.items()}
        state |= {"pool.centroids": torch.zeros(2, 3), "pool.conv.weight": torch.zeros(2, 3, 1, 1)}
        path = tmp_path / "w.pth.tar"
        content = {"epoch": 3, "best_score": np.float64(0.5), "state_dict": state}
        torch.save(content, path)
        config = BackboneConfig(name="vgg16", layer="conv1_1", weights=str(path))
        found = load_backbone(config).module.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
        assert "pool.centroids" in read_state(path)


def test_second_weights_bring_the_classifier_and_their_own_trunk(project, tmp_path, squeezenet):
    path = tmp_path / "whole.pth"
    path.write_bytes(squeezenet)
    trunk = {k: v for k, v in read_state(path).items() if not k.startswith("classifier")}
    torch.save(trunk, tmp_path / "trunk.pth")
    config = SQUEEZE.model_copy(update={"weights": str(tmp_path / "trunk.pth")})
    published(project, squeezenet, "http://127.0.0.1:9/w.pth")
    why = missing_head(config, "linear")
    assert "classifier.1.weight" in why
    assert "`blcf weights fetch squeezenet1_1` and --set features.backbone.classifier=torch" in why
    given = config.model_copy(update={"classifier": str(path)})
    assert missing_head(given, "linear") == ""
    assert load_head(given).linear.shape == (1000, 512)
    whole = with_classifier(given)
    assert (whole.weights, whole.classifier) == (str(path), "")
    assert weights_identity(Profile(name="p", datasets=("d",), features={"backbone": given})) == [
        ["squeezenet1_1", "trunk.pth", _digest(tmp_path / "trunk.pth"), "whole.pth", _digest(path)]
    ]
    second = config.model_copy(update={"classifier": "torchvision"})
    assert "run `blcf weights fetch squeezenet1_1`" in missing_head(second, "linear")
    torch_checkpoints().mkdir(parents=True)
    (torch_checkpoints() / f"squeezenet1_1-{_digest(path)[:8]}.pth").write_bytes(squeezenet)
    assert missing_head(second, "linear") == ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.fixture
def timm(project, monkeypatch):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("SKIPPED, NOT TESTED: backbones of timm; install the extra timm")
    (project / "data" / "weights.yaml").write_text("{}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(project / "hub"))
    from blcf_utils.ground.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    import timm

    return timm


def test_a_network_of_timm_gives_its_activations(timm, tmp_path):
    for name, layer, module in (
        ("resnet18", "layer3", "layer3"),
        ("convnext_atto", "stages.2", "stages.2"),
        ("efficientnet_lite0", "blocks.4", "blocks.4"),
    ):
        model = timm.create_model(name).eval()
        torch.save(model.state_dict(), tmp_path / "w.pth")
        config = BackboneConfig(name=f"timm:{name}", layer=layer, weights=str(tmp_path / "w.pth"))
        backbone, seen = load_backbone(config), []
        model.get_submodule(module).register_forward_hook(lambda *a, s=seen: s.append(a[2]))
        pixels = torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model(pixels)
            torch.testing.assert_close(backbone.module(pixels), seen[0])
        assert backbone.output_shape(97, 130) == tuple(seen[0].shape[1:])
        assert backbone.mean == tuple(model.pretrained_cfg["mean"])
        assert backbone.weights_digest == _digest(tmp_path / "w.pth")


def test_networks_of_timm_say_what_is_wrong(timm, tmp_path):
    def config(name="timm:resnet18", layer="layer3", **settings):
        return BackboneConfig(name=name, layer=layer, **settings)

    random = [load_backbone(config(weights="random", seed=seed)) for seed in (1, 1, 2)]
    states = [one.module.state_dict()["network.conv1.weight"] for one in random]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    state = timm.create_model("resnet18").state_dict()
    torch.save({k: v for k, v in state.items() if k != "layer2.0.conv1.weight"}, tmp_path / "w.pth")
    torch.save(state | {"conv1.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "v.pth")
    for wrong, message in (
        (config("timm:resnet17", weights="random"), "timm:resnet17: timm .* has no such network"),
        (config(layer="layer9", weights="random"), "unknown layer of timm:resnet18 'layer9'"),
        (config(weights=str(tmp_path / "w.pth")), r"1 of 120 tensors .* first layer2\.0\.conv1\.w"),
        (config(weights=str(tmp_path / "v.pth")), r"v\.pth could not be loaded"),
        (config(weights="timm"), "its published weights could not be loaded"),
        (config(relu="pre", weights="random"), "relu: pre is not offered"),
    ):
        with pytest.raises(StudyError, match=message):
            load_backbone(wrong)
    assert "only the study's own" in missing_head(config(weights=str(tmp_path / "w")), "linear")


def test_without_the_published_weights_of_timm_the_embedded_network_runs(timm):
    taken, why = choose_weights(BackboneConfig(name="timm:resnet18", layer="layer3"))
    assert taken == EMBEDDED
    assert "timm's could not be had" in why


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StudyError, match=r"pip install blcf-study\[timm\]"):
        load_backbone(BackboneConfig(name="timm:resnet18", layer="layer3", weights="random"))
