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
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blcf_utils.artefacts import ArtefactStore, write_json
from blcf_utils.backbones import load_backbone
from blcf_utils.codebook import Codebook, learn_codebook
from blcf_utils.collection.consolidation import consolidate
from blcf_utils.collection.encoder import Encoder
from blcf_utils.collection.shards import (
    PER_SHARD,
    Encoded,
    Stamp,
    read_stamps,
    shard_path,
    thumbnail_of,
    write_shard,
)
from blcf_utils.config import Profile, load_profile
from blcf_utils.config_base import digest_of
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import by_relative_name, find_images
from blcf_utils.errors import StudyError, known
from blcf_utils.features import extract_features, resolve_device
from blcf_utils.images import UnreadableImage
from blcf_utils.paths import cache_dir
from blcf_utils.progress import progress
from blcf_utils.saliency.models import EMBEDDED, HAND_MADE, OFFICIAL, load_model
from blcf_utils.weighting import NONE, Weighting, gaussian, l2_norm, normalised, rmac_coverage
from blcf_utils.weighting import saliency_weights as block_maxima
from blcf_utils.whitening import Whitening, learn_whitening

VERSION = 1
WEIGHTINGS = ("Gaussian", "salgan-mini")
SAMPLE = 400
# A word that fewer descriptors taught than this is mostly noise.
DESCRIPTORS_A_WORD = 8


@dataclass(frozen=True)
class Indexed:
    """What an indexing did.

    Attributes:
        home: where the index lies.
        photographs: how many can be searched now.
        added, changed, kept, removed: how they came about.
        unreadable: relative path to why it was left out.
        seconds: how long it took.
    """

    home: Path
    photographs: int
    added: int
    changed: int
    kept: int
    removed: int
    unreadable: dict[str, str]
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
        if name not in ("Gaussian", "L2-norm", "R-MAC", *HAND_MADE, *OFFICIAL, *EMBEDDED):
            every = ("Gaussian", "L2-norm", "R-MAC", *HAND_MADE, *OFFICIAL, *EMBEDDED)
            raise known("weighting", name, every)
    record = {
        "version": VERSION,
        "folder": str(folder),
        "profile": chosen.document(),
        "weightings": [name for name in dict.fromkeys(names) if name != NONE],
    }
    record = json.loads(json.dumps(record))
    if before and before[2] != record:
        key = "weightings" if before[2]["weightings"] != record["weightings"] else "profile"
        raise StudyError(
            f"{folder}: was indexed with another {key}; leave the option out to keep it, or add "
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
        if not files:
            raise StudyError(
                f"{self.folder}: no photograph in it: expected jpg, png, webp, bmp or tif"
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
        changed = sum(name in known_stamps for name in pending)
        if pending:
            if not (self.home / "words" / "words.npz").exists():
                self._learn(pending)
            self._encode(pending, states, unreadable)
        write_json(self.home / "unreadable.json", unreadable)
        live = {
            name: (stamp, shard, position)
            for name, (stamp, shard, position) in self._known().items()
            if states.get(name) == (stamp.size, stamp.mtime)
        }
        if not live:
            first = next(iter(unreadable.values()))["why"]
            raise StudyError(
                f"{self.folder}: none of its {len(files)} photographs decodes: {first}"
            )
        removed = sum(name not in files for name in known_stamps)
        places = {name: place[1:] for name, place in sorted(live.items())}
        config = self.profile.encoding
        how = config.idf, config.index_weights
        consolidate(self.home, places, self.weightings, self._words(), *how)
        self._forget(live)
        done = sum(name in live for name in pending)
        why = {name: one["why"] for name, one in unreadable.items()}
        return Indexed(self.home, len(live), done - changed, changed, len(kept), removed, why, 0.0)

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

    def _learn(self, names: list[str]) -> None:
        """Learn whitening and words on a sample of the photographs."""
        drawn = np.random.default_rng(self.profile.seed).permutation(len(names))[: self.sample]
        paths = tuple(self.files[names[i]] for i in sorted(drawn))
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
        weigh = _Weigher(self.weightings, self.profile)
        numbers = [int(path.stem) for path in self.shards.glob("[0-9]*.npz")]
        number = max(numbers, default=-1)
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
                        unreadable[name] = {"state": states[name], "why": str(one)}
                    else:
                        good.append((Stamp(name, *states[name], one[2]), one[0], one[1]))
                encoded = _encode_part(encoder, weigh, good, self.profile.features.batch_size, bar)
                if encoded:
                    number += 1
                    write_shard(shard_path(self.shards, number), encoded)
                write_json(self.home / "unreadable.json", unreadable)

    def _decode(self, encoder: Encoder, name: str):
        path = self.files[name]
        try:
            pixels, size = encoder.read(path)
            return pixels, size, hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except UnreadableImage as error:
            return error


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _encode_part(encoder: Encoder, weigh: _Weigher, photographs: list, batch: int, bar) -> list:
    """Encode photographs, those of one size together; in their order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (_, pixels, _) in enumerate(photographs):
        groups.setdefault(pixels.shape, []).append(i)
    encoded: list[Encoded | None] = [None] * len(photographs)
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            maps = encoder.feature_maps(np.stack([photographs[i][1] for i in part]))
            for i, feature_map in zip(part, maps, strict=True):
                stamp, pixels, size = photographs[i]
                words = encoder.words(feature_map)
                weights = weigh(pixels, feature_map, words.shape)
                encoded[i] = Encoded(stamp, size, words, weights, thumbnail_of(pixels))
                bar.update()
    return encoded


class _Weigher:
    """Weighs the positions of one photograph in every way that is wanted."""

    def __init__(self, names: Sequence[str], profile: Profile):
        self.names, self.config = names, profile.weighting
        without = {"Gaussian": gaussian, "R-MAC": rmac_coverage, "L2-norm": lambda _: l2_norm()}
        self.plain: dict[str, Weighting] = {
            name: without[name](self.config) for name in names if name in without
        }
        device = resolve_device(profile.features.device).type
        self.models = {
            name: load_model(name, profile.saliency, device)
            for name in names
            if name not in without
        }

    def __call__(self, pixels: np.ndarray, feature_map: np.ndarray, shape) -> dict:
        made = {name: one.weights(0, feature_map, shape) for name, one in self.plain.items()}
        for name, model in self.models.items():
            made[name] = normalised(block_maxima(model.predict(pixels), shape))
        return {name: made[name].astype(np.float16) for name in self.names}
