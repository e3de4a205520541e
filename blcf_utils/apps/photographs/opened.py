"""An indexed folder, opened for searching: photographs, maps, inverted files, thumbnails."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.consolidation import StoredMaps, index_path, stored_weights
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.indexing import home_of, open_encoder, read_settings
from blcf_utils.datasets.base import Dataset, Protocol
from blcf_utils.datasets.folder import FILE, parse_queries_csv
from blcf_utils.datasets.joining import join_files
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.search.query import SearchBase


class Collection:
    """A folder of photographs as ``blcf index`` left it.

    Attributes:
        folder: the photographs.
        profile: the settings it was indexed with.
        weightings: what can be searched with.
        dataset: its photographs, in the order of their relative paths, and the queries of its
            ``queries.csv`` where it has one.
        maps: their assignment maps.
    """

    def __init__(self, folder: Path | str):
        home = home_of(folder)
        if not (home / "current" / "places.json").exists():
            command = shlex.join(["blcf", "index", str(folder)])
            raise StudyError(f"{folder}: is not indexed yet; run {command} first")
        self._home, self._current = home, home / "current"
        self.folder = Path(folder).expanduser().resolve()
        self.profile, weightings, _ = read_settings(home)
        self.weightings = (NONE, *weightings)
        places = json.loads((self._current / "places.json").read_text(encoding="utf-8"))
        self.names = tuple(place[0] for place in places["places"])
        with np.load(home / "words" / "words.npz") as arrays:
            self.maps = StoredMaps(self._current, len(arrays["centroids"]))
        self._thumbnails = np.load(self._current / "thumbnails.npy")
        self._bases: dict[str, SearchBase] = {}

    @cached_property
    def dataset(self) -> Dataset:
        """The photographs and, from ``queries.csv``, the queries."""
        files = {name: self.folder / name for name in self.names}
        table = self.folder / FILE
        queries = parse_queries_csv(table, files, set(files)) if table.is_file() else ()
        return join_files(
            self.folder.name,
            self.folder,
            self.names,
            files,
            queries,
            protocol=Protocol("trapezoid", "junk", f"own {FILE}"),
            domain="own photographs",
            exif_orientation=True,
        )

    @cached_property
    def encoder(self) -> Encoder:
        """What encodes a photograph that is not in the folder."""
        return open_encoder(self._home, self.profile)

    def base(self, weighting: str = NONE) -> SearchBase:
        """Return what searches with a weighting need.

        Raises:
            StudyError: the folder was not indexed with that weighting.
        """
        if weighting not in self.weightings:
            raise known(f"weighting of {self.folder.name}", weighting, self.weightings)
        if weighting not in self._bases:
            index = InvertedFile.open(index_path(self._current, weighting))
            weights = None
            if weighting != NONE:
                weights = stored_weights(self._current, weighting, self.maps)
            how = self.profile.encoding.box
            self._bases[weighting] = SearchBase(
                replace(self.dataset), self.maps, index, how, weights=weights
            )
        return self._bases[weighting]

    def digest(self, weighting: str = NONE) -> str:
        """Return a digest of the words, and of their weights, of every photograph."""
        files = ["places.json", "shapes.npy", "words.npy"]
        files += [] if weighting == NONE else [f"weights-{weighting}.npy"]
        whole = hashlib.sha256(f"{self.maps.words} {self.profile.encoding.idf}".encode())
        for name in files:
            with open(self._current / name, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:16]

    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a photograph."""
        start, length = self._thumbnails[image].tolist()
        with open(self._current / "thumbnails.bin", "rb") as file:
            file.seek(start)
            return file.read(length)


class WithPhotograph:
    """Assignment maps with one more image behind them.

    Args:
        maps: of a dataset or a folder.
        words: (h, w) assignment map of the further image.
        size: its (width, height) in pixels.
    """

    def __init__(self, maps, words: np.ndarray, size: tuple[int, int]):
        self._maps, self._last = maps, words
        self.words, self.n_database = maps.words, maps.n_database
        self.shapes = np.concatenate([maps.shapes, [words.shape]])
        self.sizes = np.concatenate([maps.sizes, [size]])

    def __len__(self) -> int:
        return len(self.shapes)

    def map(self, image: int) -> np.ndarray:
        """Return the assignment map of an image."""
        return self._last if image == len(self._maps) else self._maps.map(image)
