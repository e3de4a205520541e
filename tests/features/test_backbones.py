"""Backbones against the full torchvision models: names, cuts, weights, errors."""

import hashlib
import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks import backbones
from blcf_utils.features.networks.backbones import (
    BACKBONES,
    Architecture,
    Cut,
    layer_names,
    load_backbone,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.torchvision_compat import ensure_torchvision

ensure_torchvision()
import torchvision  # noqa: E402

# (block, convolutions in it, place of each in torchvision's `features`), read off its listing.
VGG16 = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
VGG19 = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14, 16), 4: (19, 21, 23, 25), 5: (28, 30, 32, 34)}


@pytest.mark.parametrize(("name", "places"), [("vgg16", VGG16), ("vgg19", VGG19)])
def test_vgg_layers_have_caffe_s_names_at_torchvision_s_places(name, places):
    with torch.device("meta"):
        features = getattr(torchvision.models, name)().features
    cuts = backbones.caffe_layers(features)
    for block, convolutions in places.items():
        for number, place in enumerate(convolutions, 1):
            assert isinstance(features[place], nn.Conv2d)
            assert cuts.pop(f"conv{block}_{number}") == Cut(place + 1, has_relu=True)
        assert cuts.pop(f"pool{block}") == Cut(convolutions[-1] + 3)
    assert cuts == {}
    assert layer_names(name)[:3] == ["conv1_1", "conv1_2", "pool1"]


