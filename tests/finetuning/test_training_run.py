"""What every training shares: the device it runs on, its threads."""

import pytest
import torch

from blcf_utils.finetuning.training_run import torch_threads, training_device
from blcf_utils.ground.errors import StudyError


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta:"])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(StudyError, match="device: expected auto, cpu, cuda"):
        training_device(name)
    assert training_device("cpu").type == "cpu"


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
