"""The record of a run: where it is, what a notebook's result depends on, what it wrote."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blcf_utils.config.profile import Profile
from blcf_utils.features.networks.weight_files import weights_identity
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import published_dir, results_dir
from blcf_utils.ground.settings import digest_of
from blcf_utils.run.notebooks import NotebookSource

RUN_FILE = "run.json"
WRITTEN_BY_THE_RUNNER = ("notebooks", "report")
# What later notebooks read; figures are only looked at.
READ_BY_LATER_NOTEBOOKS = ("tables/", "per_query/")
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


def settings_digest(profile: Profile) -> str:
    """Return a digest of the settings of a profile that change numbers."""
    document = {k: v for k, v in profile.document().items() if k not in WITHOUT_EFFECT}
    return digest_of(document)


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
    datasets: dict[str, dict],
    earlier: dict[str, dict],
) -> dict[str, str]:
    """Return a digest of each thing that a notebook's results depend on, by its name.

    Args:
        source: the notebook.
        profile: the resolved profile.
        parameters: values of the notebook's parameters.
        code: digest of the package's source.
        datasets: identities of the datasets it loads, by name.
        earlier: entries of the run's record, of which those before the notebook count.
    """
    read = {
        name: {
            path: digest
            for path, digest in entry["outputs"].items()
            if path.startswith(READ_BY_LATER_NOTEBOOKS)
        }
        for name, entry in earlier.items()
        if name < source.name
    }
    return {
        "notebook": source.digest,
        "profile": settings_digest(profile),
        "parameters": digest_of(parameters),
        "package code": code,
        "datasets": digest_of(datasets),
        "weights": digest_of(weights_identity(profile)),
        "published": digest_of(_published()),
        "earlier tables": digest_of({name: files for name, files in read.items() if files}),
    }


def changed_output(folder: Path, name: str, notebooks: dict[str, dict]) -> str:
    """Return the first result of a notebook that is not as a run left it, or an empty text.

    A notebook that comes later may write the same file: what it wrote counts as well.

    Args:
        folder: the results folder.
        name: the notebook.
        notebooks: entries of the run's record.
    """
    for file, digest in notebooks[name]["outputs"].items():
        if not file.startswith(READ_BY_LATER_NOTEBOOKS):
            continue
        later = {e["outputs"].get(file) for other, e in notebooks.items() if other > name}
        if content_digest(folder / file) not in later | {digest}:
            return file
    return ""


def kept_outputs(folder: Path, name: str, notebooks: dict[str, dict]) -> dict[str, str]:
    """Return those results of a notebook's last run that are still there as it wrote them.

    A notebook that writes only what is missing goes on answering for what it wrote before.
    """
    owned = {file for other, e in notebooks.items() if other != name for file in e["outputs"]}
    return {
        file: digest
        for file, digest in notebooks[name]["outputs"].items()
        if file not in owned
        and (folder / file).is_file()
        and content_digest(folder / file) == digest
    }


def output_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return modification time and size of what notebooks wrote below a results folder."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        ours = name.split("/")[0] in WRITTEN_BY_THE_RUNNER or name == RUN_FILE
        if not ours and not path.name.startswith(".") and path.is_file():
            found[name] = (path.stat().st_mtime_ns, path.stat().st_size)
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


def identities(events: Iterable[dict]) -> dict[str, dict]:
    """Return what identifies each dataset that a stage log or a record tells of, by name."""
    return {
        event["dataset"]: {key: event.get(key) for key in ("manifest", "ground_truth")}
        for event in events
    }


def dataset_identity(profile: Profile, name: str) -> dict | None:
    """Return what identifies a dataset as it is now, or None when it cannot be loaded."""
    from blcf_utils.datasets import load_dataset

    try:
        dataset = load_dataset(name, **profile.dataset_options.get(name, {}))
    except StudyError:
        return None  # the notebook itself will say what is wrong
    return {"manifest": dataset.manifest, "ground_truth": dataset.ground_truth_digest}


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


def _published() -> list[list[str]]:
    files = sorted(p for p in published_dir().glob("*") if p.suffix in (".csv", ".yaml"))
    return [[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in files]
