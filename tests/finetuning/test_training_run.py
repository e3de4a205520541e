"""What every training shares: the device it runs on, its threads."""

import pytest
import torch

from blcf_utils.finetuning.training_run import (
    torch_threads,
    training_device,
    training_precision,
)
from blcf_utils.ground.errors import StudyError


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta:"])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(StudyError, match="device: expected auto, cpu, cuda"):
        training_device(name)
    assert training_device("cpu").type == "cpu"


def test_bfloat16_is_not_chosen_for_a_gpu_that_only_imitates_it(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert training_precision("auto", torch.device("cuda")) == torch.float32
    assert training_precision("bfloat16", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(("free", "asked", "taken"), [(3, 2, 2), (1, 2, 1), (3, 0, 3)])
def test_a_training_takes_no_more_threads_than_are_free(free, asked, taken):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(free)
        with torch_threads(asked):
            assert torch.get_num_threads() == taken
        assert torch.get_num_threads() == free
    finally:
        torch.set_num_threads(before)
