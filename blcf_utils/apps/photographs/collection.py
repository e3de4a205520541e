"""An indexed folder, opened for searching: photographs, maps, inverted files, thumbnails."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.manifest import Manifest, home_of
from blcf_utils.apps.photographs.shards import read_column, shard_path
from blcf_utils.apps.photographs.words import open_encoder, stored_words, words_key
from blcf_utils.datasets.base import Dataset, Protocol
from blcf_utils.datasets.files import content_digest
from blcf_utils.datasets.folder import FILE, parse_queries_csv
from blcf_utils.datasets.joining import ParsedQuery, join_files
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.names import as_argument
from blcf_utils.ground.remembered import remembered
from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.weight_maps import StoredWeights
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.index.inverted_file import build_index, invert
from blcf_utils.search.query import SearchBase
from blcf_utils.words.assignment_maps import AssignmentMaps
from blcf_utils.words.histograms import database_histograms

MAPS, WEIGHTS = Stage("maps"), Stage("weights")


class Collection:
    """A folder of photographs as ``blcf index`` left it.

    What searches read are artefacts, made of the shards when they are asked for first.

    Attributes:
        folder: the photographs.
        profile: the settings it was indexed with.
        weightings: what can be searched with.
        names: relative paths of the photographs, sorted.
        key: digest of the names, the contents and everything that determines their words.
    """

    def __init__(self, folder: Path | str):
        self._home = home = home_of(folder)
        manifest = Manifest.read(home)
        if manifest:
            manifest.check(home)
        words = stored_words(home)
        self._command = shlex.join(["blcf", "index", as_argument(folder)])
        # A damaged index that is being mended, or was when that was killed, lacks contents.
        if (
            manifest is None
            or words is None
            or not manifest.searched
            or not manifest.contents.keys() >= set(manifest.searched.values())
        ):
            raise StudyError(f"{folder}: is not indexed yet; run {self._command} first")
        self.folder, self.profile = Path(manifest.folder), manifest.profile
        self.weightings = (NONE, *manifest.weightings)
        self.names = tuple(manifest.searched)
        self._contents = tuple(manifest.searched.values())
        self._places = [manifest.contents[digest] for digest in self._contents]
        self.key = digest_of(
            {
                "photographs": list(manifest.searched.items()),
                "profile": self.profile.document(),
                "words": content_digest(words / "centroids.npy"),
            }
        )
        self._words_key = words_key(words)
        self._words = len(np.load(words / "centroids.npy", mmap_mode="r"))
        self._store = ArtefactStore(home / "searched" / self.key)
        self._read = lru_cache(32)(read_column)

    @cached_property
    def photographs(self) -> Dataset:
        """The photographs, which are all that a search needs."""
        return self._joined(())

    @cached_property
    def dataset(self) -> Dataset:
        """The photographs and, from ``queries.csv``, the queries.

        Raises:
            StudyError: the CSV is malformed, or names a photograph that is not here.
        """
        files, table = self._files, self.folder / FILE
        return self._joined(parse_queries_csv(table, files, set(files)) if table.is_file() else ())

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {name: self.folder / name for name in self.names}

    def _joined(self, queries: Sequence[ParsedQuery]) -> Dataset:
        return join_files(
            self.folder.name,
            self.folder,
            self.names,
            self._files,
            queries,
            protocol=Protocol("trapezoid", "junk", f"own {FILE}"),
            domain="own photographs",
            exif_orientation=True,
        )

    def check_unchanged(self, photograph: Path) -> None:
        """Check that a file is what was indexed of it, where it is one of the folder's photographs.

        Raises:
            StudyError: it is another picture now, which the index knows nothing of.
        """
        number = self.photographs.image_index.get(photograph)
        if number is not None and content_digest(photograph) != self._contents[number]:
            raise StudyError(f"{photograph}: was changed since it was indexed; run {self._command}")

    @cached_property
    def encoder(self) -> Encoder:
        """What encodes a photograph that is not in the folder.

        Raises:
            StudyError: the words are others than when the folder was opened.
        """
        words = stored_words(self._home)
        if words is None or words_key(words) != self._words_key:
            raise StudyError(f"{self.folder}: was indexed anew since it was opened; open it again")
        return open_encoder(self._home, self.profile)

    def _column(self, column: str) -> np.ndarray:
        """Return a column of all photographs, one after the other, flat."""
        read = lru_cache(None)(read_column)
        places = ((shard_path(self._home, shard), place) for shard, place in self._places)
        return np.concatenate([read(path, column)[place] for path, place in places])

    @cached_property
    def maps(self) -> AssignmentMaps:
        """The assignment maps of the photographs."""

        def make(folder: Path) -> None:
            for column in ("words", "shape", "size"):
                np.save(folder / f"{column}.npy", self._column(column))

        document = {"photographs": self.key}
        made = self._store.get_or_make(MAPS, self.folder.name, document, make, quiet=True)
        shapes, sizes = (np.load(made / f"{one}.npy").reshape(-1, 2) for one in ("shape", "size"))
        # What assignment maps take over of the feature maps they are made of.
        stored = SimpleNamespace(shapes=shapes, sizes=sizes, n_database=len(shapes))
        return AssignmentMaps(made, self._words, stored, 1)

    def weights(self, weighting: str) -> StoredWeights | None:
        """Return what gives the weights (h, w) float32 of a photograph's cells by its number."""
        if weighting == NONE:
            return None

        def make(folder: Path) -> None:
            flat = self._column(f"weights {weighting}").astype(np.float32)
            np.save(folder / "weights.npy", flat)

        document = {"photographs": self.key, "weighting": weighting}
        made = self._store.get_or_make(WEIGHTS, weighting, document, make, quiet=True)
        return StoredWeights(weighting, made, self.maps.shapes)

    @remembered
    def base(self, weighting: str = NONE) -> SearchBase:
        """Return what searches with a weighting need; its dataset is without queries.

        Raises:
            StudyError: the folder was not indexed with that weighting.
        """
        if weighting not in self.weightings:
            raise known(f"weighting of {self.folder.name}", weighting, self.weightings)
        maps, weights, encoding = self.maps, self.weights(weighting), self.profile.encoding
        index = build_index(
            {"photographs": self.key, "weighting": weighting},
            weighting,
            self._store,
            lambda: invert(
                database_histograms(maps, weights), encoding.idf, encoding.index_weights
            ),
            quiet=True,
        )
        return SearchBase(self.photographs, maps, index, encoding.box, weights=weights)

    def thumbnail(self, image: int) -> bytes:
        """Return a small JPEG of a photograph."""
        shard, place = self._places[image]
        return self._read(shard_path(self._home, shard), "thumbnail")[place].tobytes()


class WithPhotograph:
    """Assignment maps with one more image behind them.

    Args:
        maps: of a dataset or a folder.
        words: (h, w) assignment map of the further image.
        size: its (width, height) in pixels.
    """

    def __init__(self, maps: AssignmentMaps, words: np.ndarray, size: tuple[int, int]):
        self._maps, self._last = maps, words
        self.words, self.n_database = maps.words, maps.n_database
        self.shapes = np.concatenate([maps.shapes, [words.shape]])
        self.sizes = np.concatenate([maps.sizes, [size]])

    def __len__(self) -> int:
        return len(self.shapes)

    def map(self, image: int) -> np.ndarray:
        """Return the assignment map of an image."""
        return self._last if image == len(self._maps) else self._maps.map(image)
