"""The artefact store: expensive results on disk, keyed by everything that made them.

An artefact is a folder ``<cache>/<stage>/<label>-<key>/``. Its key is a digest of its *document*:
the stage's name and version and the full configuration, including digests of its inputs. The same
document finds the same folder; any change makes another one, so results are never mixed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import file_label
from blcf_utils.ground.paths import cache_dir
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.ground.settings import digest_of
from blcf_utils.ground.writing import cannot_write, has_no_room, writing

log = logging.getLogger("blcf")

MANIFEST = "artefact.json"
MADE = "made.json"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without error.

    Raises:
        StudyError: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = f".{file_label(path.stem)}-", path.suffix
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Stage:
    """What a stage is, declared once in its module.

    Attributes:
        name: a folder of the store.
        version: goes up when the code gives another result for the same document.
    """

    name: str
    version: int = 1


@dataclass(frozen=True)
class Artefact:
    """A finished artefact.

    Attributes:
        stage: the stage that made it ("features").
        label: what it was made for, for people ("instre-mini").
        key: digest of the document.
        folder: where its files are.
        reused: it was found, not made.
        seconds: how long making it took, in the run that made it.
    """

    stage: str
    label: str
    key: str
    folder: Path
    reused: bool
    seconds: float

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __str__(self) -> str:
        how = "reused" if self.reused else f"made in {self.seconds:.1f} s"
        return f"{self.stage} {self.label} [{self.key}] {how}"


def log_event(record: dict) -> None:
    """Append ``record`` to the run's stage log (BLCF_STAGE_LOG), when a run keeps one."""
    target = os.environ.get("BLCF_STAGE_LOG")
    if target:
        with open(target, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")


class ArtefactStore:
    """Finds artefacts by their document, or makes them.

    Args:
        root: the cache folder; BLCF_CACHE or ``~/.cache/blcf`` by default.
    """

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root else cache_dir()
        self._opened: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return ``make()``; the same object for the same key as long as somebody holds it.

        Variants of a study share in this way what their settings do not change.
        """
        found = self._opened.get(key)
        if found is None:
            found = self._opened[key] = make()
        return found

    def get_or_make(
        self,
        stage: Stage,
        label: str,
        document: dict,
        make: Callable[[Path], None],
        quiet: bool = False,
    ) -> Artefact:
        """Return the artefact of ``document``, calling ``make(folder)`` if it does not exist.

        ``make`` writes into a work folder that survives being killed, so it can go on where it
        stopped; the folder takes its final name, at once, only when ``make`` returns. Two
        processes that want the same artefact wait for one another.

        Args:
            stage: which.
            label: for people; part of the folder's name.
            document: JSON values that determine the artefact beside the stage.
            make: writes the files.
            quiet: say nothing to the reader; for many small artefacts that take no time.

        Raises:
            StudyError: a finished artefact whose files are missing or cut short, or whose
                document differs from its name's; a store that cannot be written.
        """
        folder, document = self._place(stage, label, document)
        key = digest_of(document)
        started = time.perf_counter()
        reused = self._is_complete(folder, document)
        if not reused:
            with self._lock(folder):
                reused = self._is_complete(folder, document)
                if not reused:
                    self._make(folder, document, make)
        made = json.loads((folder / MADE).read_text(encoding="utf-8"))
        artefact = Artefact(stage.name, label, key, folder, reused, made["seconds"])
        log.log(logging.DEBUG if quiet else logging.INFO, "%s", artefact)
        log_event(
            {
                "stage": stage.name,
                "label": label,
                "key": key,
                "reused": reused,
                "seconds": round(time.perf_counter() - started, 3),
                "made_in_seconds": made["seconds"],
                "peak_rss_so_far_mb": peak_memory_mb(),
                "bytes": self._size(folder),
            }
        )
        return artefact

    def find(self, stage: Stage, label: str, document: dict) -> Path | None:
        """Return the folder of a finished artefact, or None when it has not been made."""
        folder, document = self._place(stage, label, document)
        return folder if self._is_complete(folder, document) else None

    def _place(self, stage: Stage, label: str, document: dict) -> tuple[Path, dict]:
        whole = {"stage": stage.name, "version": stage.version, **document}
        document = json.loads(json.dumps(whole))
        safe = file_label(re.sub(r"[^\w.+-]+", "_", label), 160)
        return self.root / stage.name / f"{safe}-{digest_of(document)}", document

    def _make(self, folder: Path, document: dict, make: Callable[[Path], None]) -> None:
        work = folder.with_name(folder.name + ".partial")
        with writing(work):
            work.mkdir(parents=True, exist_ok=True)
        for stale in work.glob(".*"):  # half-written by a killed run (see atomic_path)
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        started = time.perf_counter()
        try:
            make(work)
        except (OSError, RuntimeError) as error:
            if has_no_room(error):
                raise cannot_write(work, error) from error
            raise
        write_json(work / MADE, {"seconds": round(time.perf_counter() - started, 3)})
        files = sorted(p for p in work.rglob("*") if p.is_file() and p.name != MANIFEST)
        sizes = {p.relative_to(work).as_posix(): p.stat().st_size for p in files}
        write_json(work / MANIFEST, {"document": document, "files": sizes})
        if folder.exists():  # without a manifest: someone deleted part of it
            shutil.rmtree(folder)
        os.replace(work, folder)

    @staticmethod
    def _size(folder: Path) -> int:
        """Return how many bytes an artefact's files have."""
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return sum(manifest["files"].values())

    @staticmethod
    def _is_complete(folder: Path, document: dict) -> bool:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or emptied or cut
            return False
        mend = "delete the folder and run again"
        if manifest["document"] != document:
            raise StudyError(f"{folder}: made by another configuration than its name says; {mend}")
        for name, size in manifest["files"].items():
            found = (folder / name).stat().st_size if (folder / name).exists() else None
            if found != size:
                raise StudyError(f"{folder / name}: expected {size} bytes, found {found}; {mend}")
        return True

    @contextlib.contextmanager
    def _lock(self, folder: Path) -> Iterator[None]:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            handle = folder.with_name(f".{folder.name}.lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
