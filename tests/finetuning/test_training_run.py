"""What every training shares: the device it runs on."""

import pytest

from blcf_utils.finetuning.training_run import training_device
from blcf_utils.ground.errors import StudyError


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta:"])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(StudyError, match="device: expected auto, cpu, cuda"):
        training_device(name)
    assert training_device("cpu").type == "cpu"
