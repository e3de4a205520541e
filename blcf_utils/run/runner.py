"""Running the study: its notebooks in reading order, resumed where they stopped, on record.

A notebook whose executed copy and outputs are there as it left them, and whose key (source,
profile, parameters, package code, data, weights, published tables, results of the notebooks before
it) is what it was, is not run again. A results folder never holds tables of different settings.
``run.json`` in the results folder keeps every key, time and digest, and is rewritten after every
notebook, so a killed run loses only the notebook it was in.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
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
from blcf_utils.run.lines import Lines
from blcf_utils.run.notebooks import (
    NotebookSource,
    code_digest,
    find_notebooks,
    list_notebooks,
)
from blcf_utils.run.provenance import describe_run, git_state, without_paths
from blcf_utils.run.record import (
    RUN_FILE,
    changed_output,
    content_digest,
    dataset_identity,
    identities,
    kept_outputs,
    key_parts,
    only_run,
    output_files,
    read_run,
    results_folder,
    seeds_of,
    settings_digest,
)


@dataclass(frozen=True)
class NotebookRun:
    """What happened to one notebook.

    Attributes:
        name: ``04_search``.
        status: ``done``, ``unchanged``, ``failed``, ``interrupted`` or ``not run``.
        seconds: how long it ran, in this run or, when unchanged, in the run that made it.
        peak_rss_mb: its kernel's peak resident memory, where the system tells.
        message: why it failed, or was run again.
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
            return 130
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
    values = {
        source.name: _parameter_values(source, profile, resolved, settings, parameters)
        for source in sources
    }
    for name in resolved.parameters:
        find_notebooks([name])
    folder = results_folder(resolved.name, results)
    summary = RunSummary(
        resolved.name, folder, _command(profile, notebooks, settings, parameters, results)
    )
    with only_run(folder):
        lines = Lines(stream or sys.stdout, [source.name for source in sources])
        run = _Run(resolved, settings, folder, lines)
        if notebooks:
            run.refuse_to_mix(sources)
        stopped = False
        for source in sources:
            if stopped:
                summary.notebooks.append(NotebookRun(source.name, "not run"))
                continue
            done = run.bring_up_to_date(source, values[source.name], force=force)
            summary.notebooks.append(done)
            stopped = done.status == "interrupted" or (done.status == "failed" and not keep_going)
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
    folder = results_folder(resolved.name, results)
    run = _Run(resolved, settings or {}, folder, Lines(io.StringIO(), []))
    rows = []
    for source in find_notebooks(resolved.notebooks):
        values = _parameter_values(source, profile, resolved, settings or {}, {})
        entry = run.record["notebooks"].get(source.name)
        reason = run.reason_to_run(source, values, check_data=False)
        status, message = ("not run", reason) if reason else ("done", "")
        if entry and entry["status"] != "done":
            status = "interrupted" if entry["status"] == "running" else entry["status"]
            message = entry.get("message", "")
        seconds, peak = (entry["seconds"], entry["peak_rss_mb"]) if entry else (0.0, None)
        rows.append(NotebookRun(source.name, status, seconds, peak, message))
    return rows


