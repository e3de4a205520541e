"""Weights of a Caffe model (``.caffemodel``), read from the protocol buffer without Caffe.

Field numbers are those of ``caffe.proto``: a NetParameter holds its layers in field 100, or in
field 2 when it was written before 2015 (V1LayerParameter). A blob has its shape in a message of
its own or, in older files, in four numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blcf_utils.ground.errors import StudyError

# The field of a NetParameter that holds layers -> the layer's fields with its name and its blobs.
LAYERS = {100: (1, 7), 2: (4, 6)}
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA = 1, 2, 3, 4, 5, 7, 8
DIM = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
# Caffe's own limits of a blob.
MOST_AXES, LARGEST_DIM = 32, 2**31 - 1


class _Malformed(Exception):
    """The bytes are not the message that they should be."""


def read_caffemodel(path: Path) -> dict[str, list[np.ndarray]]:
    """Return the blobs of every layer that has any, by the layer's name.

    Args:
        path: a binary NetParameter in the present or the older (V1) layout.

    Returns:
        Layer name to its blobs, float32 or float64, read-only, in the file's order. Older blobs
        have four dimensions, also biases: (1, 1, 1, outputs).

    Raises:
        StudyError: no such file, truncated, or not a Caffe model.
    """
    path = Path(path)
    expected = f"{path}: expected a Caffe model (.caffemodel), found"
    mend = "download it again"
    try:
        message = memoryview(path.read_bytes())
    except OSError as error:
        raise StudyError(f"{expected} no readable file ({error.strerror}); {mend}") from None
    layers = {}
    try:
        for field, kind, value in _fields(message):
            if field in LAYERS and kind == BYTES:
                name, blobs = _layer(value, *LAYERS[field])
                if blobs:
                    layers[name] = blobs
    except (_Malformed, UnicodeDecodeError) as error:
        raise StudyError(f"{expected} a truncated or other file ({error}); {mend}") from None
    if not layers:
        raise StudyError(f"{expected} no layer with weights; {mend}")
    return layers


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield field number, wire type and value (number, or bytes) of a message's fields.

    A run of unpacked fixed-size values of one field comes as one value: their bytes.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if field == 0 or kind not in (VARINT, FIXED64, BYTES, FIXED32):
            raise _Malformed(f"byte {start} begins no field")
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind == BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise _Malformed(f"it ends {length - (len(message) - at)} bytes early")
            value, at = message[at : at + length], at + length
        else:
            value, at = _run(message, start, at - start, FIXED[kind])
        yield field, kind, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that starts at a place, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            raise _Malformed("it ends within a number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _Malformed(f"the number before byte {at} has no end")


def _run(message: memoryview, start: int, key: int, size: int) -> tuple[memoryview, int]:
    """Return the values of the fixed-size fields that follow each other with the same key."""
    stride = key + size
    count, most = 0, (len(message) - start) // stride
    if most == 0:
        raise _Malformed("it ends within a number")
    records = np.frombuffer(message, np.uint8, most * stride, start).reshape(most, stride)
    block = 1
    while count < most:  # in growing blocks: no longer than the run, however much follows it
        other = (records[count : count + block, :key] != records[0, :key]).any(axis=1)
        if other.any():
            count += int(other.argmax())
            break
        count = min(count + block, most)
        block *= 2
    values = np.ascontiguousarray(records[:count, key:])
    return values.reshape(-1).data, start + count * stride


def _layer(message: memoryview, name_field: int, blob_field: int) -> tuple[str, list[np.ndarray]]:
    name, blobs = "", []
    for field, kind, value in _fields(message):
        if field == name_field and kind == BYTES:
            name = bytes(value).decode()
        elif field == blob_field and kind == BYTES:
            blobs.append(_blob(value))
    return name, blobs


def _blob(message: memoryview) -> np.ndarray:
    data, kinds = [], {(DATA, FIXED32): "<f4", (DOUBLE_DATA, FIXED64): "<f8"}
    kinds |= {(DATA, BYTES): "<f4", (DOUBLE_DATA, BYTES): "<f8"}
    legacy: dict[int, int] = {}
    shape = None
    for field, kind, value in _fields(message):
        if field in (NUM, CHANNELS, HEIGHT, WIDTH) and kind == VARINT:
            legacy[field] = value
        elif field == SHAPE and kind == BYTES:
            shape = _shape(value)
        elif (field, kind) in kinds:
            element = np.dtype(kinds[field, kind])
            if len(value) % element.itemsize:
                raise _Malformed("a blob's data ends within a number")
            data.append(np.frombuffer(value, element))
    if legacy:  # Caffe, too, prefers them where a file has both
        shape = tuple(legacy.get(field, 0) for field in (NUM, CHANNELS, HEIGHT, WIDTH))
    shape = shape or ()
    values = data[0] if len(data) == 1 else np.concatenate(data or [np.empty(0, np.float32)])
    fits = len(shape) <= MOST_AXES and all(dim <= LARGEST_DIM for dim in shape)
    if not fits or math.prod(shape) != values.size:
        raise _Malformed(f"a blob of shape {shape} holds {values.size} numbers")
    return values.reshape(shape)


def _shape(message: memoryview) -> tuple[int, ...]:
    dims: list[int] = []
    for field, kind, value in _fields(message):
        if field == DIM and kind == VARINT:
            dims.append(value)
        elif field == DIM and kind == BYTES:
            at = 0
            while at < len(value):
                dim, at = _varint(value, at)
                dims.append(dim)
    return tuple(dims)
