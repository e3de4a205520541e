"""Small JSON files of numbers, read with their names and kinds checked."""

from __future__ import annotations

import json
from pathlib import Path

from blcf_utils.ground.errors import StudyError

_KINDS = {"int": int, "float": (int, float), "str": str}


def read_numbers(path: Path, kinds: dict[str, str]) -> dict:
    """Read a JSON object with exactly these keys.

    Args:
        path: the file.
        kinds: name to ``int``, ``float`` or ``str``.

    Raises:
        StudyError: no such file, no JSON object, another set of keys, or a value of another kind.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path}: expected a JSON file of numbers ({error}); make it anew"
        ) from None
    if not isinstance(values, dict) or set(values) != set(kinds):
        found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise StudyError(
            f"{path}: expected the keys {', '.join(sorted(kinds))}, found {found}; make it anew"
        )
    for name, kind in kinds.items():
        if isinstance(values[name], bool) or not isinstance(values[name], _KINDS[kind]):
            raise StudyError(
                f"{path}: {name}: expected {kind}, found {values[name]!r}; make the file anew"
            )
    return values
