"""Readers of Caffe's and Lasagne's weight files, on files written here byte by byte."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.official.caffemodel import read_caffemodel
from blcf_utils.saliency.official.lasagne import read_lasagne

# ---- Caffe: a writer of protocol buffers -----------------------------------------------------


def varint(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob(array, style="packed"):
    """A BlobProto in one of the ways in which Caffe's versions and ports write it."""
    array = np.asarray(array)
    if style == "double":
        data = text(8, array.astype("<f8").tobytes())
    elif style == "unpacked double":
        data = b"".join(varint(8 << 3 | 1) + struct.pack("<d", x) for x in array.ravel())
    elif style in ("unpacked", "legacy unpacked"):
        data = b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in array.ravel())
    else:
        data = text(5, array.astype("<f4").tobytes())
    if style.startswith("legacy"):
        dims = (1,) * (4 - array.ndim) + array.shape
        return b"".join(number(i, dim) for i, dim in enumerate(dims, 1)) + data
    if style == "unpacked":
        return data + text(7, b"".join(number(1, dim) for dim in array.shape))
    return data + text(7, text(1, b"".join(varint(dim) for dim in array.shape)))


def unknown():
    """Fields that the reader has no use for, one of every wire type."""
    return (
        number(90, 2**63)
        + text(91, b"\x08\x96\x01")
        + varint(92 << 3 | 1)
        + bytes(8)
        + varint(93 << 3 | 5)
        + bytes(4)
    )


def caffemodel(layers, style="packed"):
    """A NetParameter: the older layout (V1) for the legacy styles, the present one otherwise."""
    parts = [text(1, "net"), unknown()]
    for name, blobs in layers.items():
        inner = b"".join(
            text(6 if style.startswith("legacy") else 7, blob(b, style)) for b in blobs
        )
        if style.startswith("legacy"):
            head = text(2, "bottom") + text(3, "top") + text(4, name) + number(5, 4)
            tail = b"".join(varint(7 << 3 | 5) + struct.pack("<f", rate) for rate in (1, 2))
            parts.append(text(2, head + inner + tail + unknown()))
        else:
            head = text(1, name) + text(2, "Convolution") + text(3, "bottom") + text(4, "top")
            parts.append(text(100, head + unknown() + inner + number(10, 1)))
    return b"".join(parts)


STYLES = ("packed", "unpacked", "double", "unpacked double", "legacy", "legacy unpacked")


@pytest.fixture
def layers():
    rng = np.random.default_rng(5)
    shapes = {"conv1": [(3, 2, 5, 4), (3,)], "relu1": [], "deconv": [(1, 1, 8, 8)]}
    return {
        name: [rng.normal(size=shape).astype(np.float32) for shape in blobs]
        for name, blobs in shapes.items()
    }


@pytest.mark.parametrize("style", STYLES)
def test_every_layout_of_a_caffe_model_gives_its_blobs(tmp_path, layers, style):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(layers, style))
    found = read_caffemodel(path)
    assert list(found) == ["conv1", "deconv"]  # not the layer without weights
    for name, blobs in found.items():
        for got, wanted in zip(blobs, layers[name], strict=True):
            legacy = style.startswith("legacy") and wanted.ndim == 1
            assert got.shape == ((1, 1, 1, 3) if legacy else wanted.shape)
            assert got.dtype == (np.float64 if "double" in style else np.float32)
            np.testing.assert_array_equal(got.ravel(), wanted.ravel())


def test_values_in_several_pieces_are_joined_in_the_file_s_order(tmp_path):
    values = np.arange(12, dtype="<f4")
    pieces = (
        text(5, values[:5].tobytes())
        + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in values[5:9])
        + text(6, bytes(8))  # the gradients
        + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in values[9:11])
        + text(5, values[11:].tobytes())
        + text(7, text(1, bytes([3, 4])))
    )
    path = tmp_path / "net.caffemodel"
    path.write_bytes(text(100, text(1, "ip") + text(7, pieces)))
    np.testing.assert_array_equal(read_caffemodel(path)["ip"][0], values.reshape(3, 4))


def test_large_dimensions_take_numbers_of_several_bytes(tmp_path):
    path = tmp_path / "net.caffemodel"
    values = np.arange(70_000, dtype=np.float32)
    path.write_bytes(caffemodel({"a": [values]}, "unpacked") + caffemodel({"b": [values]}))
    found = read_caffemodel(path)
    np.testing.assert_array_equal(found["a"][0], values)
    np.testing.assert_array_equal(found["b"][0], values)


