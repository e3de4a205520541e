"""Run a profile without a break and once more killed at random and resumed: are the bytes the same?

    python benchmarks/kill_and_resume.py --profile smoke --notebook 00 --notebook 01 --kills 2

Both runs have caches and results of their own in a temporary folder. SIGKILL goes to the runner,
its kernel and whatever they started, at once. Compared are the files of every artefact,
byte by byte, and every cell of the tables that is no time; what only one run has is a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blcf_utils.config.profile import load_profile
from blcf_utils.ground.artefacts import MADE, MANIFEST
from blcf_utils.run.verify import verify


def start(folder: Path, arguments: argparse.Namespace) -> subprocess.Popen:
    """Start ``blcf run`` in a process group of its own."""
    options = [f"--set={setting}" for setting in arguments.set]
    return subprocess.Popen(
        [sys.executable, "-c", "from blcf_utils.cli import app; app()", "run", *arguments.notebook,
         "--profile", arguments.profile, "--results", str(folder / "results"), "--no-report",
         *options],
        env={**os.environ, "BLCF_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def kill_all(pid: int) -> None:
    """Kill a process and all that it started: a kernel is in a process group of its own."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text(encoding="utf-8")
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    doomed = [pid]
    for one in doomed:
        doomed += [child for child, parent in parents.items() if parent == one]
    for one in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file that must not depend on when a run was killed."""
    found = {}
    for path in sorted((folder / "cache").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name == MADE or path.name.endswith(".lock"):
            continue
        if path.name == MANIFEST:  # it has the size of the file that says how long it took
            manifest = json.loads(path.read_text(encoding="utf-8"))
            manifest["files"].pop(MADE, None)
            found[name] = json.dumps(manifest, sort_keys=True)
        else:
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main() -> int:
    """Run, kill, resume, compare; 0 when the bytes are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--notebook", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for caches and results; temporary, if none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-", dir=arguments.folder) as temporary:
        whole, cut = Path(temporary, "whole"), Path(temporary, "cut")
        started = time.perf_counter()
        if start(whole, arguments).wait():
            print("the run without a break failed")
            return 2
        seconds = time.perf_counter() - started
        print(f"without a break: {seconds:.0f} s")
        draw, spent = random.Random(arguments.seed), 0.0
        for kill in range(arguments.kills):
            run = start(cut, arguments)
            # Parts of the whole: later kills find most of the work done and must come early.
            after = draw.uniform(0.1, 0.6) * max(5.0, seconds - spent)
            try:
                run.wait(after)
                print(f"kill {kill + 1}: too late, the run had ended")
                break
            except subprocess.TimeoutExpired:
                kill_all(run.pid)
                run.wait()
            spent += after
            partial = [p.parent.name + "/" + p.name for p in cut.glob("cache/*/*.partial")]
            print(f"kill {kill + 1}: after {after:.0f} s, unfinished: {', '.join(partial) or '-'}")
        if start(cut, arguments).wait():
            print("the resumed run failed")
            return 2
        one, two = contents(whole), contents(cut)
        differing = sorted(
            name for name in one.keys() | two.keys() if one.get(name) != two.get(name)
        )
        for name in differing:
            print(f"differs: {name}")
        same = len(one.keys() | two.keys()) - len(differing)
        print(f"{same} files of artefacts the same, {len(differing)} differ")
        name = load_profile(arguments.profile).name
        compared = verify(name, cut / "results", whole / "results" / name, tolerance=0.0)
        told = [f"{one.table}: {text}" for one in compared for text in one.differences]
        for difference in told:
            print(f"differs: {difference}")
        print(f"{len(compared)} tables compared, {len(told)} cells differ")
        return bool(differing or told)


if __name__ == "__main__":
    raise SystemExit(main())