def full_model(name, seed=0):
    """The torchvision model with random weights (batch statistics too) and no classifier."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    if hasattr(model, "features"):
        model = nn.Sequential()
        with torch.device("meta"):
            model.features = getattr(torchvision.models, name)(weights=None).features
    else:
        model.fc = nn.Identity()
        if name == "resnet101":  # most of its weights, and not needed
            model.layer3 = model.layer4 = nn.Identity()
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            deviation = (2 / value[0].numel()) ** 0.5 if value.dim() == 4 else 0.1
            mean = 1.0 if "bn" in key and "weight" in key else 0.0
            value.normal_(mean, deviation, generator=generator)
        else:
            value.zero_()
    return model


@pytest.mark.parametrize(
    ("name", "layer", "relu", "module"),
    [
        ("vgg16", "conv5_1", "post", "features.25"),
        ("vgg16", "conv5_1", "pre", "features.24"),
        ("vgg16", "pool4", "post", "features.23"),
        ("vgg19", "conv3_4", "post", "features.17"),
        ("alexnet", "conv3", "post", "features.7"),
        ("alexnet", "conv5", "pre", "features.10"),
        ("alexnet", "pool5", "post", "features.12"),
        ("resnet18", "layer3", "post", "layer3"),
        ("resnet50", "layer2", "post", "layer2"),
        ("resnet101", "layer1", "post", "layer1"),
        ("squeezenet1_1", "conv1", "pre", "features.0"),
        ("squeezenet1_1", "fire2", "post", "features.3"),
        ("squeezenet1_1", "fire9", "post", "features.12"),
    ],
)
def test_a_trunk_gives_the_full_model_s_activations(tmp_path, name, layer, relu, module):
    model = full_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    seen = []

    def keep(_module, _inputs, output):
        seen.append(output.clone())  # the ReLU after it works in place

    model.get_submodule(module).register_forward_hook(keep)
    pixels = torch.randn(2, 3, 67, 96, generator=torch.Generator().manual_seed(1))
    config = BackboneConfig(
        name=name,
        layer=layer,
        relu=relu,
        weights=str(tmp_path / "weights.pth"),
        normalisation="imagenet",
    )
    backbone = load_backbone(config)
    with torch.no_grad():
        (model.features if hasattr(model, "features") else model)(pixels)
        found = backbone.module(pixels)
    assert torch.equal(found, seen[0])
    assert (found < 0).any() == (relu == "pre")
    assert backbone.output_shape(67, 96) == tuple(found.shape[1:])
    content = (tmp_path / "weights.pth").read_bytes()
    assert backbone.weights_digest == hashlib.sha256(content).hexdigest()[:16]
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not backbone.module.training


def test_relu_of_the_map_before_is_the_map_after():
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for name, layer in (("alexnet", "conv4"), ("squeezenet1_1", "conv1")):
        before, after = (
            load_backbone(BackboneConfig(name=name, layer=layer, relu=relu, weights="random"))
            for relu in ("pre", "post")
        )
        assert (before.module(pixels) < 0).any()
        assert torch.equal(before.module(pixels).relu(), after.module(pixels))
        assert before.document() != after.document()


def test_the_reference_layer_has_512_channels_at_stride_16():
    backbone = load_backbone(BackboneConfig(weights="random"))
    assert backbone.channels == 512
    assert backbone.output_shape(255, 340) == (512, 15, 21)


def test_random_weights_follow_the_seed_and_are_said_loudly(caplog):
    with caplog.at_level(logging.WARNING, "blcf"):
        networks = [
            load_backbone(BackboneConfig(name=n, layer=la, weights="random", seed=seed))
            for n, la in (("squeezenet1_1", "fire2"), ("resnet18", "layer1"))
            for seed in (1, 1, 2)
        ]
    assert "RANDOM weights (seed 1): its numbers measure an untrained network" in caplog.text
    for one, same, other in (networks[:3], networks[3:]):
        states = [n.module.state_dict() for n in (one, same, other)]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])
        assert one.document() == same.document() != other.document()
        assert all(torch.isfinite(v).all() for v in states[0].values())


def load_squeezenet(path, layer="fire3"):
    return load_backbone(BackboneConfig(name="squeezenet1_1", layer=layer, weights=str(path)))


@pytest.fixture(scope="module")
def squeezenet_state():
    return full_model("squeezenet1_1").state_dict()


def test_wrapped_states_load_and_extra_tensors_are_mentioned(tmp_path, squeezenet_state, caplog):
    wrapped = {f"module.{key}": value.half() for key, value in squeezenet_state.items()}
    wrapped |= {"module.classifier.1.weight": torch.zeros(3), "module.odd": torch.zeros(1)}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING, "blcf"):
        loaded = load_squeezenet(tmp_path / "w.pt")
    assert "1 tensors not used, first odd" in caplog.text
    expected = squeezenet_state["features.3.squeeze.weight"].half().float()
    assert torch.equal(loaded.module.state_dict()["features.3.squeeze.weight"], expected)


def test_safetensors_load(tmp_path, squeezenet_state):
    from safetensors.torch import save_file

    save_file(squeezenet_state, tmp_path / "w.safetensors")
    loaded = load_squeezenet(tmp_path / "w.safetensors").module.state_dict()
    assert all(torch.equal(value, squeezenet_state[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "3.expand1x1" not in k}, r"2 of \d+ tensors are"),
        (lambda s: s | {"features.0.weight": torch.zeros(64, 3, 7, 7)}, r"features\.0\.weight has"),
        (lambda s: {"fc.weight": torch.zeros(2, 2)}, r"tensors are missing, first features\.0"),
        (lambda s: {"state_dict": {"a": 3}}, r"expected a state dict of tensors"),
        (lambda s: {0: torch.zeros(2)}, r"expected a state dict of tensors"),
        (lambda s: torch.zeros(3), r"expected a state dict of tensors"),
        (lambda s: [torch.zeros(3)], r"expected a state dict of tensors"),
        (lambda s: nn.Linear(2, 2), r"loads with weights_only"),
    ],
)
def test_other_networks_weights_are_refused(tmp_path, squeezenet_state, content, message):
    torch.save(content(squeezenet_state), tmp_path / "w.pth")
    with pytest.raises(StudyError, match=rf"w\.pth: .*{message}"):
        load_squeezenet(tmp_path / "w.pth")


def test_damaged_and_missing_files_are_named(tmp_path, squeezenet_state):
    torch.save(squeezenet_state, tmp_path / "w.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("cut.pth", "cut.safetensors"):
        with pytest.raises(StudyError, match=f"{name}: expected a state dict"):
            load_squeezenet(tmp_path / name)
    with pytest.raises(StudyError, match=r"no\.pth: no such weights file for backbone squeezenet"):
        load_squeezenet(tmp_path / "no.pth")


def test_local_weights_are_found_by_name(tmp_path, monkeypatch, squeezenet_state):
    config = BackboneConfig(name="squeezenet1_1", layer="fire2", weights="local")
    monkeypatch.delenv("BLCF_WEIGHTS", raising=False)
    with pytest.raises(StudyError, match="BLCF_WEIGHTS, which is not set"):
        load_backbone(config)
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    with pytest.raises(StudyError, match=r"expected one file matching .*, found none"):
        load_backbone(config)
    torch.save(squeezenet_state, tmp_path / "squeezenet1_1-b8a52dc0.pth")
    torch.save({}, tmp_path / "resnet18-f37072fd.pth")
    assert load_backbone(config).origin == "squeezenet1_1-b8a52dc0.pth"
    torch.save({}, tmp_path / "squeezenet1_1_other.pth")
    with pytest.raises(StudyError, match=r"found squeezenet1_1-b8a52dc0\.pth, squeezenet1_1_other"):
        load_backbone(config)
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "squeezenet1_1-b8a52dc0.pth"))
    assert load_backbone(config).origin == "squeezenet1_1-b8a52dc0.pth"


def test_unknown_names_list_the_known_ones():
    random = {"weights": "random"}
    for config, message in (
        (
            BackboneConfig(name="vgg11", weights="random"),
            r"unknown backbone 'vgg11': expected one of alexnet, ",
        ),
        (
            BackboneConfig(layer="conv6_1", weights="random"),
            r"unknown layer of vgg16 'conv6_1': .*conv1_1",
        ),
        (BackboneConfig(layer="pool5", relu="pre", **random), r"relu: pre needs .*conv1_1"),
        (
            BackboneConfig(name="resnet18", layer="layer3", relu="pre", weights="random"),
            r"\(none here\)",
        ),
        (BackboneConfig(weights="embedded"), r"unknown backbone with embedded weights 'vgg16'"),
    ):
        with pytest.raises(StudyError, match=message):
            load_backbone(config)


def test_a_registry_entry_adds_a_backbone(monkeypatch):
    def build():
        model = nn.Module()
        model.features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2))
        return model

    entry = Architecture(build, lambda m: OrderedDict(features=m.features), backbones.caffe_layers)
    monkeypatch.setitem(BACKBONES, "own", entry)
    assert layer_names("own") == ["conv1_1", "pool1"]
    backbone = load_backbone(BackboneConfig(name="own", layer="pool1", weights="random"))
    assert backbone.output_shape(12, 10) == (5, 5, 4)
    with pytest.raises(StudyError, match="torchvision has no weights for it"):
        load_backbone(BackboneConfig(name="own", layer="pool1", weights="torchvision"))


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [("squeezenet1_1", "fire9", (512, 15, 21)), ("resnet18", "layer3", (256, 16, 22))],
)
def test_real_weights_load_by_name(shared_weights, monkeypatch, caplog, name, layer, shape):
    monkeypatch.setenv("BLCF_WEIGHTS", str(shared_weights))
    with caplog.at_level(logging.WARNING, "blcf"):
        backbone = load_backbone(BackboneConfig(name=name, layer=layer, weights="local"))
    assert caplog.text == ""
    assert backbone.origin.startswith(name)
    assert backbone.output_shape(255, 340) == shape
    maps = backbone.module(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(maps).all()
    assert (maps >= 0).all()
    assert maps.max() > 0


@pytest.mark.weights
def test_weights_that_stop_short_name_the_missing_tensor(shared_weights, monkeypatch):
    monkeypatch.setenv("BLCF_WEIGHTS", str(shared_weights))
    with pytest.raises(StudyError, match=r"tensors are missing, first layer4\.0"):
        load_backbone(BackboneConfig(name="resnet18", layer="layer4", weights="local"))