def refused(read, path):
    """Read a bad file; return the message after checking that it is one useful sentence."""
    with pytest.raises(StudyError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert ", found " in message
    assert "; download " in message
    assert "\n" not in message
    assert not message.endswith(".")
    return message


@pytest.mark.parametrize("style", STYLES)
def test_a_caffe_model_cut_anywhere_is_refused_or_lacks_layers(tmp_path, layers, style):
    whole = caffemodel(layers, style)
    start = len(caffemodel({}))
    first = len(caffemodel({"conv1": layers["conv1"]}, style))
    second = len(caffemodel({"conv1": layers["conv1"], "relu1": []}, style))
    path = tmp_path / "cut.caffemodel"
    for length in {*range(0, len(whole), 7), *range(start + 50), first - 1, first, second}:
        path.write_bytes(whole[:length])
        if length in (first, second):  # between two layers: nothing is wrong with the bytes
            assert list(read_caffemodel(path)) == ["conv1"]
        else:
            refused(read_caffemodel, path)


def test_a_truncated_caffe_model_says_so(tmp_path, layers):
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(caffemodel(layers)[:-10])
    assert "truncated or other file (it ends 10 bytes early)" in refused(read_caffemodel, path)


OTHERS = {
    "an error page": b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n" * 20,
    "nothing": b"",
    "text": b'name: "SalNet"\ninput: "data1"\ninput_dim: 1\n',
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a pickle": pickle.dumps({"param values": [1, 2, 3]}),
    "zeros": bytes(1000),
    "a gzip file": b"\x1f\x8b\x08" + bytes(range(200)),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("read", [read_caffemodel, read_lasagne])
def test_other_files_under_the_name_are_refused(tmp_path, what, read):
    path = tmp_path / "weights"
    path.write_bytes(OTHERS[what])
    refused(read, path)


@pytest.mark.parametrize("read", [read_caffemodel, read_lasagne])
def test_missing_files_and_folders_are_refused(tmp_path, read):
    refused(read, tmp_path / "missing")
    refused(read, tmp_path)


def test_an_npz_file_is_no_caffe_model_and_the_other_way_round(tmp_path, layers):
    path = tmp_path / "weights"
    np.savez(open(path, "wb"), np.ones(3))  # noqa: SIM115
    refused(read_caffemodel, path)
    path.write_bytes(caffemodel(layers))
    assert "not a zip" in refused(read_lasagne, path)


@pytest.mark.parametrize(
    ("dims", "count"),
    [
        ([3, 4], 11),
        ([3], 0),
        ([], 2),
        ([0, 2**63], 0),
        ([2**64 - 1], 1),
        ([1] * 33, 1),
        ([0, 2**40], 0),
    ],
)
def test_a_blob_whose_shape_does_not_fit_its_data_is_refused(tmp_path, dims, count):
    shape = text(7, text(1, b"".join(map(varint, dims))))
    data = text(5, bytes(4 * count))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(text(100, text(1, "conv1") + text(7, shape + data)))
    assert f"holds {count} numbers" in refused(read_caffemodel, path)


def test_damaged_caffe_models_raise_nothing_but_the_study_s_error(tmp_path, layers):
    whole = caffemodel(layers) + caffemodel(layers, "legacy unpacked")
    rng = np.random.default_rng(0)
    path = tmp_path / "net.caffemodel"
    refusals = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_caffemodel(path)
        except StudyError:
            refusals += 1
    assert refusals > 50


# ---- Lasagne ---------------------------------------------------------------------------------


def test_arrays_come_in_the_order_of_their_numbers(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = [np.full((i + 1, 2), i, np.float32) for i in range(12)]  # arr_10 sorts before arr_2
    np.savez(path, *arrays)
    for got, wanted in zip(read_lasagne(path), arrays, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted)


def test_compressed_double_and_column_major_arrays_are_read(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = [np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3, 2))), np.zeros(2)]
    np.savez_compressed(path, *arrays)
    for got, wanted in zip(read_lasagne(path), arrays, strict=True):
        np.testing.assert_array_equal(got, wanted)


def npy(header, data):
    header = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_headers_of_python_2_are_read_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "weights.npz"
    values = np.arange(6, dtype="<f4")
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }"
    zipped(path, {"arr_0.npy": npy(header, values.tobytes())})
    np.testing.assert_array_equal(read_lasagne(path)[0], values.reshape(2, 3))
    assert not recwarn


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_pickled_code_is_never_executed(tmp_path):
    path, folder = tmp_path / "weights.npz", tmp_path / "made"
    bomb = np.empty(1, object)
    bomb[0] = Bomb(str(folder))
    np.savez(path, np.ones(2, np.float32), bomb)
    assert "never read" in refused(read_lasagne, path)
    path.write_bytes(pickle.dumps(Bomb(str(folder))))
    refused(read_lasagne, path)
    zipped(path, {"arr_0.npy": path.read_bytes()})
    refused(read_lasagne, path)
    assert not folder.exists()
    pickle.loads(pickle.dumps(Bomb(str(folder))))
    assert folder.exists()  # it would have been


def test_zips_of_something_else_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    zipped(path, {"archive/data.pkl": b"x", "archive/data/0": b"y"})
    assert "a zip of 'archive/data.pkl', 'archive/data/0'" in refused(read_lasagne, path)
    zipped(path, {})
    assert "a zip of nothing" in refused(read_lasagne, path)
    np.savez(path, W=np.ones(2))
    assert "a zip of 'W.npy'" in refused(read_lasagne, path)
    one = io.BytesIO()
    np.save(one, np.ones(2))
    zipped(path, {"arr_0.npy": one.getvalue(), "arr_2.npy": one.getvalue()})
    assert "a zip of 'arr_2.npy'" in refused(read_lasagne, path)
    path.write_bytes(one.getvalue())  # a lone array
    refused(read_lasagne, path)


def test_arrays_of_other_things_than_floats_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, np.ones(2, np.float32), np.arange(3))
    assert "arr_1.npy of type int64" in refused(read_lasagne, path)


def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
    for size in ("7", "1000000000000", "1" + "0" * 30):
        zipped(path, {"arr_0.npy": npy(header % size, bytes(24))})
        refused(read_lasagne, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_cut_anywhere_is_refused(tmp_path, save):
    path = tmp_path / "weights.npz"
    save(path, *[np.random.default_rng(i).normal(size=(5, 4, 3)) for i in range(3)])
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 29), *range(len(whole) - 25, len(whole))}:
        path.write_bytes(whole[:length])
        refused(read_lasagne, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz_files_raise_nothing_but_the_study_s_error(tmp_path, save):
    path = tmp_path / "weights.npz"
    save(path, *[np.random.default_rng(i).normal(size=(5, 4)) for i in range(3)])
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    messages = []
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_lasagne(path)
        except StudyError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert not any("\n" in message for message in messages)
