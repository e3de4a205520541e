"""The rendered collections of the embedded default, drawn on first use and kept as artefacts."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from blcf_utils.datasets import rendering
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.groundtruth_json import load_groundtruth_json
from blcf_utils.datasets.rendering.benchmark import BENCHMARKS, RECIPE_VERSION, render_benchmark
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError

STAGE = Stage("rendered", version=RECIPE_VERSION)
_DOMAINS = {"mini-buildings": "buildings (rendered)", "mini-objects": "objects (rendered)"}


def load_embedded(
    name: str, root: Path | None = None, *, seed: int = 0, scale: float = 1.0
) -> Dataset:
    """Load a rendered collection; render it first where it is not there yet.

    Args:
        name: mini-buildings or mini-objects.
        root: a folder of its own; the artefact store, by recipe, seed and scale, when None.
        seed: of the rendering.
        scale: share of instances and distractors, above 0 and at most 1.

    Raises:
        StudyError: unknown name, scale out of range, or a folder that holds something else.
    """
    for key, value, kind in (("seed", seed, int), ("scale", scale, int | float)):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise StudyError(f"{name}: {key}: expected a number, found {value!r}")
    if root is None:
        root = _rendered(name, seed, float(scale))
    elif not (Path(root) / "groundtruth.json").is_file():
        with _without_the_callers_script():
            render_benchmark(name, Path(root), seed=seed, scale=scale)
    return replace(load_groundtruth_json(Path(root), name=name), domain=_DOMAINS[name])


def rendered_folder(name: str, *, seed: int = 0, scale: float = 1.0) -> Path | None:
    """Return where a collection has been rendered to, or None when it is yet to be."""
    return ArtefactStore().find(STAGE, *_artefact(name, seed, float(scale)))


def planned_counts(name: str, scale: float = 1.0) -> tuple[int, int]:
    """Return how many images and queries a collection has, without drawing any."""
    recipe = BENCHMARKS[name]
    instances = max(2, round(recipe.instances * scale))
    distractors = max(4, round(recipe.distractors * scale))
    return instances * recipe.views + distractors, instances * recipe.queries


def _artefact(name: str, seed: int, scale: float) -> tuple[str, dict]:
    document = {
        "recipe": _recipe_digest(),
        "collection": name,
        "seed": seed,
        "scale": scale,
    }
    return (name if scale == 1 else f"{name}-{scale:g}"), document


def _rendered(name: str, seed: int, scale: float) -> Path:

    def make(folder: Path) -> None:
        # The set appears whole or not at all, so one that is there was only not yet recorded.
        if not (folder / "set").exists():
            with _without_the_callers_script():
                render_benchmark(name, folder / "set", seed=seed, scale=scale)

    return ArtefactStore().get_or_make(STAGE, *_artefact(name, seed, scale), make) / "set"


@contextlib.contextmanager
def _without_the_callers_script() -> Iterator[None]:
    """Let new processes leave out the script that was started.

    Python runs it again in each of them, for functions that it may define. A reader's script
    without ``if __name__ == "__main__":`` would ask there for the very pictures that are being
    drawn, and wait for ever. What renders is all in the package.
    """
    main = vars(sys.modules["__main__"])
    hidden = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.pop("__spec__")
        main.update(hidden)


def _recipe_digest() -> str:
    """Return a digest of the renderer's source: an edited recipe never meets its old pictures."""
    whole = hashlib.sha256()
    for path in sorted(Path(rendering.__file__).parent.glob("*.py")):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()[:16]
