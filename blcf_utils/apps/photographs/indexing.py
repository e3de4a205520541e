"""Index a folder of photographs: learn its words once, encode what is new, keep the rest."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoding import WITHOUT_MODEL, Encoding, Picture
from blcf_utils.apps.photographs.fit import misfit
from blcf_utils.apps.photographs.manifest import FILE, DamagedFile, Manifest, home_of
from blcf_utils.apps.photographs.shards import PER_SHARD
from blcf_utils.apps.photographs.words import find_words, none_decodes, stored_words
from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.files import (
    Listing,
    content_digest,
    ending_of,
    look_through,
    some_names,
    within,
)
from blcf_utils.datasets.folder import FILE as QUERIES
from blcf_utils.datasets.formats import EXPECTED, advice
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.networks.weight_files import settled
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import absolute
from blcf_utils.ground.progress import progress
from blcf_utils.ground.writing import writing
from blcf_utils.saliency.models import MODELS
from blcf_utils.saliency.weighting import NONE

WEIGHTINGS = ("Gaussian", "salgan-mini")
SAMPLE = 400
READERS = 4  # files that are read at once
GRAIN = 2_000_000_000  # ns, of the coarsest clock of a file system (FAT)


@dataclass(frozen=True)
class Indexed:
    """What an indexing did.

    Attributes:
        home: where the index lies.
        photographs: how many can be searched now.
        added, changed, moved, kept, removed: how they came about; a photograph that only has
            another name or place now is moved, and is not encoded again.
        read: ending to the number of photographs that can be searched.
        unreadable: relative path of a photograph, or of ``queries.csv``, to why it was left out.
        unlisted: sub-folder that cannot be looked into to why, and how many of its photographs are
            kept.
        other: ending to the pictures that nothing here reads.
        mended: what was wrong with files of the index, a sentence each.
        advice: what to do where the words no longer fit the folder; "" where they do.
        seconds: how long it took.
    """

    home: Path
    photographs: int
    added: int
    changed: int
    moved: int
    kept: int
    removed: int
    read: dict[str, int]
    unreadable: dict[str, str]
    unlisted: dict[str, str]
    other: dict[str, list[str]]
    mended: list[str]
    advice: str
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
    even read. Killed, it goes on where it stopped. Files of the index that are not as they were
    written are made again from those that are. Memory does not grow with the photographs' pixels:
    64 photographs are read and encoded at a time.

    Args:
        folder: searched with its sub-folders; ``datasets/formats.py`` has the formats.
        profile: whose backbone, codebook size and search settings are used; ``mini``, or what the
            folder was indexed with before, when None.
        weightings: which spatial weightings can be searched with beside none; Gaussian and
            salgan-mini, or as before, when None.
        anew: learn the words again and encode every photograph with them; of what was encoded
            before is used what does not depend on words or settings that changed.
        sample: how many photographs, drawn with the profile's seed, teach the words.

    Raises:
        StudyError: no photograph decodes, settings differ from those of the index, another process
            indexes the same folder.
    """
    started = time.perf_counter()
    home, folder = home_of(folder), absolute(folder).resolve()
    with writing(home), _alone(home, folder):
        before, mended = (_known(home), []) if anew else _trusted(home)
        manifest = _settled(before, folder, profile, weightings, anew)
        # Words whose settings are not those of this manifest would be taken for its own.
        for path in home.iterdir() if manifest is not before else ():
            if path.name not in (".lock", "shards"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        manifest.save(home)  # killed while it learns, it goes on with the same settings
        manifest.save_settings(home)
        listing = look_through(folder)
        indexing = _Indexing(home, manifest, listing, sample)
        if not (indexing.files or indexing.unseen):
            raise _no_photograph(folder, listing)
        counts, unreadable = indexing.run()
        old_words = misfit(home, manifest, sample)
    return Indexed(
        home,
        **counts,
        read=dict(sorted(Counter(map(ending_of, manifest.searched)).items())),
        unreadable=unreadable,
        unlisted={
            name: f"{folder / name}: {why}; {indexing.kept_of(name)}"
            for name, why in listing.unlisted.items()
        },
        other=dict(sorted(listing.other.items())),
        mended=mended,
        advice=old_words,
        seconds=time.perf_counter() - started,
    )


def _no_photograph(folder: Path, listing: Listing) -> StudyError:
    found = [f"{len(names)} {ending}: {advice(ending)}" for ending, names in listing.other.items()]
    found += [f"{name}: {why}" for name, why in (listing.unlisted | listing.failed).items()]
    return StudyError(
        f"{folder}: no photograph in it: expected {EXPECTED}"
        + (f"; convert what is there or mend it ({some_names(found)})" if found else "")
    )


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


def _trusted(home: Path) -> tuple[Manifest | None, list[str]]:
    """Return what can be believed of an index, and what was wrong with its files.

    A part that is not as it was written is deleted, to be made again; a shard tells by itself
    which contents it holds.

    Raises:
        StudyError: another version of the study wrote it, or neither the manifest nor its copy of
            the settings is whole.
    """
    try:
        manifest, told = Manifest.read(home), []
    except DamagedFile:
        manifest = Manifest.read_settings(home)
        told = [f"{home / FILE}: is not as it was written; it is made again"]
    if manifest is None:
        return None, []
    for name, wrong in manifest.damaged(home).items():
        told.append(f"{home / name}: {wrong}; it is made again")
        part = home / Path(*Path(name).parts[:2])
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    manifest.parts = {name: part for name, part in manifest.parts.items() if (home / name).exists()}
    # What lost its shard, or the words it is made of, is encoded again.
    shards = {Path(name).stem for name in manifest.parts} if stored_words(home) else ()
    manifest.contents = {
        digest: found
        for digest, found in manifest.contents.items()
        if isinstance(found, str) or found[0] in shards
    }
    return manifest, told


def _known(home: Path) -> Manifest | None:
    """Return the manifest of an index, or one with its settings, or None: whatever can be read."""
    for read in (Manifest.read, Manifest.read_settings):
        with contextlib.suppress(StudyError):
            return read(home)
    return None


def _settled(
    before: Manifest | None, folder: Path, profile: str | None, weightings, anew: bool
) -> Manifest:
    """Return the manifest before, or a new one, with the settings that are asked for."""
    keeps = before is not None and profile is None
    chosen = before.profile if keeps else settled(load_profile(profile or "mini"))
    if weightings is None:
        weightings = before.weightings if before else WEIGHTINGS
    names = [name for name in dict.fromkeys(weightings) if name != NONE]
    for name in names:
        if name not in (*WITHOUT_MODEL, *MODELS):
            raise known("weighting", name, (*WITHOUT_MODEL, *MODELS))
    if before is None or anew:
        return Manifest(str(folder), chosen, names)
    if (before.profile.document(), before.weightings) != (chosen.document(), names):
        if not before.contents:  # nothing was indexed with them
            return Manifest(str(folder), chosen, names)
        weighted = before.weightings != names
        key = "other weightings" if weighted else "the settings of another profile"
        raise StudyError(
            f"{folder}: was indexed with {key}; leave the option out to keep them, or add "
            "--anew to index every photograph again"
        )
    return before


class _Indexing:
    """One run over what lies in a folder.

    Attributes:
        files: relative path to path, of photographs that can be looked at.
        refused: relative path to why the system does not let a photograph be read today.
    """

    def __init__(self, home: Path, manifest: Manifest, listing: Listing, sample: int):
        self.home, self.manifest, self.listing, self.sample = home, manifest, listing, sample
        self.folder, self.profile = Path(manifest.folder), manifest.profile
        self.encoding = Encoding(home, manifest.profile, manifest.weightings)
        names = [name for name in listing.images if name not in listing.repeated]
        self.files = {name: self.folder / name for name in names}
        self.refused: dict[str, str] = {}

    @property
    def unseen(self) -> list[str]:
        """Files in sub-folders that cannot be looked into now; they stay as they are."""
        # A link that leads nowhere may have led to a folder.
        gone = [*self.listing.unlisted, *self.listing.failed]
        return [name for name in self.manifest.files if within(name, gone)]

    def kept_of(self, folder: str) -> str:
        """Say how many photographs of a sub-folder that cannot be looked into are kept.

        Those whose shard or words were lost are known, and encoded when they can be read again.
        """
        manifest = self.manifest
        inside = self._known_below(folder)
        kept = sum(name in manifest.searched for name in inside)
        lost = sum(manifest.files[name][-1] not in manifest.contents for name in inside)
        later = f", lost until it can be looked into: {lost:,}" if lost else ""
        return f"photographs of it that are kept: {kept:,}{later}"

    def _known_below(self, folder: str) -> list[str]:
        return [name for name in self.manifest.files if within(name, [folder])]

    def run(self) -> tuple[dict[str, int], dict[str, str]]:
        """Return how many photographs came about how, and path to why of those left out."""
        manifest = self.manifest
        states = {name: _state(path) for name, path in self.files.items()}
        if stored_words(self.home) is None and self._pending(states):
            paths = [self.files[name] for name in self._pending(states)]
            find_words(self.home, self.folder, paths, self.profile, self.sample)
            manifest.learned = []
        manifest.enter(self.home, "words")
        known = {found[0] for found in manifest.contents.values() if isinstance(found, list)}
        if stored_words(self.home) is not None:
            manifest.contents |= self.encoding.adopt(known)
        manifest.enter(self.home, "shards")
        before, pending = manifest.decoded(), self._pending(states)
        bar = progress(label=f"index {self.folder.name}", total=len(pending), unit="photo")
        with bar, ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(pending), PER_SHARD):
                part = pending[start : start + PER_SHARD]
                found = dict(zip(part, pool.map(self._read, part), strict=True))
                self._enter({digest: one for digest, one in found.values() if digest})
                for name, (digest, _) in found.items():
                    if digest:
                        manifest.files[name] = [*states[name], digest]
                    elif not self._looks_the_same(name, states[name]):
                        manifest.files.pop(name, None)
                manifest.save(self.home)
                bar.update(len(part))
        present = sorted((*self.files, *self.unseen))
        manifest.files = {n: manifest.files[n] for n in present if n in manifest.files}
        digests = {digest for *_, digest in manifest.files.values()}
        manifest.contents = {d: one for d, one in manifest.contents.items() if d in digests}
        manifest.searched = manifest.decoded()
        manifest.save(self.home)
        if not self.files and not manifest.searched:
            raise _no_photograph(self.folder, self.listing)
        if not manifest.searched:
            raise none_decodes(self.folder, len(self.files), self._why(next(iter(self.files))))
        collection = self._finish()
        left_out = {
            name: self._told(name)
            for name in self.files
            if name in self.refused or name not in manifest.searched
        }
        for name, why in self.listing.failed.items():
            below = f" ({self.kept_of(name)})" if self._known_below(name) else ""
            left_out[name] = f"{self.folder / name}: {why}{below}; mend or remove it"
        try:
            _ = collection.dataset
        except StudyError as error:
            left_out[QUERIES] = str(error)
        return _counts(before, manifest.searched, present), dict(sorted(left_out.items()))

    def _pending(self, states: dict[str, list[int]]) -> list[str]:
        """Return the files whose content is not known, or may be another one now."""
        pending = []
        for name, state in states.items():
            *known, digest = self.manifest.files.get(name, [""])
            sure = bool(state and state[-1]) and known == state
            if not sure or digest not in self.manifest.contents:
                pending.append(name)
        return pending

    def _looks_the_same(self, name: str, state: list[int]) -> bool:
        """Whether a file that cannot be read today may be as it was: as long and as old."""
        known = self.manifest.files.get(name)
        try:
            os.lstat(self.files[name])
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # such as of a folder that may be listed, but not entered
            pass
        return bool(known) and state[:2] in ([], known[:2])

    def _why(self, name: str) -> str:
        """Return why a photograph is not searched, in a few words."""
        return self.refused.get(name) or self.manifest.contents[self.manifest.files[name][-1]]

    def _told(self, name: str) -> str:
        if name not in self.refused:
            return (
                f"{self.files[name]}: expected an image that decodes ({self._why(name)}); replace "
                "the file and index again"
            )
        kept = "what was indexed of it is kept, and " if name in self.manifest.searched else ""
        return (
            f"{self.files[name]}: cannot be read now ({self._why(name)}); {kept}it is tried again "
            "when the folder is indexed next"
        )

    def _read(self, name: str) -> tuple[str | None, Picture | str | None]:
        """Return the digest of a file's content, and what the network sees of the photograph.

        Instead of that, None where the content is known, or why it does not decode. The digest is
        None where the system does not let the file be read, which says nothing of its content.
        """
        path = self.files[name]
        try:
            digest = content_digest(path)
            known = digest in self.manifest.contents
            return digest, None if known else self.encoding.encoder.read(path)
        except UnreadableImage as error:
            if not _of_the_system(error.__context__):
                return digest, error.reason
            why = error.reason
        except OSError as error:
            why = error.strerror or repr(error)
        self.refused[name] = why
        return None, why

    def _enter(self, found: dict[str, Picture | str | None]) -> None:
        """Enter contents (by their digests) into the manifest, and pictures into a shard."""
        contents = self.manifest.contents
        contents |= {digest: why for digest, why in found.items() if isinstance(why, str)}
        fresh = {digest: one for digest, one in found.items() if isinstance(one, tuple)}
        if fresh:
            contents |= self.encoding.encode(fresh)
            self.manifest.enter(self.home, "shards")

    def _finish(self) -> Collection:
        """Make what searches read, and delete what none needs any more."""
        collection, manifest = Collection(self.folder), self.manifest
        for weighting in collection.weightings:
            collection.base(weighting)
        used = {found[0] for found in manifest.contents.values() if isinstance(found, list)}
        stale = [path for path in (self.home / "shards").iterdir() if path.stem not in used]
        stale += [
            path for path in (self.home / "searched").iterdir() if path.name != collection.key
        ]
        manifest.enter(self.home, "searched")
        manifest.forget(self.home, stale)
        return collection


def _state(path: Path) -> list[int]:
    """Return bytes, times of change of content and of status (ns) and inode of a file.

    Nothing where it cannot be looked at; 0 for the inode where it changed so lately that it could
    do so again within the grain of a file system's clock. Programs that turn a photograph set the
    time of its content back; that of its status they cannot set.
    """
    try:
        status = path.stat()
    except OSError:
        return []
    lately = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < GRAIN
    inode = 0 if lately else status.st_ino
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode]


def _of_the_system(error: BaseException | None) -> bool:
    """Whether an error is the system's, today, and not that of a file's bytes."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) is not None


def _counts(before: dict[str, str], now: dict[str, str], files: list[str]) -> dict[str, int]:
    """Return how the photographs came about: path to digest of those before and of those now."""
    kept = sum(before.get(name) == digest for name, digest in now.items())
    present = set(files)
    gone = Counter(digest for name, digest in before.items() if name not in present)
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
