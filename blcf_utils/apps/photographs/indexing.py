"""Index a folder of photographs: learn its words once, encode what is new, keep the rest.

Everything lies in one folder of the cache, beside nothing of the photographs' own:

| file | what it is |
|---|---|
| ``settings.json`` | profile, weightings, which folder |
| ``words/`` | whitening and codebook, learned on a sample at the first indexing and kept |
| ``shards/`` | encoded photographs, 64 a file, never rewritten |
| ``unreadable.json`` | files that do not decode, and why |
| ``current/`` | what searches read: maps, weights, thumbnails, one inverted file a weighting |
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.consolidation import consolidate, read_places
from blcf_utils.apps.photographs.encoder import Encoder, network_sizes
from blcf_utils.apps.photographs.encoding import WITHOUT_MODEL, Weigher, encode_part
from blcf_utils.apps.photographs.shards import (
    PER_SHARD,
    Stamp,
    read_shard,
    read_stamps,
    shard_path,
    write_shard,
)
from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import by_relative_name, content_digest, find_images
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.ground.artefacts import ArtefactStore, write_json
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import cache_dir
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.models import EMBEDDED, HAND_MADE, OFFICIAL
from blcf_utils.saliency.weighting import NONE
from blcf_utils.words.codebook import Codebook, learn_codebook
from blcf_utils.words.whitening import Whitening, learn_whitening

VERSION = 2  # to be raised also when the layout of inverted files changes
WEIGHTINGS = ("Gaussian", "salgan-mini")
SAMPLE = 400
# What telephones and cameras also write, but nothing here reads.
UNREAD = frozenset({".heic", ".heif", ".avif", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
# A word that fewer descriptors taught than this is mostly noise.
DESCRIPTORS_A_WORD = 8


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


def home_of(folder: Path | str) -> Path:
    """Return where the index of a folder lies, made or not.

    Raises:
        StudyError: there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; name the folder that holds the photographs")
    folder = folder.resolve()
    return cache_dir() / "collections" / f"{folder.name}-{digest_of(str(folder))[:8]}"


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
    pixels: 64 photographs are held at a time.

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
    home = home_of(folder)
    folder = Path(folder).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home, folder):
        if anew:
            for part in ("settings.json", "words", "shards", "unreadable.json", "current"):
                path = home / part
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        settings = _settings(home, folder, profile, weightings)
        indexing = _Indexing(home, folder, settings, sample)
        return replace(indexing.run(), seconds=time.perf_counter() - started)


def read_settings(home: Path) -> tuple[Profile, tuple[str, ...], dict]:
    """Return the profile and the weightings that a folder was indexed with, and the record.

    Raises:
        StudyError: it was indexed by another version of the study.
    """
    record = json.loads((home / "settings.json").read_text(encoding="utf-8"))
    if record["version"] != VERSION:
        raise StudyError(
            f"{record['folder']}: indexed by another version of the study; index it with --anew"
        )
    return Profile.model_validate(record["profile"]), tuple(record["weightings"]), record


def open_encoder(home: Path, profile: Profile) -> Encoder:
    """Return what encodes photographs as those of an indexed folder were."""
    arrays = np.load(home / "words" / "words.npz")
    whitening = Whitening(
        arrays["mean"], arrays["projection"], arrays["variances"], int(arrays["n_vectors"])
    )
    words = Codebook(
        arrays["centroids"], arrays["objective"], int(arrays["n_descriptors"])
    ).searched(profile.encoding)
    features = profile.features
    return Encoder(
        load_backbone(features.backbone),
        whitening,
        words,
        features.longest_side,
        profile.encoding.interpolate,
        device=features.device,
    )


@contextlib.contextmanager
def _alone(home: Path, folder: Path) -> Iterator[None]:
    with open(home / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{folder}: another process is indexing it; wait until it has ended"
            ) from None
        yield


def _settings(home: Path, folder: Path, profile: str | None, weightings) -> dict:
    path = home / "settings.json"
    before = read_settings(home) if path.exists() else None
    chosen = before[0] if before and not profile else load_profile(profile or "mini")
    names = tuple(weightings) if weightings is not None else before[1] if before else WEIGHTINGS
    for name in names:
        if name not in (*WITHOUT_MODEL, *HAND_MADE, *OFFICIAL, *EMBEDDED):
            raise known("weighting", name, (*WITHOUT_MODEL, *HAND_MADE, *OFFICIAL, *EMBEDDED))
    record = {
        "version": VERSION,
        "folder": str(folder),
        "profile": chosen.document(),
        "weightings": [name for name in dict.fromkeys(names) if name != NONE],
    }
    record = json.loads(json.dumps(record))
    # As this version writes it: a new setting that stands at its default is no other profile.
    same = before and (before[0].document(), list(before[1])) == (
        chosen.document(),
        record["weightings"],
    )
    if before and not same:
        weighted = before[2]["weightings"] != record["weightings"]
        key = "other weightings" if weighted else "the settings of another profile"
        raise StudyError(
            f"{folder}: was indexed with {key}; leave the option out to keep them, or add "
            "--anew to index every photograph again"
        )
    write_json(path, record)
    return record


