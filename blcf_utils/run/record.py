"""The record of a run: where it is, what a notebook's result depends on, what it wrote."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from blcf_utils.config.profile import Profile
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute, published_dir, results_dir
from blcf_utils.ground.writing import writing

RUN_FILE = "run.json"
# The rooms above the study: changing them changes no number that a notebook writes.
RUNNER_LAYER = ("cli.py", "run/")
WRITTEN_BY_THE_RUNNER = ("notebooks", "report", RUN_FILE)
# What later notebooks read; figures are only looked at.
READ_BY_LATER = ("tables/", "per_query/")
# Parts of a profile that change no number.
WITHOUT_EFFECT = ("name", "description", "notebooks", "parameters")


def results_folder(profile: str, results: Path | None = None) -> Path:
    """Return the absolute results folder of a profile, under ``results`` when that is given."""
    return absolute(results) / profile if results else results_dir(profile)


def read_run(folder: Path) -> dict:
    """Return the record of the runs that wrote ``folder`` (``run.json``), or an empty one.

    Raises:
        StudyError: the file is not such a record.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return {"notebooks": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["notebooks"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(
            f"{path}: expected the JSON record of a run; delete the file and run again"
        ) from None
    return record


def refuse_reference(folder: Path, profile: str) -> None:
    """Tell a run of this machine from the reference that git has committed in the same place.

    Raises:
        StudyError: ``folder`` holds no executed notebook, which are never committed.
    """
    if not any((folder / "notebooks").glob("*.ipynb")):
        raise StudyError(
            f"{folder}: holds the committed reference only, no run of this machine; run "
            f"blcf run --profile {profile} first"
        )


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Refuse to write to a results folder that another run is writing to."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{folder}: another run is writing there; wait for it to end or give this one "
                "another folder with --results DIR"
            ) from None
        yield


def settings_of(document: dict) -> dict:
    """Return the settings in a profile's document that change numbers."""
    return {name: value for name, value in document.items() if name not in WITHOUT_EFFECT}


def seeds_of(profile: Profile) -> dict[str, int]:
    """Return every seed of a profile by what it seeds: its own, renderings, random weights."""
    from blcf_utils.datasets import REGISTRY

    seeds = {"profile": profile.seed}
    for name in profile.datasets:
        options = profile.dataset_options.get(name, {})
        if "seed" in options or (name in REGISTRY and REGISTRY[name].rendered):
            seeds[f"rendering of {name}"] = options.get("seed", 0)
    for backbone in (profile.features.backbone, *profile.compare_backbones):
        if backbone.weights == "random":
            seeds[f"random weights of {backbone.name} {backbone.layer}"] = backbone.seed
    return seeds


def published_tables() -> dict[str, str]:
    """Return a digest of every published table and of what describes them."""
    found = sorted(p for p in published_dir().glob("*") if p.suffix in (".csv", ".yaml"))
    return {path.name: content_digest(path) for path in found}


def code_digest() -> str:
    """Return a hash of the package's source, without the rooms that only run and report."""
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(RUNNER_LAYER):
            whole.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def dataset_identity(profile: Profile, name: str) -> dict[str, str | None]:
    """Return what identifies a dataset as it is now; None for each when it cannot be loaded."""
    from blcf_utils.datasets import load_dataset

    try:
        dataset = load_dataset(name, **profile.dataset_options.get(name, {}))
    except StudyError:  # the notebook itself will say what is wrong
        return {"manifest": None, "ground_truth": None}
    return {"manifest": dataset.manifest, "ground_truth": dataset.ground_truth_digest}


def changed_output(folder: Path, outputs: dict[str, str]) -> str:
    """Say which output of a notebook is not as it left it; an empty text when all are.

    Args:
        folder: the results folder.
        outputs: the notebook's outputs by the run's record, file to digest.
    """
    for file, digest in outputs.items():
        if not (folder / file).exists():
            return f"{file} is missing"
        if file.startswith(READ_BY_LATER) and content_digest(folder / file) != digest:
            return f"{Path(file).name} was changed"
    return ""


def clear_tables(folder: Path, name: str, entries: dict[str, dict]) -> None:
    """Remove the tables that no other notebook of the run wrote, before a notebook runs.

    What it left itself goes, and what a reference, another run or a person left: no notebook may
    read it, and no report show it as this run's.
    """
    others = (entry["outputs"] for other, entry in entries.items() if other != name)
    kept = {file for outputs in others for file in outputs}
    for path in [path for inside in READ_BY_LATER for path in (folder / inside).glob("*")]:
        if path.is_file() and path.relative_to(folder).as_posix() not in kept:
            path.unlink()


def written_outputs(folder: Path, known: dict[str, str]) -> dict[str, str]:
    """Return the digests of what a notebook wrote, by file: what is newer than the run's record.

    Args:
        folder: the results folder.
        known: outputs of its last run. It still answers for those that are there as it left them:
            some tables are written only where they are missing.
    """
    since = (folder / RUN_FILE).stat().st_mtime_ns
    found = {}
    for path in sorted(folder.rglob("[!.]*")):
        name = path.relative_to(folder)
        if name.parts[0] not in WRITTEN_BY_THE_RUNNER and path.is_file():
            file, digest = name.as_posix(), content_digest(path)
            if path.stat().st_mtime_ns > since or known.get(file) == digest:
                found[file] = digest
    return found


def content_digest(path: Path) -> str:
    """Hash a file; of a CSV without its ``seconds`` column, which differs from run to run."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"))))
        if rows and "seconds" in rows[0]:
            at = rows[0].index("seconds")
            content = json.dumps([row[:at] + row[at + 1 :] for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()[:16]
