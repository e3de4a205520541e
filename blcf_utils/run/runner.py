"""Running the study: its notebooks in order, resumed where they stopped, on record.

A notebook whose executed copy and outputs are there as it left them, and whose key is what it was,
is not run again. The key is a digest of what determines its result: source, settings, parameters,
package code, data, weights, published tables and the tables of the notebooks before it. The
notebook that sums up all tables runs last. A results folder never holds tables of different
settings, and a run removes tables that it did not write. ``run.json`` in the results folder keeps
every key, time and digest, and is rewritten before and after every notebook, so a killed run loses
only the notebook it was in.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import yaml

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import project_root
from blcf_utils.ground.settings import digest_of
from blcf_utils.run.notebooks import NotebookSource, find_notebooks, list_notebooks, run_order
from blcf_utils.run.provenance import describe_run, git_state, without_paths
from blcf_utils.run.record import (
    RUN_FILE,
    changed_output,
    clear_tables,
    code_digest,
    dataset_identity,
    key_parts,
    only_run,
    output_files,
    read_run,
    results_folder,
    seeds_of,
    settings_of,
    written_outputs,
)

INTERRUPTED = 130  # exit code of what was stopped from the keyboard
NEW = {"status": "not run", "message": "", "seconds": 0.0, "peak_rss_mb": None, "outputs": {}}


@dataclass(frozen=True)
class NotebookRun:
    """What happened to one notebook.

    Attributes:
        name: ``04_search``.
        status: ``done``, ``unchanged``, ``failed``, ``interrupted`` or ``not run``.
        seconds: how long it ran, in this run or, when unchanged, in the run that made it.
        peak_rss_mb: its kernel's peak resident memory, where the system tells.
        message: why it failed, or has to run.
    """

    name: str
    status: str
    seconds: float = 0.0
    peak_rss_mb: int | None = None
    message: str = ""


@dataclass
class RunSummary:
    """The outcome of ``run_study``."""

    profile: str
    results: Path
    resume_command: str
    notebooks: list[NotebookRun] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every notebook is done or unchanged."""
        return all(run.status in ("done", "unchanged") for run in self.notebooks)

    @property
    def exit_code(self) -> int:
        """0 when ok, 130 when interrupted from the keyboard, else 1."""
        if any(run.status == "interrupted" for run in self.notebooks):
            return INTERRUPTED
        return 0 if self.ok else 1


def run_study(
    profile: str,
    notebooks: Sequence[str] = (),
    *,
    settings: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
    results: Path | None = None,
    force: bool = False,
    keep_going: bool = False,
    stream: TextIO | None = None,
) -> RunSummary:
    """Run notebooks of the study on a profile, skipping those that are up to date.

    Args:
        profile: a name in data/profiles, or the path of a YAML file.
        notebooks: numbers, names or paths; by default those the profile lists, or all.
        settings: changes to the profile, ``{"codebook.words": 512}``.
        parameters: values for the notebooks' parameters cells; each selected notebook must have
            every one of them.
        results: the folder that holds one folder per profile, instead of ``results``.
        force: run notebooks that are up to date, too.
        keep_going: go on with the next notebook after a failure.
        stream: where progress lines go; standard output by default.

    Returns:
        What happened to each notebook. A failure in a notebook is reported there, not raised.

    Raises:
        StudyError: unknown profile, notebook or parameter, a value of the wrong type, another
            run that writes to the same results, or, where notebooks are named, results of others
            in the same folder that they do not fit. Nothing has been executed then.
    """
    settings, parameters = settings or {}, parameters or {}
    resolved = load_profile(profile, settings)
    sources = find_notebooks(notebooks or resolved.notebooks)
    for name in resolved.parameters:
        find_notebooks([name])
    values = {s.name: _values(s, profile, resolved, settings, parameters) for s in sources}
    folder = results_folder(resolved.name, results)
    command = _command(profile, notebooks, settings, parameters, results)
    summary = RunSummary(resolved.name, folder, command)
    with only_run(folder):
        run = _Run(resolved, folder)
        if notebooks:
            run.refuse_to_mix(values)
        for source in sorted(sources, key=lambda source: run_order(source.name)):
            if summary.ok or (keep_going and summary.exit_code != INTERRUPTED):
                done, reason = run.bring_up_to_date(source, values[source.name], force=force)
                print(_line(done, reason, max(map(len, values))), file=stream, flush=True)
            else:
                done = NotebookRun(source.name, "not run")
            summary.notebooks.append(done)
        run.finish(summary)
    return summary