class _Indexing:
    """One run over a folder."""

    def __init__(self, home: Path, folder: Path, settings: dict, sample: int):
        self.home, self.folder, self.sample = home, folder, sample
        self.profile = Profile.model_validate(settings["profile"])
        self.weightings = settings["weightings"]
        self.shards = home / "shards"
        self.shards.mkdir(exist_ok=True)

    def run(self) -> Indexed:
        files = by_relative_name(find_images(self.folder), self.folder)
        other = _other_files(self.folder)
        if not files:
            told = ", ".join(f"{count} {suffix}" for suffix, count in other.items())
            raise StudyError(
                f"{self.folder}: no photograph in it: expected jpg, png, webp, bmp or tif"
                + (f"; convert what is there ({told})" if told else "")
            )
        self.files = files
        states = {name: _state(path) for name, path in files.items()}
        known_stamps = self._known()
        unreadable = self._unreadable(states)
        kept = {
            name: place
            for name, place in known_stamps.items()
            if states.get(name) == (place[0].size, place[0].mtime)
        }
        pending = [name for name in files if name not in kept and name not in unreadable]
        copied = self._copy(pending, states, known_stamps)
        pending = [name for name in pending if name not in copied]
        if pending:
            if not (self.home / "words" / "words.npz").exists():
                self._learn(pending, states, unreadable)
                pending = [name for name in pending if name not in unreadable]
            self._encode(pending, states, unreadable)
        write_json(self.home / "unreadable.json", unreadable)
        live = {
            name: (stamp, shard, position)
            for name, (stamp, shard, position) in self._known().items()
            if states.get(name) == (stamp.size, stamp.mtime)
        }
        if not live:
            raise self._none_decodes(unreadable)
        gone = {name for name in self._searched() if name not in files}
        places = {name: place[1:] for name, place in sorted(live.items())}
        config = self.profile.encoding
        how = config.idf, config.index_weights
        consolidate(self.home, places, self.weightings, self._words(), *how)
        self._forget(live)
        same = {name for name in live if name in kept or copied.get(name) == name}
        moved = gone & {old for name, old in copied.items() if name not in known_stamps}
        changed = sum(name in known_stamps for name in live if name not in same)
        return Indexed(
            self.home,
            photographs=len(live),
            added=len(live) - len(same) - changed - len(moved),
            changed=changed,
            moved=len(moved),
            kept=len(same),
            removed=len(gone - moved),
            unreadable={name: one["why"] for name, one in unreadable.items()},
            other=other,
            seconds=0.0,
        )

    def _none_decodes(self, unreadable: dict) -> StudyError:
        first = next(iter(unreadable.values()))["why"]
        return StudyError(
            f"{self.folder}: none of its {len(self.files)} photographs decodes: {first}"
        )

    def _why(self, name: str, error: UnreadableImage) -> str:
        return (
            f"{self.files[name]}: expected an image that decodes ({error.reason}); replace the "
            "file and index again"
        )

    def _searched(self) -> list[str]:
        """Return what could be searched before this run."""
        return [place[0] for place in read_places(self.home / "current")]

    def _words(self) -> int:
        return len(np.load(self.home / "words" / "words.npz")["centroids"])

    def _known(self) -> dict[str, tuple[Stamp, int, int]]:
        """Return each photograph's newest encoding: its stamp, its shard and its place there."""
        found = {}
        for path in sorted(self.shards.glob("[0-9]*.npz")):
            for position, stamp in enumerate(read_stamps(path)):
                found[stamp.path] = (stamp, int(path.stem), position)
        return found

    def _unreadable(self, states: dict) -> dict[str, dict]:
        """Return the unreadable files that have not changed since."""
        path = self.home / "unreadable.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {n: one for n, one in before.items() if states.get(n) == tuple(one["state"])}

    def _forget(self, live: dict) -> None:
        """Delete shards of which nothing is searched any more."""
        used = {shard for _, shard, _ in live.values()}
        for path in self.shards.glob("[0-9]*.npz"):
            if int(path.stem) not in used:
                path.unlink()

    def _copy(self, names: list[str], states: dict, known_stamps: dict) -> dict[str, str]:
        """Copy the encodings of files whose content is known already; return new to old names.

        A photograph that was renamed, moved or touched is read, but nothing is computed for it.
        """
        by_size: dict[int, list[tuple[Stamp, int, int]]] = {}
        for place in known_stamps.values():
            by_size.setdefault(place[0].size, []).append(place)
        found: dict[str, tuple[Stamp, int, int]] = {}
        taken: set[str] = set()
        for name in names:
            alike = by_size.get(states[name][0], ())
            digest = content_digest(self.files[name]) if alike else ""
            same = [place for place in alike if place[0].digest == digest]
            # Of several copies each new name takes another old one, those that are gone first.
            same.sort(key=lambda p: (p[0].path != name, p[0].path in taken, p[0].path in states))
            if same:
                found[name] = same[0]
                taken.add(same[0][0].path)
        wanted = sorted(found.items(), key=lambda one: one[1][1])
        opened = lru_cache(1)(lambda shard: read_shard(shard_path(self.shards, shard)))
        for start in range(0, len(wanted), PER_SHARD):
            copies = []
            for name, (stamp, shard, position) in wanted[start : start + PER_SHARD]:
                old = opened(shard)[position]
                copies.append(replace(old, stamp=Stamp(name, *states[name], stamp.digest)))
            write_shard(shard_path(self.shards, self._last_shard() + 1), copies)
        return {name: place[0].path for name, place in found.items()}

    def _last_shard(self) -> int:
        return max((int(path.stem) for path in self.shards.glob("[0-9]*.npz")), default=-1)

    def _learn(self, names: list[str], states: dict, unreadable: dict) -> None:
        """Learn whitening and words on a sample of the photographs."""
        features = self.profile.features
        backbone, paths = load_backbone(features.backbone), []
        for i in np.random.default_rng(self.profile.seed).permutation(len(names)):
            path = self.files[names[i]]
            try:
                network_sizes(path, backbone, features.longest_side)
            except UnreadableImage as error:
                why = self._why(names[i], error)
                unreadable[names[i]] = {"state": states[names[i]], "why": why}
                continue
            paths.append(path)
            if len(paths) == self.sample:
                break
        if not paths:
            raise self._none_decodes(unreadable)
        paths = tuple(sorted(paths))
        dataset = Dataset(
            f"{self.folder.name}-sample", self.folder, paths, (), exif_orientation=True
        )
        config = self.profile.features.model_copy(update={"on_corrupt": "skip"})
        store, seed = ArtefactStore(), self.profile.seed
        features = extract_features(dataset, config, store)
        count = len(features.database_rows())
        whitened = min(self.profile.whitening.dimensions, features.channels, max(1, count // 2))
        whitening = learn_whitening(
            features,
            self.profile.whitening.model_copy(update={"dimensions": whitened}),
            store,
            seed=seed,
        )
        words = max(1, min(self.profile.codebook.words, count // DESCRIPTORS_A_WORD))
        codebook = learn_codebook(
            features,
            whitening,
            self.profile.codebook.model_copy(update={"words": words}),
            store,
            seed=seed,
            device=config.device,
        )
        folder = self.home / "words"
        folder.mkdir(exist_ok=True)
        arrays = {
            "mean": whitening.mean,
            "projection": whitening.projection,
            "variances": whitening.variances,
            "n_vectors": whitening.n_vectors,
            "centroids": codebook.centroids,
            "objective": codebook.objective,
            "n_descriptors": codebook.n_descriptors,
        }
        np.savez(folder / "unfinished.npz", **arrays)
        (folder / "unfinished.npz").replace(folder / "words.npz")
        shutil.rmtree(features.artefact.folder)  # read once; encoding makes its own

    def _encode(self, names: list[str], states: dict, unreadable: dict) -> None:
        encoder = open_encoder(self.home, self.profile)
        weigh = Weigher(self.weightings, self.profile)
        number = self._last_shard()
        parts = [names[k : k + PER_SHARD] for k in range(0, len(names), PER_SHARD)]
        bar = progress(label=f"index {self.folder.name}", total=len(names), unit="photo")

        def decode(part: list[str]):
            return [self._decode(encoder, name) for name in part]

        with ThreadPoolExecutor(1) as pool, bar:
            ahead = pool.submit(decode, parts[0])
            for k, part in enumerate(parts):
                decoded = ahead.result()
                if k + 1 < len(parts):
                    ahead = pool.submit(decode, parts[k + 1])
                good = []
                for name, one in zip(part, decoded, strict=True):
                    if isinstance(one, UnreadableImage):
                        unreadable[name] = {"state": states[name], "why": self._why(name, one)}
                    else:
                        good.append((Stamp(name, *states[name], one[2]), one[0], one[1]))
                encoded = encode_part(encoder, weigh, good, self.profile.features.batch_size, bar)
                if encoded:
                    number += 1
                    write_shard(shard_path(self.shards, number), encoded)
                write_json(self.home / "unreadable.json", unreadable)

    def _decode(self, encoder: Encoder, name: str):
        path = self.files[name]
        try:
            pixels, size = encoder.read(path)
            return pixels, size, content_digest(path)
        except UnreadableImage as error:
            return error


def _other_files(folder: Path) -> dict[str, int]:
    """Count, by suffix, the photographs below a folder in formats that nothing here reads."""
    suffixes = [path.suffix.lower() for path in find_images(folder, suffixes=UNREAD)]
    return {suffix: suffixes.count(suffix) for suffix in sorted(set(suffixes))}


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
