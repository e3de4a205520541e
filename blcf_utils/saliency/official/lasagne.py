"""Parameters that Lasagne's users store: ``np.savez(path, *get_all_param_values(network))``."""

from __future__ import annotations

import lzma
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

from blcf_utils.ground.errors import StudyError

# Whatever zipfile and NumPy's reader raise for damaged or hostile members.
DAMAGED = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TokenError,
    TypeError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_lasagne(path: Path) -> list[np.ndarray]:
    """Return the arrays of an npz file in the order ``arr_0``, ``arr_1``, and so on.

    Nothing in the file is executed: arrays of Python objects are refused unread.

    Args:
        path: of the npz file.

    Raises:
        StudyError: no such file, truncated, not an npz file with these names, or arrays of
            something else than floats.
    """
    path = Path(path)
    expected = f"{path}: expected Lasagne parameters (an .npz file with arr_0, arr_1, ...), found"
    mend = "download it again"
    if not path.is_file():
        raise StudyError(f"{expected} no file; {mend}")
    arrays = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            wanted = [f"arr_{i}.npy" for i in range(len(names))]
            if not names or set(names) != set(wanted):
                other = sorted(set(names) - set(wanted)) or names
                held = ", ".join(map(repr, other[:3])) or "nothing"
                raise StudyError(f"{expected} a zip of {held}; {mend}")
            for name in wanted:
                arrays.append(_read_array(archive, name))
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if "allow_pickle" in reason:
            reason = "it holds pickled Python objects, which are never read"
        raise StudyError(f"{expected} a truncated or other file ({reason}); {mend}") from None
    for name, array in zip(wanted, arrays, strict=True):
        if array.dtype.kind != "f":
            raise StudyError(f"{expected} {name} of type {array.dtype} instead of floats; {mend}")
    return arrays


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member, warnings.catch_warnings():
        # Written by Python 2, whose headers NumPy reads with a warning.
        warnings.simplefilter("ignore", UserWarning)
        return np.lib.format.read_array(member, allow_pickle=False)