def read_status(
    profile: str, *, settings: dict[str, Any] | None = None, results: Path | None = None
) -> list[NotebookRun]:
    """Return the state of each of the profile's notebooks without running or loading anything.

    ``done`` is up to date (data excepted, which only a run checks); ``not run`` says in its
    message what changed since it ran, if it ever did.
    """
    resolved = load_profile(profile, settings)
    run = _Run(resolved, results_folder(resolved.name, results))
    rows = []
    for source in find_notebooks(resolved.notebooks):
        values = _values(source, profile, resolved, settings or {}, {})
        entry = run.entries.get(source.name, NEW)
        reason = run.reason_to_run(source, values, check_data=False)
        status, message = entry["status"], entry["message"] or reason
        if status == "done":
            status, message = "not run" if reason else "done", reason
        rows.append(_told(source, entry, status, message))
    return rows


class _Run:
    """One run of the study: decides, executes and keeps the record."""

    def __init__(self, profile: Profile, folder: Path):
        self.profile, self.folder = profile, folder
        self.record = read_run(folder)
        self.entries: dict[str, dict] = self.record["notebooks"]
        self.code = code_digest()
        self.root = project_root()
        self.executed = False
        self.data: dict[str, dict | None] = {}

    def refuse_to_mix(self, chosen: Collection[str]) -> None:
        """Refuse to run notebooks beside others of the study that they do not fit.

        Raises:
            StudyError: a notebook that is not chosen was run with other settings, or comes
                before a chosen one and did not finish.
        """
        own = digest_of(settings_of(self.profile.document()))
        study = {source.name for source in list_notebooks()}
        unfit = {}
        for name, entry in self.entries.items():
            if name in study and name not in chosen:
                if entry.get("key_parts", {}).get("profile", own) != own:
                    unfit[name] = "ran with other settings"
                elif entry["status"] != "done" and run_order(name) < max(map(run_order, chosen)):
                    unfit[name] = "did not finish"
        if unfit:
            raise StudyError(
                f"{self.folder}: {', '.join(f'{name} {why}' for name, why in unfit.items())}, and "
                "results of different runs must not be mixed; run "
                f"{' '.join(name[:2] for name in unfit)} as well, or give this run another folder "
                "with --results DIR"
            )

    def bring_up_to_date(
        self, source: NotebookSource, values: dict, *, force: bool
    ) -> tuple[NotebookRun, str]:
        """Run a notebook unless it is up to date; return what happened and why it ran."""
        reason = "forced" if force else self.reason_to_run(source, values)
        if reason:
            self._run_notebook(source, values)
        entry = self.entries[source.name]
        status, message = (entry["status"], entry["message"]) if reason else ("unchanged", "")
        return _told(source, entry, status, message), reason

    def reason_to_run(
        self, source: NotebookSource, values: dict, *, check_data: bool = True
    ) -> str:
        """Return why the notebook has to run, or an empty text when it is up to date."""
        entry = self.entries.get(source.name, NEW)
        if entry["status"] != "done":
            return "new" if entry is NEW else f"{entry['status']} before"
        if not self._executed_copy(source).is_file():
            return "no executed copy"
        changed = changed_output(self.folder, source.name, self.entries)
        if changed:
            return changed
        datasets = _identities(entry["datasets"])
        if check_data:
            datasets = {name: self._identity_now(name) for name in datasets}
        parts = self._key_parts(source, values, datasets)
        if digest_of(parts) == entry["key"]:
            return ""
        differing = [name for name in parts if parts[name] != entry["key_parts"].get(name)]
        return f"{', '.join(differing)} changed"

    def finish(self, summary: RunSummary) -> None:
        """Close the record, if this run has executed anything."""
        if self.executed:
            self.record["status"] = "done" if summary.ok else "not finished"
            self._write()

    def _run_notebook(self, source: NotebookSource, values: dict) -> None:
        if not self.executed:
            self._start_record()
        known = self.entries.get(source.name, NEW)["outputs"]
        # What the record says if this process is killed.
        entry = self.entries[source.name] = {**NEW, "status": "interrupted", "outputs": known}
        self._write()
        clear_tables(self.folder, source.name, self.entries)
        before = output_files(self.folder)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="blcf-") as scratch:
            log = Path(scratch) / "stages.jsonl"
            log.touch()
            try:
                done = self._execute(source, values, Path(scratch), log)
                status, message = "failed" if done.failure else "done", done.failure
                seconds, peak = done.seconds, done.peak_rss_mb
            except KeyboardInterrupt:
                status, message = "interrupted", "interrupted from the keyboard"
                seconds, peak = round(time.perf_counter() - started, 2), None
            events = [json.loads(line) for line in log.read_text().splitlines()]
        datasets = {event["dataset"]: event for event in events if "dataset" in event}
        parts = self._key_parts(source, values, _identities(datasets.values()))
        entry.update(
            status=status,
            message=message,
            seconds=seconds,
            peak_rss_mb=peak,
            key=digest_of(parts),
            key_parts=parts,
            parameters=without_paths(values),
            stages=without_paths([event for event in events if "stage" in event]),
            datasets=without_paths(list(datasets.values())),
            outputs=written_outputs(self.folder, before, known),
            git=git_state(self.root),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._write()

    def _execute(self, source: NotebookSource, values: dict, scratch: Path, log: Path):
        from blcf_utils.run.execution import execute

        environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        environment |= {
            "BLCF_HOME": str(self.root),
            "BLCF_RESULTS": str(self.folder.parent),
            "BLCF_STAGE_LOG": str(log),
            "BLCF_BATCH": "1",
            # Not the user's own start-up files and history.
            "IPYTHONDIR": str(scratch / "ipython"),
        }
        target = self._executed_copy(source)
        return execute(source, target, values, cwd=self.root, environment=environment)

    def _executed_copy(self, source: NotebookSource) -> Path:
        return self.folder / "notebooks" / f"{source.name}.ipynb"

    def _key_parts(self, source: NotebookSource, values: dict, datasets: dict) -> dict[str, str]:
        return key_parts(source, self.profile, values, self.code, datasets, self.entries)

    def _identity_now(self, dataset: str) -> dict | None:
        if dataset not in self.data:
            self.data[dataset] = dataset_identity(self.profile, dataset)
        return self.data[dataset]

    def _start_record(self) -> None:
        """Describe this run, before the first notebook it executes, and forget other runs."""
        self.executed = True
        own = digest_of(settings_of(self.profile.document()))
        for name, entry in [*self.entries.items()]:
            here = (self.folder / "notebooks" / f"{name}.ipynb").is_file()
            other = entry.get("key_parts", {}).get("profile", own) != own
            if entry["status"] == "done" and (other or not here):
                del self.entries[name]
        self.record = {
            "profile": {
                "name": self.profile.name,
                "digest": self.profile.digest(),
                "document": without_paths(self.profile.document()),
            },
            "provenance": describe_run(seeds_of(self.profile)),
            "status": "running",
            "notebooks": self.entries,
        }

    def _write(self) -> None:
        write_json(self.folder / RUN_FILE, self.record)


def _told(source: NotebookSource, entry: dict, status: str, message: str) -> NotebookRun:
    return NotebookRun(source.name, status, entry["seconds"], entry["peak_rss_mb"], message)


def _line(run: NotebookRun, reason: str, width: int) -> str:
    """Return the line that tells of a notebook; ``width`` is that of the column of names."""
    memory = f"  {run.peak_rss_mb:6,} MB" if run.peak_rss_mb else ""
    why = f"  ({reason})" if run.status == "done" else ""
    return f"{run.name:{width}}  {run.status:11}  {run.seconds:7.1f} s{memory}{why}"


def _identities(events: Iterable[dict]) -> dict[str, dict]:
    """Return what identifies each dataset that a stage log tells of, by name."""
    return {
        event["dataset"]: {key: event.get(key) for key in ("manifest", "ground_truth")}
        for event in events
    }


def _values(
    source: NotebookSource, profile: str, resolved: Profile, settings: dict, given: dict
) -> dict[str, Any]:
    """Return the checked values of a notebook's parameters."""
    path = Path(profile)
    if path.suffix in (".yaml", ".yml"):
        path = path.resolve()
        inside = path.is_relative_to(project_root())
        profile = str(path.relative_to(project_root()) if inside else path)
    values = {"PROFILE": profile, "SETTINGS": settings}
    own = {**resolved.parameters.get(source.name, {}), **given}
    for name in values.keys() & own:
        raise StudyError(
            f"parameter {name} of {source.name} is set by the run itself; "
            "use --profile and --set KEY=VALUE"
        )
    source.check(values | own)
    return values | own


def _command(profile, notebooks, settings, parameters, results) -> str:
    """Return the command that runs the same again."""
    words = ["blcf", "run", *notebooks, "--profile", profile]
    for option, values in (("--set", settings), ("--parameter", parameters)):
        for key, value in values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
            words += [option, f"{key}={text.removesuffix(chr(10)).removesuffix('...').strip()}"]
    if results:
        words += ["--results", str(results)]
    return shlex.join(words)
