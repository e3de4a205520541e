"""The command line that the trainings of the workshop share."""

import pytest

from blcf_utils.ground.paths import embedded_dir
from workshop.command import main
from workshop.saliency_training import SaliencyTrainingConfig


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path))


def _train(config, folder):
    return folder / f"one.safetensors-{config.warmup}"


def _command(*arguments: str) -> None:
    main("A training.", SaliencyTrainingConfig, {"one": _train}, ("one", *arguments))


def test_a_training_does_not_replace_the_weights_in_use(capsys):
    folders = []
    for steps in (3, 4):
        _command("--set", f"warmup={steps}")
        weights, mend = capsys.readouterr().out.splitlines()
        assert mend.startswith(f"to use them in the study: cp {weights} ")
        assert mend.endswith(str(embedded_dir()))
        folders.append(weights.rpartition("/")[0])
    assert folders[0] != folders[1]
    _command("--out", str(embedded_dir()))
    assert capsys.readouterr().out.splitlines() == [f"{embedded_dir()}/one.safetensors-100"]


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
