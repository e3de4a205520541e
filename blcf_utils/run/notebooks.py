"""The study's notebooks as documents: finding them, and reading and checking their parameters.

Nothing is executed here. A notebook's parameters are what its cell tagged ``parameters`` defines:
annotated literals, such as ``TOP_K: int = 10  # how many results a picture shows``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.ground.settings import digest_of

REQUIRED = ("PROFILE", "SETTINGS")
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
    "None": type(None),
}
# The rooms above the study: changing them changes no number a notebook writes.
RUNNER_LAYER = ("cli.py", "run/")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: its annotation as written, and its default."""

    name: str
    annotation: str
    default: Any

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is of the annotated type (an int passes for a float)."""
        return _fits(value, ast.parse(self.annotation, mode="eval").body)


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
    def document(self) -> dict:
        """The notebook's JSON."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            document["cells"]
        except (ValueError, KeyError, TypeError):
            raise StudyError(
                f"{self.path}: expected a Jupyter notebook (JSON with cells); restore the file"
            ) from None
        return document

    @cached_property
    def digest(self) -> str:
        """A hash of what runs and what is read: cell types, sources and tags, not outputs."""
        return digest_of(
            [
                [cell["cell_type"], _text(cell), sorted(cell.get("metadata", {}).get("tags", []))]
                for cell in self.document["cells"]
            ]
        )

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name, in the cell's order.

        Raises:
            StudyError: no parameters cell, or one that holds anything but annotated literals.
        """
        cells = [
            cell
            for cell in self.document["cells"]
            if "parameters" in cell.get("metadata", {}).get("tags", [])
        ]
        if len(cells) != 1:
            raise StudyError(
                f"{self.path}: expected one cell tagged 'parameters', found {len(cells)}; "
                "tag the cell that holds the notebook's settings"
            )
        found = _read_parameters(self.path, _text(cells[0]))
        for name in REQUIRED:
            if name not in found:
                raise StudyError(
                    f"{self.path}: the parameters cell must define {name}; add a line such as "
                    f"{name}: {'str' if name == 'PROFILE' else 'dict'} = ..."
                )
        return found

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
                    f"{', '.join(self.parameters)}"
                )
            parameter = self.parameters[name]
            if not parameter.accepts(value):
                raise StudyError(
                    f"notebook {self.name}: parameter {name} must be {parameter.annotation}, "
                    f"found {type(value).__name__} ({value!r})"
                )


def notebooks_dir() -> Path:
    """Return the folder of the study's notebooks."""
    return project_root() / "notebooks"


def list_notebooks() -> list[NotebookSource]:
    """Return the study's notebooks, ``NN_name.ipynb``, in reading order."""
    paths = sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    return [NotebookSource(path.stem, path) for path in paths]


def find_notebooks(wanted: Sequence[str] = ()) -> list[NotebookSource]:
    """Return the notebooks named, in reading order; every notebook of the study when none is.

    Args:
        wanted: each a number (``04``), a name (``04_search``) or a path.

    Raises:
        StudyError: an unknown notebook; the message lists the known ones.
    """
    known = list_notebooks()
    if not known and not wanted:
        raise StudyError(f"{notebooks_dir()}: expected notebooks named NN_name.ipynb, found none")
    if not wanted:
        return known
    chosen = {source.name: source for source in (_find(name, known) for name in wanted)}
    return sorted(chosen.values(), key=lambda source: source.name)


def code_digest() -> str:
    """Return a hash of the package's source, without the layers that only run and report."""
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(RUNNER_LAYER):
            whole.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def _find(name: str, known: Iterable[NotebookSource]) -> NotebookSource:
    for source in known:
        if name == source.name or (re.fullmatch(r"\d\d", name) and source.name.startswith(name)):
            return source
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return NotebookSource(path.stem, path.resolve())
    names = ", ".join(source.name for source in known)
    raise StudyError(f"unknown notebook {name!r}: expected a path or one of {names}")


def _text(cell: dict) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _read_parameters(path: Path, source: str) -> dict[str, Parameter]:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise StudyError(
            f"{path}: the parameters cell is not Python (line {error.lineno}: {error.msg})"
        ) from None
    found = {}
    for node in body:
        where = f"{path}: line {node.lineno} of the parameters cell"
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            raise StudyError(
                f"{where}: expected NAME: type = literal, found {ast.unparse(node)!r}; "
                "move code to the next cell, which runs after the parameters are set"
            )
        if node.value is None:
            raise StudyError(f"{where}: {node.target.id} has no default; give it one")
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise StudyError(
                f"{where}: expected a literal, found {ast.unparse(node.value)!r}; derived values "
                "belong in the next cell, which runs after the parameters are set"
            ) from None
        parameter = Parameter(node.target.id, ast.unparse(node.annotation), default)
        if not _is_known_type(node.annotation):
            raise StudyError(
                f"{where}: {parameter.name} is annotated {parameter.annotation}; "
                f"expected {', '.join(TYPES)} or a combination of them"
            )
        if not parameter.accepts(default):
            raise StudyError(
                f"{where}: {parameter.name} is annotated {parameter.annotation} "
                f"but its default is {default!r}"
            )
        found[parameter.name] = parameter
    return found


def _is_known_type(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in TYPES
        case ast.Constant(value=None):
            return True
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _is_known_type(left) and _is_known_type(right)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return _is_known_type(inner)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return _is_known_type(key) and _is_known_type(value)
    return False


def _fits(value: Any, node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(_fits(item, inner) for item in value)
        case ast.Subscript(slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(
                _fits(k, key) and _fits(v, inner) for k, v in value.items()
            )
        case ast.Name(id=name):
            # bool is a subclass of int, yet True is no number of words.
            is_number_slot = name in ("int", "float")
            return isinstance(value, TYPES[name]) and not (
                is_number_slot and isinstance(value, bool)
            )
    return False
