"""From shards to what searches read: flat files that are mapped, and an inverted file each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.shards import read_shard, shard_path
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.index.inverted_file import invert
from blcf_utils.words.histograms import database_histograms


class StoredMaps:
    """The assignment maps of an indexed folder, as ``bow.AssignmentMaps`` has a dataset's.

    Attributes:
        words: K.
        shapes: (n, 2) height and width of each map.
        sizes: (n, 2) width and height of each photograph in pixels.
        n_database: n.
    """

    def __init__(self, folder: Path, words: int):
        self.words = words
        self.shapes, self.sizes = np.load(folder / "shapes.npy"), np.load(folder / "sizes.npy")
        self.n_database = len(self.shapes)
        self._ends = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1))])
        self._flat = np.load(folder / "words.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.shapes)

    def map(self, image: int) -> np.ndarray:
        """Return the assignment map of a photograph, (h, w) uint16."""
        return self._flat[self._ends[image] : self._ends[image + 1]].reshape(self.shapes[image])


def stored_weights(folder: Path, name: str, maps: StoredMaps) -> Callable[[int], np.ndarray]:
    """Return what gives the weights (h, w) float32 of a photograph's cells by its number."""
    flat = np.load(folder / f"weights-{name}.npy", mmap_mode="r")
    ends, shapes = maps._ends, maps.shapes

    def weights(image: int) -> np.ndarray:
        return flat[ends[image] : ends[image + 1]].reshape(shapes[image]).astype(np.float32)

    return weights


def index_path(folder: Path, weighting: str) -> Path:
    """Return where the inverted file of a weighting lies."""
    return folder / f"index-{weighting}"


def read_places(current: Path) -> list[list]:
    """Return [name, shard, place in it] of what can be searched; nothing before any indexing."""
    path = current / "places.json"
    return json.loads(path.read_text(encoding="utf-8"))["places"] if path.exists() else []


def consolidate(
    home: Path,
    places: dict[str, tuple[int, int]],
    weightings: Sequence[str],
    words: int,
    idf: bool,
    kept: str = "exact",
) -> None:
    """Write ``current/`` from the shards, at once.

    Args:
        home: of the index.
        places: photograph (relative path) to its shard and its place in it, in ranking order.
        weightings: an inverted file each is made for, and one without weights.
        words: K.
        idf: whether words count by their rarity.
        kept: ``exact`` or ``uint8``, what inverted files keep of weights that are no counts.
    """
    current = home / "current"
    wanted = {"places": [[name, *place] for name, place in places.items()]}
    listed = current / "places.json"
    work = home / "current.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    write_json(work / "places.json", wanted)
    if listed.exists() and listed.read_bytes() == (work / "places.json").read_bytes():
        shutil.rmtree(work)
        return
    _flatten(home, work, list(places.values()), weightings)
    maps = StoredMaps(work, words)
    for name in (NONE, *weightings):
        weights = None if name == NONE else stored_weights(work, name, maps)
        index_path(work, name).mkdir()
        made = invert(database_histograms(maps, weights), idf, kept)
        made.save(index_path(work, name))
    # A page that searches the old files goes on: what is mapped stays until it is let go.
    shutil.rmtree(current, ignore_errors=True)
    os.replace(work, current)


def _flatten(home: Path, work: Path, places: list[tuple[int, int]], weightings) -> None:
    by_shard: dict[int, list[tuple[int, int]]] = {}
    for i, (shard, position) in enumerate(places):
        by_shard.setdefault(shard, []).append((position, i))
    shapes, sizes = np.zeros((len(places), 2), np.int64), np.zeros((len(places), 2), np.int64)
    shards = home / "shards"
    for shard, members in by_shard.items():
        with np.load(shard_path(shards, shard)) as arrays:
            positions, numbers = np.array(members).T
            shapes[numbers] = arrays["shapes"][positions]
            sizes[numbers] = arrays["sizes"][positions]
    np.save(work / "shapes.npy", shapes)
    np.save(work / "sizes.npy", sizes)
    ends = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    create = np.lib.format.open_memmap
    flat = create(work / "words.npy", "w+", np.uint16, (int(ends[-1]),))
    weights = {
        name: create(work / f"weights-{name}.npy", "w+", np.float16, (int(ends[-1]),))
        for name in weightings
    }
    starts, lengths, at = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64), 0
    with open(work / "thumbnails.bin", "wb") as thumbnails:
        for shard, members in by_shard.items():
            encoded = read_shard(shard_path(shards, shard))
            for position, i in members:
                one = encoded[position]
                if sorted(one.weights) != sorted(weightings):
                    raise StudyError(
                        f"{shard_path(shards, shard)}: holds other weightings than "
                        f"{', '.join(weightings) or 'none'}; index the folder with --anew"
                    )
                flat[ends[i] : ends[i + 1]] = one.words.ravel()
                for name, values in one.weights.items():
                    weights[name][ends[i] : ends[i + 1]] = values.ravel()
                thumbnails.write(one.thumbnail)
                starts[i], lengths[i] = at, len(one.thumbnail)
                at += len(one.thumbnail)
    np.save(work / "thumbnails.npy", np.stack([starts, lengths], axis=1))
