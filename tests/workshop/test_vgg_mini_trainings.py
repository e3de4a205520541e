"""The trainings of vgg-mini and of its classifier run, resume and follow their seed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from blcf_utils.features.networks.vgg_mini import (
    MEAN,
    STD,
    VggMini,
    VggMiniTraining,
    fold_batch_norm,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import embedded_dir
from workshop.command import main
from workshop.head_training import HeadTrainingConfig, train_heads
from workshop.pretraining import PretrainingConfig, train_vgg_mini
from workshop.pretraining_set import render_pretraining_set

TINY = PretrainingConfig(
    instances=8, views=3, view_size=48, crop=32, final_crop=48, final_share=0.4, steps=5, batch=4,
    warmup=1, checkpoint_every=2, workers=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, own_cache):
    return train_vgg_mini(TINY, tmp_path_factory.mktemp("whole"))


def test_the_weights_fit_the_network_and_say_what_they_are(uninterrupted):
    tensors = load_file(uninterrupted)
    VggMini().load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    facts = json.loads(uninterrupted.with_suffix(".json").read_text())
    assert (facts["seed"], facts["images_seen"]) == (0, 5 * 4 * 2)
    assert not list(uninterrupted.parent.glob("*.pt"))


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path):
    left = train_vgg_mini(TINY, tmp_path, stop_after=3)
    assert left.suffix == ".pt"
    assert not (tmp_path / "vgg-mini.safetensors").exists()
    with pytest.raises(StudyError, match="other settings"):
        train_vgg_mini(TINY.model_copy(update={"learning_rate": 0.01}), tmp_path)
    assert train_vgg_mini(TINY, tmp_path).read_bytes() == uninterrupted.read_bytes()


def test_another_seed_gives_other_weights(uninterrupted, tmp_path):
    other = train_vgg_mini(TINY.model_copy(update={"seed": 1}), tmp_path)
    assert other.read_bytes() != uninterrupted.read_bytes()


def test_the_classifier_is_trained_and_follows_its_seed(tmp_path):
    tiny = {"instances": 6, "views": 4, "held_out": 1, "rounds": 1, "view_size": 48, "epochs": 12}
    config = HeadTrainingConfig(**tiny, batch=8, workers=1)
    path = train_heads(config, tmp_path / "one")
    known = json.loads(path.with_suffix(".json").read_text())
    assert known["chance"] == pytest.approx(1 / 6)
    assert max(known["accuracy_on_held_out_views"].values()) > 1 / 6
    assert train_heads(config, tmp_path / "two").read_bytes() == path.read_bytes()
    other = config.model_copy(update={"seed": 2})
    assert train_heads(other, tmp_path / "three").read_bytes() != path.read_bytes()


def test_views_do_not_depend_on_the_processes_and_another_recipe_is_refused(tmp_path):
    keys = {"instances": 5, "views": 2, "size": 32}
    one = render_pretraining_set(tmp_path / "one", **keys, workers=1)
    two = render_pretraining_set(tmp_path / "two", **keys, workers=2)
    assert np.array_equal(one.views, two.views)
    assert not np.array_equal(one.views[0, 0], one.views[0, 1])
    with pytest.raises(StudyError, match="another folder"):
        render_pretraining_set(tmp_path / "one", **keys, seed=1)


def test_embedded_weights_find_unseen_instances_and_random_weights_do_not(tmp_path):
    unseen = render_pretraining_set(
        tmp_path, instances=48, views=2, size=96, seed=12_345, workers=1
    ).views

    def found(network: VggMini) -> float:
        images = torch.from_numpy(np.array(unseen)).flatten(0, 1)
        inputs = images.permute(0, 3, 1, 2).float() / 255
        inputs = (inputs - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        with torch.no_grad():
            pooled = nn.functional.normalize(network(inputs).sum((2, 3)), dim=1)
        similarity = pooled @ pooled.T
        similarity.fill_diagonal_(-1)
        partner = torch.arange(len(pooled)) ^ 1
        return float((similarity.argmax(1) == partner).float().mean())

    embedded = VggMini().eval()
    tensors = load_file(embedded_dir() / "vgg-mini.safetensors")
    embedded.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    torch.manual_seed(0)
    untrained = fold_batch_norm(VggMiniTraining().eval()).eval()
    assert found(embedded) > 0.6
    assert found(embedded) > found(untrained) + 0.3


def _train(config, folder):
    return folder / f"one.safetensors-{config.steps}"


def _command(*arguments: str) -> None:
    main("A training.", PretrainingConfig, {"one": _train}, arguments)


def test_a_training_does_not_replace_the_weights_in_use(capsys):
    folders = []
    for steps in (3, 4):
        _command("--set", f"steps={steps}")
        weights, mend = capsys.readouterr().out.splitlines()
        assert mend.startswith(f"to use them in the study: cp {weights} ")
        assert mend.endswith(str(embedded_dir()))
        folders.append(weights.rpartition("/")[0])
    assert folders[0] != folders[1]
    _command("--out", str(embedded_dir()))
    assert capsys.readouterr().out.splitlines() == [f"{embedded_dir()}/one.safetensors-2400"]


@pytest.mark.parametrize(
    ("given", "said"),
    [("steps", "expected KEY=VALUE"), ("steps=0", "--set steps: "), ("step=1", "--set step: ")],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(capsys, given, said):
    with pytest.raises(SystemExit) as left:
        _command("--set", given)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
