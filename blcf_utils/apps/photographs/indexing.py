"""Index a folder of photographs: learn its words once, encode what is new, keep the rest."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.manifest import Manifest, home_of
from blcf_utils.apps.photographs.shards import PER_SHARD, shard_path, thumbnail_of, write_shard
from blcf_utils.apps.photographs.words import learn_words, none_decodes, open_encoder, stored_words
from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.files import by_relative_name, content_digest, find_images
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.networks.weight_files import settled
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import absolute
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.ground.writing import writing
from blcf_utils.saliency.models import MODELS, load_model
from blcf_utils.saliency.weighting import (
    NONE,
    Weighting,
    by_saliency,
    gaussian,
    l2_norm,
    rmac_coverage,
)

WEIGHTINGS = ("Gaussian", "salgan-mini")
WITHOUT_MODEL = {"Gaussian": gaussian, "R-MAC": rmac_coverage, "L2-norm": lambda _: l2_norm()}
SAMPLE = 400
READERS = 4  # files that are read at once
# What telephones and cameras also write, but nothing here reads.
UNREAD = frozenset({".heic", ".heif", ".avif", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw"})

# What the network sees of a photograph, (H, W, 3) uint8, and the photograph's width and height.
Picture = tuple[np.ndarray, tuple[int, int]]


@dataclass(frozen=True)
class Indexed:
    """What an indexing did.

    Attributes:
        home: where the index lies.
        photographs: how many can be searched now.
        added, changed, moved, kept, removed: how they came about; a photograph that only has
            another name or place now is moved, and is not encoded again.
        unreadable: relative path to why it was left out.
        other: suffix to number of files that photographs have but nothing here reads.
        seconds: how long it took.
    """

    home: Path
    photographs: int
    added: int
    changed: int
    moved: int
    kept: int
    removed: int
    unreadable: dict[str, str]
    other: dict[str, int]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of the index."""
        return sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file())


def index_folder(
    folder: Path | str,
    profile: str | None = None,
    weightings: Sequence[str] | None = None,
    *,
    anew: bool = False,
    sample: int = SAMPLE,
) -> Indexed:
    """Make a folder of photographs searchable, or bring its index up to date.

    New and changed photographs are encoded, those that are gone are dropped, the others are not
    even read. Killed, it goes on where it stopped. Memory does not grow with the photographs'
    pixels: 64 photographs are read and encoded at a time.

    Args:
        folder: searched with its sub-folders for jpg, png, webp, bmp and tif.
        profile: whose backbone, codebook size and search settings are used; ``mini``, or what the
            folder was indexed with before, when None.
        weightings: which spatial weightings can be searched with beside none; Gaussian and
            salgan-mini, or as before, when None.
        anew: forget what was indexed before, words included.
        sample: how many photographs, drawn with the profile's seed, teach the words.

    Raises:
        StudyError: no photograph decodes, settings differ from those of the index, another process
            indexes the same folder.
    """
    started = time.perf_counter()
    home, folder = home_of(folder), absolute(folder).resolve()
    with writing(home), _alone(home, folder):
        manifest = _settled(None if anew else Manifest.read(home), folder, profile, weightings)
        for path in home.iterdir() if anew else ():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        manifest.save(home)  # killed while it learns, it goes on with the same settings
        files = by_relative_name(find_images(folder), folder)
        suffixes = Counter(path.suffix.lower() for path in find_images(folder, suffixes=UNREAD))
        other = dict(sorted(suffixes.items()))
        if not files:
            told = ", ".join(f"{count} {suffix}" for suffix, count in other.items())
            raise StudyError(
                f"{folder}: no photograph in it: expected jpg, png, webp, bmp or tif"
                + (f"; convert what is there ({told})" if told else "")
            )
        counts, unreadable = _Indexing(home, manifest, files, sample).run()
    seconds = time.perf_counter() - started
    return Indexed(home, **counts, unreadable=unreadable, other=other, seconds=seconds)


@contextlib.contextmanager
def _alone(home: Path, folder: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{folder}: another process is indexing it; wait until it has ended"
            ) from None
        yield


def _settled(before: Manifest | None, folder: Path, profile: str | None, weightings) -> Manifest:
    """Return the manifest before, or a new one, with the settings that are asked for."""
    keeps = before is not None and profile is None
    chosen = before.profile if keeps else settled(load_profile(profile or "mini"))
    if weightings is None:
        weightings = before.weightings if before else WEIGHTINGS
    names = [name for name in dict.fromkeys(weightings) if name != NONE]
    for name in names:
        if name not in (*WITHOUT_MODEL, *MODELS):
            raise known("weighting", name, (*WITHOUT_MODEL, *MODELS))
    if before is None:
        return Manifest(str(folder), chosen, names)
    if (before.profile.document(), before.weightings) != (chosen.document(), names):
        weighted = before.weightings != names
        key = "other weightings" if weighted else "the settings of another profile"
        raise StudyError(
            f"{folder}: was indexed with {key}; leave the option out to keep them, or add "
            "--anew to index every photograph again"
        )
    return before


