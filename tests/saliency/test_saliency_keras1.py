"""Reading Keras 1's weight files, whole, damaged and pretended."""

import os
import pickle

import h5py
import numpy as np
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.official.keras1 import read_keras1

LAYERS = [
    ("input_1", []),
    ("zeta", [("zeta_W", np.arange(12, dtype=np.float32).reshape(3, 4)), ("zeta_b", np.ones(3))]),
    ("merge_1", []),
    ("alpha", [("alpha_gamma", np.array([1.5], np.float32))]),
]


def write_group(group, layers, strings):
    """What ``Container.save_weights_to_hdf5_group`` of Keras 1.1 writes."""
    group.attrs["layer_names"] = strings([name for name, _ in layers])
    for name, arrays in layers:
        layer = group.create_group(name)
        # Without weights this is an empty list, which h5py stores as floating-point numbers.
        layer.attrs["weight_names"] = strings([key for key, _ in arrays]) if arrays else []
        for key, array in arrays:
            layer.create_dataset(key, data=array)


def as_bytes(names):
    return [name.encode() for name in names]


def as_text(names):
    return np.array(names, dtype=h5py.string_dtype())


def write_keras1(path, layers, nested, strings=as_bytes):
    """Write a file as ``save_weights`` does or, nested, as ``save`` does after training."""
    with h5py.File(path, "w") as file:
        if not nested:
            write_group(file, layers, strings)
            return
        file.attrs["keras_version"] = b"1.1.0"
        file.attrs["model_config"] = b"{}"
        write_group(file.create_group("model_weights"), layers, strings)
        optimiser = file.create_group("optimizer_weights")
        optimiser.attrs["weight_names"] = [b"param_0"]
        optimiser.create_dataset("param_0", data=np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("strings", [as_bytes, as_text])
@pytest.mark.parametrize("nested", [False, True])
def test_layers_come_in_the_order_of_the_file_s_attributes(tmp_path, nested, strings):
    path = tmp_path / "weights.pkl"
    write_keras1(path, LAYERS, nested, strings)
    found = read_keras1(path)
    # Neither alphabetical nor the order of creation that HDF5 would give; "merge_1" is left out.
    assert [name for name, _ in found] == ["zeta", "alpha"]
    for (_, arrays), (_, expected) in zip(found, [LAYERS[1], LAYERS[3]], strict=True):
        assert [key for key, _ in arrays] == [key for key, _ in expected]
        for (_, array), (_, original) in zip(arrays, expected, strict=True):
            assert array.dtype == original.dtype
            np.testing.assert_array_equal(array, original)


class Harmful:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_pickle_is_not_executed(tmp_path, protocol):
    path, made = tmp_path / "weights.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps(Harmful(made), protocol))
    with pytest.raises(StudyError, match="Python pickle, of which nothing was executed") as error:
        read_keras1(path)
    assert str(path) in str(error.value)
    assert not made.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_pickle_of_plain_values_is_recognised(tmp_path, protocol):
    for value in ({"a": 1.0}, [1, 2], np.arange(3.0)):
        path = tmp_path / "weights.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(StudyError, match="Python pickle"):
            read_keras1(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>Not Found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "something else"),
        (b"could not find the release", "something else"),
    ],
)
def test_other_files_are_named(tmp_path, content, found):
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=f"weights.pkl: expected .* found {found};"):
        read_keras1(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(StudyError, match="no such file"):
            read_keras1(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "weights.pkl"
    write_keras1(path, LAYERS, nested=True)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StudyError, match="cut short or damaged") as error:
        read_keras1(path)
    assert "\n" not in str(error.value)


def test_hdf5_which_keras_did_not_write(tmp_path):
    path = tmp_path / "weights.pkl"
    with h5py.File(path, "w") as file:
        file["layer"] = np.zeros(3)
    with pytest.raises(StudyError, match="without the attribute layer_names"):
        read_keras1(path)


def test_a_layer_or_an_array_that_is_not_there(tmp_path):
    path = tmp_path / "weights.pkl"
    for gone in ("zeta", "zeta/zeta_b"):
        write_keras1(path, LAYERS, nested=False)
        with h5py.File(path, "r+") as file:
            del file[gone]
        with pytest.raises(StudyError, match="cut short or damaged"):
            read_keras1(path)


@pytest.mark.parametrize("content", [np.zeros(3, np.int64), np.array([b"text"])])
def test_an_array_of_something_else(tmp_path, content):
    path = tmp_path / "weights.pkl"
    write_keras1(path, LAYERS, nested=False)
    with h5py.File(path, "r+") as file:
        del file["zeta/zeta_b"]
        file["zeta/zeta_b"] = content
    with pytest.raises(StudyError, match="/zeta/zeta_b which is no array of floating-point"):
        read_keras1(path)
