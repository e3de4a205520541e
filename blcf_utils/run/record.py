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
from typing import Any

from blcf_utils.config.profile import Profile
from blcf_utils.features.networks.weight_files import weights_identity
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import published_dir, results_dir
from blcf_utils.ground.settings import digest_of
from blcf_utils.run.notebooks import NotebookSource, run_order

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
    return (Path(results) / profile if results else results_dir(profile)).absolute()


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
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
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


def key_parts(
    source: NotebookSource,
    profile: Profile,
    parameters: dict[str, Any],
    code: str,
    datasets: dict[str, dict | None],
    entries: dict[str, dict],
) -> dict[str, str]:
    """Return a digest of each thing that determines a notebook's result, by its name.

    The notebook's key is the digest of them all; the parts only tell what changed.

    Args:
        source: the notebook.
        profile: the resolved profile.
        parameters: values of the notebook's parameters.
        code: digest of the package's source.
        datasets: identities of the datasets it loads, by name.
        entries: the notebooks of the run's record, of which those before this one count.
    """
    published = sorted(p for p in published_dir().glob("*") if p.suffix in (".csv", ".yaml"))
    earlier = {
        f"{name}/{file}": digest
        for name, entry in entries.items()
        for file, digest in entry["outputs"].items()
        if run_order(name) < run_order(source.name) and file.startswith(READ_BY_LATER)
    }
    parts = {
        "notebook": source.digest,
        "profile": settings_of(profile.document()),
        "parameters": parameters,
        "package code": code,
        **{f"dataset {name}": identity for name, identity in datasets.items()},
        "weights": weights_identity(profile),
        "published": {path.name: content_digest(path) for path in published},
        "earlier tables": earlier,
    }
    return {name: digest_of(part) for name, part in parts.items()}


def code_digest() -> str:
    """Return a hash of the package's source, without the rooms that only run and report."""
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(RUNNER_LAYER):
            whole.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def dataset_identity(profile: Profile, name: str) -> dict | None:
    """Return what identifies a dataset as it is now, or None when it cannot be loaded."""
    from blcf_utils.datasets import load_dataset

    try:
        dataset = load_dataset(name, **profile.dataset_options.get(name, {}))
    except StudyError:
        return None  # the notebook itself will say what is wrong
    return {"manifest": dataset.manifest, "ground_truth": dataset.ground_truth_digest}


def changed_output(folder: Path, name: str, entries: dict[str, dict]) -> str:
    """Say which result of a notebook is not as a run left it; an empty text when all are.

    A notebook that comes later may write the same file: what it wrote counts as well.

    Args:
        folder: the results folder.
        name: the notebook.
        entries: the notebooks of the run's record.
    """
    after = [entry for other, entry in entries.items() if run_order(other) > run_order(name)]
    for file, digest in entries[name]["outputs"].items():
        path = folder / file
        later = [entry["outputs"].get(file) for entry in after]
        if not path.exists():
            return f"{file} is missing"
        if file.startswith(READ_BY_LATER) and content_digest(path) not in [digest, *later]:
            return f"{path.name} was changed"
    return ""


def clear_tables(folder: Path, name: str, entries: dict[str, dict]) -> None:
    """Remove the tables that no other notebook of the run wrote, before a notebook runs.

    What it left itself goes, and what a reference, another run or a person left: no notebook may
    read it, and no report show it as this run's.
    """
    others = (entry["outputs"] for other, entry in entries.items() if other != name)
    kept = {file for outputs in others for file in outputs}
    for file in output_files(folder):
        if file.startswith(READ_BY_LATER) and file not in kept:
            (folder / file).unlink()


def output_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return modification time and size of what notebooks wrote below a results folder."""
    found = {}
    for path in folder.rglob("[!.]*"):
        name = path.relative_to(folder)
        if name.parts[0] not in WRITTEN_BY_THE_RUNNER and path.is_file():
            state = path.stat()
            found[name.as_posix()] = (state.st_mtime_ns, state.st_size)
    return found


def written_outputs(folder: Path, before: dict, known: dict[str, str]) -> dict[str, str]:
    """Return the digests of what a notebook wrote, by file.

    Args:
        folder: the results folder.
        before: ``output_files`` before it ran.
        known: outputs of its last run. It still answers for those that are there as it left them:
            some write only what is missing.
    """
    after = output_files(folder)
    written = {name for name, state in after.items() if before.get(name) != state}
    digests = {name: content_digest(folder / name) for name in written | after.keys() & known}
    return {
        name: digest
        for name, digest in sorted(digests.items())
        if name in written or digest == known[name]
    }


def content_digest(path: Path) -> str:
    """Hash a file; of a CSV without its ``seconds`` column, which differs from run to run."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"))))
        if rows and "seconds" in rows[0]:
            at = rows[0].index("seconds")
            content = json.dumps([row[:at] + row[at + 1 :] for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()[:16]
