"""Weight files of Keras 1: HDF5 with a group for every layer, in topological order.

``Model.save_weights`` writes the groups at the top of the file; ``Model.save``, which the default
``ModelCheckpoint`` calls, writes them under ``model_weights`` beside the state of the optimiser.
Some authors name such files ``.pkl``. Nothing in a file is ever executed.
"""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np

from blcf_utils.ground.errors import StudyError

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Protocols 2 and up begin with an opcode and their number; the older ones with a mark and an empty
# container, or with the name of a class.
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\([dlt]p\d|[}\]]q|\(?[ci][\w.]+\n\w+\n")
_EXPECTED = "expected an HDF5 weights file of Keras 1"


def read_keras1(path: Path) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Read the weights of a model.

    Args:
        path: HDF5 file written by ``save_weights`` or ``save`` of Keras 1, under any name.

    Returns:
        Layers in topological order, each with its named arrays in the order in which Keras built
        them; layers without weights are left out.

    Raises:
        StudyError: no such file, not HDF5, cut short, or HDF5 without Keras' attributes.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(
            f"{path}: no such file; {_EXPECTED}, download it or correct the path to it"
        )
    with open(path, "rb") as stream:
        start = stream.read(512)
    if not start.startswith(_HDF5_SIGNATURE):
        raise StudyError(f"{path}: {_EXPECTED}, found {_kind(start)}; download the file again")
    try:
        with h5py.File(path, "r") as file:
            return _layers(path, file)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise StudyError(
            f"{path}: {_EXPECTED}, found one that is cut short or damaged"
            f" ({' '.join(str(error).split())}); download the file again"
        ) from error


def _kind(start: bytes) -> str:
    """Name, for people, what a file that is not HDF5 begins like."""
    text = start.lstrip().lower()
    if not start:
        return "an empty file"
    if text.startswith(b"<"):
        return "a web page"
    if _PICKLE.match(start):
        return "a Python pickle, of which nothing was executed"
    return "something else"


def _layers(path: Path, file: h5py.File) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    root = file
    if "layer_names" not in file.attrs and isinstance(file.get("model_weights"), h5py.Group):
        root = file["model_weights"]
    if "layer_names" not in root.attrs:
        raise StudyError(
            f"{path}: {_EXPECTED}, found HDF5 without the attribute layer_names;"
            " give a file that Keras wrote"
        )
    layers = []
    for layer in _names(root, "layer_names"):
        group = root[layer]
        arrays = [(name, _array(path, group[name])) for name in _names(group, "weight_names")]
        if arrays:
            layers.append((layer, arrays))
    return layers


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Return an attribute's strings, which Python 2 wrote as bytes."""
    return [
        name.decode("utf-8") if isinstance(name, bytes) else str(name)
        for name in np.asarray(group.attrs[attribute]).ravel().tolist()
    ]


def _array(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise StudyError(
            f"{path}: {_EXPECTED}, found {dataset.name} which is no array of floating-point"
            " numbers; download the file again"
        )
    return dataset[()]
