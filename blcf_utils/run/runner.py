"""Running the study: its notebooks in order, resumed where they stopped, on record.

A notebook whose executed copy and outputs are there as it left them, and whose key is what it was,
is not run again. The key has a digest of each thing that determines its result: source, settings,
parameters, package code, weights, published tables and the tables of the notebooks before it; the
datasets it loaded must be what they were, too. A results folder never holds tables of different
settings. ``run.json`` in the results folder keeps every key, time and digest, and is rewritten
before and after every notebook, so a killed run loses only the notebook it was in.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.features.networks.weight_files import refuse, settled, weights_identity
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.cores import free_cores, thread_variables
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import environment, project_root
from blcf_utils.ground.settings import digest_of
from blcf_utils.run.notebooks import NotebookSource, find_notebooks, list_notebooks, run_order
from blcf_utils.run.provenance import describe_run, git_state, without_paths
from blcf_utils.run.record import (
    READ_BY_LATER,
    RUN_FILE,
    changed_output,
    clear_tables,
    code_digest,
    dataset_identity,
    only_run,
    published_tables,
    read_run,
    results_folder,
    seeds_of,
    settings_of,
    written_outputs,
)

INTERRUPTED = 130  # exit code of what was stopped from the keyboard
NEW = {"status": "not run", "message": "", "seconds": 0.0, "peak_rss_mb": None, "outputs": {}}
TOLD = ("status", "seconds", "peak_rss_mb", "message")


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
    resolved = settled(resolved)
    folder = results_folder(resolved.name, results)
    summary = RunSummary(resolved.name, folder)
    with only_run(folder):
        run = _Run(resolved, folder, sources)
        if notebooks:
            run.refuse_to_mix(values)
        with closing(run):
            for source in sorted(sources, key=lambda source: run_order(source.name)):
                if summary.ok or (keep_going and summary.exit_code != INTERRUPTED):
                    done, reason = run.bring_up_to_date(source, values[source.name], force=force)
                    print(_line(done, reason, max(map(len, values))), file=stream, flush=True)
                else:
                    done = NotebookRun(source.name, "not run")
                summary.notebooks.append(done)
    return summary


def read_status(
    profile: str, *, settings: dict[str, Any] | None = None, results: Path | None = None
) -> list[NotebookRun]:
    """Return the state of each of the profile's notebooks without running or loading anything.

    ``done`` is up to date (data excepted, which only a run checks); ``not run`` says in its
    message what changed since it ran, if it ever did.
    """
    resolved = settled(load_profile(profile, settings), refuse)
    run = _Run(resolved, results_folder(resolved.name, results))
    rows = []
    for source in find_notebooks(resolved.notebooks):
        values = _values(source, profile, resolved, settings or {}, {})
        told = run.told(source)
        reason = run.reason_to_run(source, values, check_data=False)
        if told.status == "done" and reason:
            told = replace(told, status="not run")
        rows.append(replace(told, message=told.message or reason))
    return rows


class _Run:
    """One run of the study: decides, executes and keeps the record."""

    def __init__(self, profile: Profile, folder: Path, sources: Sequence[NotebookSource] = ()):
        self.profile, self.folder, self.sources = profile, folder, sources
        self.warm = None
        self.record = read_run(folder)
        self.entries: dict[str, dict] = self.record["notebooks"]
        self.root = project_root()
        self.executed = False
        self.identity = cache(partial(dataset_identity, profile))
        parts = {
            "profile": settings_of(profile.document()),
            "package code": code_digest(),
            "weights": weights_identity(profile),
            "published": published_tables(),
        }
        self.shared_key = {name: digest_of(part) for name, part in parts.items()}

    def close(self) -> None:
        """End what kernels are started from."""
        if self.warm:
            self.warm.close()

    def refuse_to_mix(self, chosen: Collection[str]) -> None:
        """Refuse to run notebooks beside others of the study that they do not fit.

        Raises:
            StudyError: a notebook that is not chosen was run with other settings, or comes
                before a chosen one and did not finish.
        """
        own = self.shared_key["profile"]
        study = {source.name for source in list_notebooks()}
        unfit = {}
        for name in self.entries.keys() & study - set(chosen):
            entry = self.entries[name]
            if entry.get("key_parts", {}).get("profile", own) != own:
                unfit[name] = "ran with other settings"
            elif entry["status"] != "done" and run_order(name) < max(map(run_order, chosen)):
                unfit[name] = "did not finish"
        if unfit:
            raise StudyError(
                f"{self.folder}: {', '.join(f'{name} {unfit[name]}' for name in sorted(unfit))}, "
                "and results of different runs must not be mixed; run "
                f"{' '.join(name[:2] for name in sorted(unfit))} as well, or give this run another "
                "folder with --results DIR"
            )

    def told(self, source: NotebookSource) -> NotebookRun:
        """Return what the record tells of a notebook."""
        entry = self.entries.get(source.name, NEW)
        return NotebookRun(source.name, *(entry[name] for name in TOLD))

    def bring_up_to_date(
        self, source: NotebookSource, values: dict, *, force: bool
    ) -> tuple[NotebookRun, str]:
        """Run a notebook unless it is up to date; return what happened and why it ran."""
        reason = "forced" if force else self.reason_to_run(source, values)
        if not reason:
            return replace(self.told(source), status="unchanged"), ""
        self._run_notebook(source, values)
        return self.told(source), reason

    def reason_to_run(
        self, source: NotebookSource, values: dict, *, check_data: bool = True
    ) -> str:
        """Return why the notebook has to run, or an empty text when it is up to date."""
        entry = self.entries.get(source.name, NEW)
        if entry["status"] != "done":
            return "new" if entry is NEW else f"{entry['status']} before"
        if not self._executed_copy(source).is_file():
            return "no executed copy"
        if lost := changed_output(self.folder, entry["outputs"]):
            return lost
        key = self._key(source, values)
        changed = [name for name in key if key[name] != entry["key_parts"].get(name)]
        for data in entry["datasets"] if check_data else ():
            now = self.identity(data["dataset"])
            if any(data[name] != now[name] for name in now):
                changed.append(f"dataset {data['dataset']}")
        return f"{', '.join(changed)} changed" if changed else ""

    def _key(self, source: NotebookSource, values: dict) -> dict[str, str]:
        """Return a digest of each thing that determines a notebook's result, by its name."""
        earlier = {
            f"{name}/{file}": digest
            for name, entry in self.entries.items()
            for file, digest in entry["outputs"].items()
            if run_order(name) < run_order(source.name) and file.startswith(READ_BY_LATER)
        }
        parts = {"notebook": source.digest, "parameters": values, "earlier tables": earlier}
        return self.shared_key | {name: digest_of(part) for name, part in parts.items()}

    def _run_notebook(self, source: NotebookSource, values: dict) -> None:
        if not self.executed:
            self._start_record()
        known, key = self.entries.get(source.name, NEW)["outputs"], self._key(source, values)
        # What the record says if this process is killed.
        entry = self.entries[source.name] = {**NEW, "status": "interrupted", "outputs": known}
        self._write()
        clear_tables(self.folder, source.name, self.entries)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="blcf-") as scratch:
            log = Path(scratch) / "stages.jsonl"
            log.touch()
            try:
                peak, message = self._execute(source, values, Path(scratch), log)
                status = "failed" if message else "done"
            except KeyboardInterrupt:
                status, message, peak = "interrupted", "interrupted from the keyboard", None
            events = [json.loads(line) for line in log.read_text().splitlines()]
        entry.update(
            status=status,
            message=message,
            seconds=round(time.perf_counter() - started, 2),
            peak_rss_mb=peak,
            key_parts=key,
            parameters=without_paths(values),
            stages=without_paths([event for event in events if "stage" in event]),
            datasets=list({it["dataset"]: it for it in events if "dataset" in it}.values()),
            outputs=written_outputs(self.folder, known),
            git=git_state(self.root),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._write()

    def _execute(self, source: NotebookSource, values: dict, scratch: Path, log: Path):
        from blcf_utils.run.execution import execute
        from blcf_utils.run.kernels import WarmKernels, shared_imports

        self.warm = self.warm or WarmKernels(shared_imports(self.sources))
        inherited = {k: v for k, v in environment().items() if k != "MPLBACKEND"}
        variables = thread_variables(self.threads) | inherited
        variables |= {
            "BLCF_RESULTS": str(self.folder.parent),
            "BLCF_STAGE_LOG": str(log),
            "BLCF_BATCH": "1",
            # Not the user's own start-up files and history.
            "IPYTHONDIR": str(scratch / "ipython"),
        }
        target = self._executed_copy(source)
        return execute(source, target, values, cwd=self.root, environment=variables, warm=self.warm)

    def _executed_copy(self, source: NotebookSource) -> Path:
        return self.folder / "notebooks" / f"{source.name}.ipynb"

    def _start_record(self) -> None:
        """Describe this run, before the first notebook it executes, and forget other runs."""
        self.executed = True
        self.threads = free_cores()
        own = self.shared_key["profile"]
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
            "notebooks": self.entries,
        }

    def _write(self) -> None:
        write_json(self.folder / RUN_FILE, self.record)


def _line(run: NotebookRun, reason: str, width: int) -> str:
    """Return the line that tells of a notebook; ``width`` is that of the column of names."""
    memory = f"  {run.peak_rss_mb:6,} MB" if run.peak_rss_mb else ""
    why = f"  ({reason})" if run.status == "done" else ""
    return f"{run.name:{width}}  {run.status:11}  {run.seconds:7.1f} s{memory}{why}"


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
