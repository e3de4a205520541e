"""The study's notebooks as documents: finding them, and reading and checking their parameters.

Nothing is executed here. A notebook's parameters are the annotated names of its cell tagged
``parameters``, such as ``TOP_K: int = 10  # how many results a picture shows``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.ground.settings import digest_of

# What annotations are made of: list[str], int | None ...
TYPES = {kind.__name__: kind for kind in (str, int, float, bool, list, dict)}
# Reads the tables of all the others: it runs when they are there, wherever it is read.
SUMMARY = "10_tables"


@dataclass(frozen=True)
class NotebookSource:
    """A notebook on disk, not executed.

    Attributes:
        name: the file name without its suffix, ``04_search``.
        path: where it is.
    """

    name: str
    path: Path

    @cached_property
    def cells(self) -> list[tuple[str, str, list[str]]]:
        """Type, source and tags of every cell."""
        try:
            return [
                (c["cell_type"], "".join(c["source"]), sorted(c["metadata"].get("tags", [])))
                for c in json.loads(self.path.read_text(encoding="utf-8"))["cells"]
            ]
        except (ValueError, KeyError, TypeError):
            raise StudyError(
                f"{self.path}: expected a Jupyter notebook (JSON with cells); restore the file"
            ) from None

    @cached_property
    def digest(self) -> str:
        """A hash of what runs and what is read: the cells without their outputs."""
        return digest_of(self.cells)

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The annotations of the parameters by name, in the cell's order.

        Raises:
            StudyError: no parameters cell, or one that is not Python.
        """
        tagged = [source for _, source, tags in self.cells if "parameters" in tags]
        if len(tagged) != 1:
            raise StudyError(
                f"{self.path}: expected one cell tagged 'parameters', found {len(tagged)}; "
                "tag the cell that holds the notebook's settings"
            )
        try:
            lines = ast.parse(tagged[0]).body
        except SyntaxError as error:
            raise StudyError(
                f"{self.path}: the parameters cell is not Python (line {error.lineno}: {error.msg})"
            ) from None
        return {
            ast.unparse(line.target): ast.unparse(line.annotation)
            for line in lines
            if isinstance(line, ast.AnnAssign)
        }

    def check(self, values: dict[str, Any]) -> None:
        """Refuse a parameter the notebook does not have or whose type differs.

        Papermill only warns of these and runs with the defaults.

        Raises:
            StudyError: names the notebook, the parameter and what was expected.
        """
        for name, value in values.items():
            if name not in self.parameters:
                raise StudyError(
                    f"notebook {self.name} has no parameter {name!r}: expected one of "
                    f"{', '.join(self.parameters) or 'none'}"
                )
            if not _fits(value, self.parameters[name]):
                raise StudyError(
                    f"notebook {self.name}: parameter {name} must be {self.parameters[name]}, "
                    f"found {type(value).__name__} ({value!r})"
                )


def _fits(value: Any, annotation: str) -> bool:
    """Say whether a value is of the annotated type, strictly: only an int passes for a float."""
    try:
        kind = eval(annotation, {"__builtins__": {}}, TYPES)
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except (NameError, ValidationError):
        return False
    return True


def run_order(name: str) -> tuple[bool, str]:
    """Return what notebooks are sorted by to be run: the reading order, the summary last."""
    return name == SUMMARY, name


def list_notebooks() -> list[NotebookSource]:
    """Return the study's notebooks, ``notebooks/NN_name.ipynb``, in reading order."""
    paths = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [NotebookSource(path.stem, path) for path in paths]


def find_notebooks(wanted: Sequence[str] = ()) -> list[NotebookSource]:
    """Return the notebooks named, in reading order; every notebook of the study when none is.

    Args:
        wanted: each a number (``04``), a name (``04_search``) or a path.

    Raises:
        StudyError: an unknown notebook; the message lists the known ones.
    """
    known = {source.name: source for source in list_notebooks()}
    if not known and not wanted:
        raise StudyError(
            f"{project_root() / 'notebooks'}: expected notebooks named NN_name.ipynb, found none"
        )
    numbers = {name[:2]: source for name, source in known.items()}
    chosen = {}
    for name in wanted or known:
        source = known.get(name) or numbers.get(name)
        if source is None and name.endswith(".ipynb") and Path(name).is_file():
            source = NotebookSource(Path(name).stem, Path(name).resolve())
        if source is None:
            raise StudyError(
                f"unknown notebook {name!r}: expected a path or one of {', '.join(known)}"
            )
        chosen[source.name] = source
    return [chosen[name] for name in sorted(chosen)]
