"""Profiles: strict keys and types, inheritance, dotted settings, digests that do not move."""

import json
import subprocess
import sys

import pytest

from blcf_utils.config.profile import (
    BackboneConfig,
    Profile,
    apply_settings,
    load_profile,
    profile_names,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.settings import canonical_json, digest_of


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A project folder whose profiles the test writes: ``profiles(name, yaml)``."""
    folder = tmp_path / "data" / "profiles"
    folder.mkdir(parents=True)
    monkeypatch.setenv("BLCF_HOME", str(tmp_path))

    def write(name, text):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        return folder / f"{name}.yaml"

    return write


def test_defaults_are_the_paper_s():
    profile = Profile(name="x", datasets=("d",))
    assert profile.features.backbone.label == "vgg16 conv5_1 (auto)"
    assert (profile.features.longest_side, profile.features.backbone.relu) == (340, "post")
    assert (profile.whitening.dimensions, profile.codebook.words) == (512, 25_000)
    assert profile.encoding.interpolate == 2
    assert not profile.encoding.idf


def test_a_label_shows_a_file_s_name_without_its_folder():
    label = BackboneConfig(name="resnet18", layer="layer3", weights="/home/me/w/r18.pth").label
    assert label == "resnet18 layer3 (r18.pth)"


def test_extends_merges_groups_and_replaces_backbones(profiles):
    profiles(
        "base",
        """
        datasets: [a, b]
        seed: 3
        features: {longest_side: 200, backbone: {name: vgg16, layer: conv4_1, relu: pre}}
        codebook: {words: 64, iterations: 7}
        """,
    )
    profiles(
        "child",
        """
        extends: base
        datasets: [c]
        features: {backbone: {name: alexnet, layer: conv5}}
        codebook: {words: 32}
        """,
    )
    child = load_profile("child")
    assert (child.name, child.datasets, child.seed) == ("child", ("c",), 3)
    assert (child.codebook.words, child.codebook.iterations) == (32, 7)
    assert child.features.longest_side == 200
    assert child.features.backbone == BackboneConfig(name="alexnet", layer="conv5")  # relu: post
    assert profile_names() == ["base", "child"]


def test_a_yaml_path_is_a_profile_and_may_extend_a_named_one(profiles, tmp_path):
    profiles("base", "datasets: [a]\nseed: 5\n")
    own = tmp_path / "own.yaml"
    own.write_text("extends: base\ncodebook: {words: 9}\n", encoding="utf-8")
    profile = load_profile(str(own))
    assert (profile.name, profile.seed, profile.codebook.words) == ("own", 5, 9)


@pytest.mark.parametrize(
    "files", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}]
)
def test_a_cycle_of_extends_is_named(profiles, files):
    for name, base in files.items():
        profiles(name, f"extends: {base}\ndatasets: [d]\n")
    with pytest.raises(StudyError, match=r"extends itself through a -> "):
        load_profile("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [a]\nwords: 3", r"profile p: words: "),
        ("datasets: [a]\ncodebook: {word: 3}", r"profile p: codebook\.word: "),
        ("datasets: [a]\nfeatures: {backbone: {nam: x}}", r"features\.backbone\.nam: "),
        ("datasets: [a]\ncodebook: {words: many}", r"codebook\.words: .*integer"),
        ("datasets: [a]\ncodebook: {words: 1.5}", r"codebook\.words: .*integer"),
        ("datasets: [a]\ncodebook: {words: 70000}", r"codebook\.words: .*65535"),
        ("datasets: [a]\nfeatures: {longest_side: 8}", r"features\.longest_side: .*32"),
        ("datasets: [a]\nfeatures: {backbone: {relu: both}}", r"relu: .*'post' or 'pre'"),
        ("datasets: []", r"profile p: datasets: "),
        ("seed: 1", r"profile p: datasets: field required"),
        ("datasets: a", r"profile p: datasets: "),
        ("datasets: [a]\ncodebook: 12", r"profile p: codebook: "),
        ("- a\n- b", r"expected a mapping of settings, found list"),
        ("datasets: [a", r"p\.yaml: not valid YAML"),
    ],
)
def test_a_wrong_profile_says_which_key(profiles, text, message):
    profiles("p", text)
    with pytest.raises(StudyError, match=message) as caught:
        load_profile("p")
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_lists_the_known_ones(profiles):
    profiles("mine", "datasets: [a]")
    with pytest.raises(StudyError, match=r"unknown profile 'yours': expected one of mine"):
        load_profile("yours")


def test_dotted_settings_change_single_values(profiles):
    profiles("p", "datasets: [a]\nfeatures: {backbone: {name: vgg19, layer: conv4_2}}")
    changed = load_profile(
        "p",
        {
            "codebook.words": 7,
            "features.backbone.relu": "pre",
            "features.backbone.layer": "conv5_2",
            "features.longest_side": 99,
            "learn_on.a": "b",
            "seed": 2,
        },
    )
    network = BackboneConfig(name="vgg19", layer="conv5_2", relu="pre")
    assert (changed.codebook.words, changed.features.longest_side, changed.seed) == (7, 99, 2)
    assert changed.features.backbone == network
    assert changed.codebook.iterations == 20
    assert (changed.teacher_of("a"), changed.teacher_of("c")) == ("b", "c")
    with pytest.raises(StudyError, match=r"codebook\.wrods"):
        load_profile("p", {"codebook.wrods": 7})
    with pytest.raises(StudyError, match=r"seed"):
        load_profile("p", {"seed.of": 7})


def test_settings_leave_their_input_alone():
    values = {"features": {"backbone": {"name": "vgg16"}}, "codebook": {"words": 3}}
    before = json.dumps(values)
    apply_settings(values, {"codebook.words": 4, "features.backbone.layer": "conv1_1"})
    assert json.dumps(values) == before


def test_a_configuration_cannot_be_changed():
    profile = Profile(name="x", datasets=("d",))
    with pytest.raises(ValueError, match="frozen"):
        profile.codebook.words = 3


def test_equal_values_have_equal_digests_and_any_change_another():
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    base = Profile(name="x", datasets=("d",))
    assert base.digest() == Profile(datasets=["d"], name="x").digest()
    assert base.digest() != Profile(name="x", datasets=("d",), seed=1).digest()
    pre = BackboneConfig(relu="pre")
    assert pre.digest() != BackboneConfig().digest()


def test_digests_are_the_same_in_another_process():
    # SHA-256 of {"a":1}, by hand: sha256sum of these seven bytes.
    assert digest_of({"a": 1}) == "015abd7f5cc57a2d"
    code = (
        "from blcf_utils.config.profile import Profile; "
        "print(Profile(name='x', datasets=('b', 'a', 'z'), "
        "learn_on={'z': 'y', 'b': 'a'}).digest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    profile = Profile(name="x", datasets=("b", "a", "z"), learn_on={"b": "a", "z": "y"})
    assert done.stdout.strip() == profile.digest()