class _Run:
    """One run of the study: decides, executes and keeps the record."""

    def __init__(self, profile: Profile, settings: dict, folder: Path, lines: Lines):
        self.profile, self.settings, self.folder, self.lines = profile, settings, folder, lines
        self.record = read_run(folder)
        self.code = code_digest()
        self.root = project_root()
        self.executed = False
        self.data: dict[str, dict | None] = {}

    def refuse_to_mix(self, chosen: Sequence[NotebookSource]) -> None:
        """Refuse to run notebooks beside others of the study that they do not fit.

        Raises:
            StudyError: a notebook that is not chosen was run with other settings, or comes
                before a chosen one and did not finish.
        """
        own = settings_digest(self.profile)
        chosen_names = [source.name for source in chosen]
        differing, unfinished = [], []
        for name in (source.name for source in list_notebooks()):
            entry = self.record["notebooks"].get(name)
            if entry is None or name in chosen_names:
                continue
            if entry.get("key_parts", {}).get("profile", own) != own:
                differing.append(name)
            elif entry["status"] != "done" and name < max(chosen_names):
                unfinished.append(name)
        for names, what in (
            (differing, "ran with other settings"),
            (unfinished, "did not finish"),
        ):
            if names:
                raise StudyError(
                    f"{self.folder}: {', '.join(names)} {what}, and results of different runs "
                    f"must not be mixed; run {' '.join(name[:2] for name in names)} as well, or "
                    "give this run another folder with --results DIR"
                )

    def bring_up_to_date(self, source: NotebookSource, values: dict, *, force: bool) -> NotebookRun:
        reason = "forced" if force else self.reason_to_run(source, values)
        if not reason:
            entry = self.record["notebooks"][source.name]
            done = NotebookRun(source.name, "unchanged", entry["seconds"], entry["peak_rss_mb"])
            self.lines.finish(done.name, done.status, done.seconds, done.peak_rss_mb)
            return done
        self._start_record()
        last = self.record["notebooks"].get(source.name, {"outputs": {}})
        entry = {
            "status": "running", "seconds": 0.0, "peak_rss_mb": None, "outputs": last["outputs"],
        }  # fmt: skip
        self.record["notebooks"][source.name] = entry
        self._write()
        self.lines.start(source.name, reason)
        before = output_files(self.folder)
        with tempfile.TemporaryDirectory(prefix="blcf-") as scratch:
            log = Path(scratch) / "stages.jsonl"
            started = time.perf_counter()
            try:
                execution = self._execute(source, values, Path(scratch), log)
                seconds, peak = execution.seconds, execution.peak_rss_mb
                status = "failed" if execution.failure else "done"
                message = str(execution.failure or "")
            except KeyboardInterrupt:
                seconds, peak = round(time.perf_counter() - started, 2), None
                status, message = "interrupted", "interrupted from the keyboard"
            events = [json.loads(line) for line in log.read_text().splitlines()]
        stages = [event for event in events if "stage" in event]
        datasets = {event["dataset"]: event for event in events if "dataset" in event}
        after = output_files(self.folder)
        written = {
            name: content_digest(self.folder / name)
            for name, state in after.items()
            if before.get(name) != state
        }
        kept = kept_outputs(self.folder, source.name, self.record["notebooks"])
        known_peaks = [p for p in (peak, *(s.get("peak_rss_so_far_mb") for s in stages)) if p]
        peak = max(known_peaks, default=None)
        parts = self._key_parts(source, values, identities(datasets.values()))
        entry.update(
            status=status,
            message=message,
            seconds=seconds,
            peak_rss_mb=peak,
            key=digest_of(parts),
            key_parts=parts,
            parameters=without_paths(values),
            stages=without_paths(stages),
            datasets=without_paths(list(datasets.values())),
            outputs=dict(sorted({**kept, **written}.items())),
            git=git_state(self.root),
            finished=_now(),
        )
        self._write()
        done = NotebookRun(source.name, status, seconds, peak, message)
        self.lines.finish(done.name, done.status, done.seconds, done.peak_rss_mb)
        return done

    def reason_to_run(
        self, source: NotebookSource, values: dict, *, check_data: bool = True
    ) -> str:
        """Return why the notebook has to run, or an empty text when it is up to date."""
        entry = self.record["notebooks"].get(source.name)
        if not entry:
            return "new"
        if entry["status"] != "done":
            return "cut short" if entry["status"] == "running" else f"{entry['status']} before"
        if not self._executed_copy(source).is_file():
            return "no executed copy"
        missing = [name for name in entry["outputs"] if not (self.folder / name).exists()]
        if missing:
            return f"{missing[0]} is missing"
        overwritten = changed_output(self.folder, source.name, self.record["notebooks"])
        if overwritten:
            return f"{Path(overwritten).name} was changed"
        known = identities(entry["datasets"])
        parts = self._key_parts(source, values, known)
        changed = [name for name, digest in parts.items() if entry["key_parts"].get(name) != digest]
        if not changed and check_data:
            changed = [name for name, recorded in known.items() if self._identity(name) != recorded]
        return f"{', '.join(changed)} changed" if changed else ""

    def finish(self, summary: RunSummary) -> None:
        if self.executed:
            self.record["status"] = "done" if summary.ok else "not finished"
            self._write()

    def _execute(self, source: NotebookSource, values: dict, scratch: Path, log: Path):
        from blcf_utils.run.execution import execute

        log.touch()
        environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        environment |= {
            "BLCF_HOME": str(self.root),
            "BLCF_RESULTS": str(self.folder.parent),
            "BLCF_STAGE_LOG": str(log),
            "BLCF_BATCH": "1",
            # Not the user's own start-up files and history.
            "IPYTHONDIR": str(scratch / "ipython"),
        }
        return execute(
            source,
            self._executed_copy(source),
            values,
            cwd=self.root,
            environment=environment,
            on_progress=self.lines.progress,
        )

    def _executed_copy(self, source: NotebookSource) -> Path:
        return self.folder / "notebooks" / f"{source.name}.ipynb"

    def _key_parts(self, source: NotebookSource, values: dict, datasets: dict) -> dict[str, str]:
        entries = self.record["notebooks"]
        return key_parts(source, self.profile, values, self.code, datasets, entries)

    def _identity(self, dataset: str) -> dict | None:
        if dataset not in self.data:
            self.data[dataset] = dataset_identity(self.profile, dataset)
        return self.data[dataset]

    def _start_record(self) -> None:
        """Describe this run, before the first notebook it executes."""
        if self.executed:
            return
        self.executed = True
        self.record = {
            "profile": {
                "name": self.profile.name,
                "digest": self.profile.digest(),
                "document": without_paths(self.profile.document()),
            },
            "settings": without_paths(self.settings),
            "provenance": describe_run(seeds_of(self.profile)),
            "status": "running",
            "notebooks": self.record["notebooks"],
        }

    def _write(self) -> None:
        self.record["notebooks"] = dict(sorted(self.record["notebooks"].items()))
        write_json(self.folder / RUN_FILE, self.record)


def _parameter_values(
    source: NotebookSource, profile: str, resolved: Profile, settings: dict, given: dict
) -> dict[str, Any]:
    path = Path(profile)
    if path.suffix in (".yaml", ".yml"):
        path = path.resolve()
        inside = path.is_relative_to(project_root())
        profile = str(path.relative_to(project_root()) if inside else path)
    values = {"PROFILE": profile, "SETTINGS": settings}
    source.check({name: values[name] for name in values})
    own = {**resolved.parameters.get(source.name, {}), **given}
    for name in values:
        if name in own:
            raise StudyError(
                f"parameter {name} of {source.name} is set by the run itself; "
                "use --profile and --set KEY=VALUE"
            )
    source.check(own)
    return values | own


def _command(profile, notebooks, settings, parameters, results) -> str:
    words = ["blcf", "run", *notebooks, "--profile", profile]
    for option, values in (("--set", settings), ("--parameter", parameters)):
        for key, value in values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
            words += [option, f"{key}={text.removesuffix(chr(10)).removesuffix('...').strip()}"]
    if results:
        words += ["--results", str(results)]
    return shlex.join(words)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