class _Indexing:
    """One run over the files of a folder (relative path to path)."""

    def __init__(self, home: Path, manifest: Manifest, files: dict[str, Path], sample: int):
        self.home, self.manifest, self.files, self.sample = home, manifest, files, sample
        self.folder, self.profile = Path(manifest.folder), manifest.profile
        # What lost its shard, or the words it is made of, is encoded again.
        stored = (home / "shards").glob("*.npz") if stored_words(home) else ()
        shards = {path.stem for path in stored}
        manifest.contents = {
            digest: found
            for digest, found in manifest.contents.items()
            if isinstance(found, str) or found[0] in shards
        }
        manifest.searched = {n: d for n, d in manifest.searched.items() if d in manifest.contents}

    def run(self) -> tuple[dict[str, int], dict[str, str]]:
        """Return how many photographs came about how, and path to why of those left out."""
        manifest, before = self.manifest, self.manifest.decoded()
        states = {name: _state(path) for name, path in self.files.items()}
        pending = []
        for name in self.files:
            *state, digest = manifest.files.get(name, [""])
            if state != states[name] or digest not in manifest.contents:
                pending.append(name)
        if pending and stored_words(self.home) is None:
            paths = [self.files[name] for name in pending]
            learn_words(self.home, self.folder, paths, self.profile, self.sample)
        bar = progress(label=f"index {self.folder.name}", total=len(pending), unit="photo")
        with bar, ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(pending), PER_SHARD):
                part = pending[start : start + PER_SHARD]
                found = list(pool.map(self._read, part))
                self._encode(dict(found))
                for name, (digest, _) in zip(part, found, strict=True):
                    manifest.files[name] = [*states[name], digest]
                manifest.save(self.home)
                bar.update(len(part))
        manifest.files = {name: manifest.files[name] for name in self.files}
        digests = [digest for *_, digest in manifest.files.values()]
        manifest.contents = {digest: manifest.contents[digest] for digest in digests}
        manifest.searched = manifest.decoded()
        manifest.save(self.home)
        unreadable = {
            name: f"{self.files[name]}: expected an image that decodes "
            f"({manifest.contents[digest]}); replace the file and index again"
            for name, digest in zip(self.files, digests, strict=True)
            if name not in manifest.searched
        }
        if not manifest.searched:
            raise none_decodes(self.folder, len(self.files), manifest.contents[digests[0]])
        self._finish()
        return _counts(before, manifest.searched, self.files), unreadable

    @cached_property
    def _encoder(self) -> Encoder:
        return open_encoder(self.home, self.profile)

    def _read(self, name: str) -> tuple[str, Picture | str | None]:
        """Return the digest of a file's content, and what the network sees of the photograph.

        Instead of that, None where the content is known, or why it does not decode.
        """
        path = self.files[name]
        try:
            digest = content_digest(path)
            return digest, None if digest in self.manifest.contents else self._encoder.read(path)
        except UnreadableImage as error:
            return digest, error.reason
        except OSError as error:  # bytes that cannot be read have the name instead of a digest
            return name, error.strerror or repr(error)

    def _encode(self, found: dict[str, Picture | str | None]) -> None:
        """Enter contents (by their digests) into the manifest, and pictures into a shard."""
        self.manifest.contents |= {d: why for d, why in found.items() if isinstance(why, str)}
        fresh = {digest: one for digest, one in found.items() if isinstance(one, tuple)}
        if not fresh:
            return
        self._pictures = [pixels for pixels, _ in fresh.values()]
        feature_maps, encoded = self._encoder.feature_maps(self._pictures), []
        for i, (pixels, size) in enumerate(fresh.values()):
            words = self._encoder.words(feature_maps[i])
            columns = {
                "size": np.array(size),
                "shape": np.array(words.shape),
                "words": words,
                "thumbnail": np.frombuffer(thumbnail_of(pixels), np.uint8),
            }
            for weighting in self._weightings:
                weights = weighting.weights(i, feature_maps[i], words.shape)
                columns[f"weights {weighting.name}"] = weights.astype(np.float16)
            encoded.append(columns)
        shard = digest_of(list(fresh))
        write_shard(shard_path(self.home, shard), encoded)
        self.manifest.contents |= {digest: [shard, place] for place, digest in enumerate(fresh)}

    @cached_property
    def _weightings(self) -> list[Weighting]:
        """The weightings; the number of an image is its place among those being encoded."""
        device = resolve_device(self.profile.features.device).type

        def of_model(name: str) -> Weighting:
            model = load_model(name, self.profile.saliency, device)
            return by_saliency(name, lambda i: model.predict(self._pictures[i]), model.document)

        config = self.profile.weighting
        return [
            WITHOUT_MODEL[name](config) if name in WITHOUT_MODEL else of_model(name)
            for name in self.manifest.weightings
        ]

    def _finish(self) -> None:
        """Make what searches read, and delete what none needs any more."""
        collection = Collection(self.folder)
        for weighting in collection.weightings:
            collection.base(weighting)
        for path in (self.home / "searched").iterdir():
            if path.name != collection.key:
                shutil.rmtree(path)
        used = {found[0] for found in self.manifest.contents.values() if isinstance(found, list)}
        for path in (self.home / "shards").iterdir():
            if path.stem not in used:
                path.unlink()


def _state(path: Path) -> list[int]:
    """Return bytes and time of change (ns) of a file; nothing where it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _counts(before: dict[str, str], now: dict[str, str], files: dict[str, Path]) -> dict[str, int]:
    """Return how the photographs came about: path to digest of those before and of those now."""
    kept = sum(before.get(name) == digest for name, digest in now.items())
    gone = Counter(digest for name, digest in before.items() if name not in files)
    new = Counter(digest for name, digest in now.items() if name not in before)
    moved = (gone & new).total()
    return {
        "photographs": len(now),
        "added": new.total() - moved,
        "changed": len(now) - kept - new.total(),
        "moved": moved,
        "kept": kept,
        "removed": gone.total() - moved,
    }
