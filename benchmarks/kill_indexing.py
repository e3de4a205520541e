"""Index a folder without a break, and killed at random and resumed: are the answers the same?

    python benchmarks/kill_indexing.py FOLDER --kills 20 --set features.longest_side=96

The folder's first photographs are copied into a temporary one. Each time a fresh index is begun,
SIGKILL comes at a random moment of what indexing took without a break, and the index is brought
up to date. Compared are the first ten answers, with scores and boxes, to queries with every
thirtieth photograph.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.files import find_images

INDEX = """
import sys
from blcf_utils.apps.photographs.indexing import index_folder
print("begins", flush=True)
done = index_folder(sys.argv[1], sys.argv[2], ["Gaussian"])
print(done.kept, done.added, flush=True)
"""
QUERY = """
import json, sys
from dataclasses import asdict
from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.querying import query_folder
names = Collection(sys.argv[1]).names[::30]
answers = [query_folder(sys.argv[1], name, weighting="Gaussian") for name in names]
print(json.dumps([[asdict(one) for one in found] for found in answers]))
"""


def start(code: str, cache: Path, *arguments: Path) -> subprocess.Popen:
    """Start Python code with a cache of its own; its output can be read."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "BLCF_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> str:
    """Return what a process printed, once it has ended."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run that nobody killed failed ({process.returncode})")
    return said


def main() -> int:
    """Index, kill, resume, compare; 0 when all answers are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in arguments.set)
    settings = {key: yaml.safe_load(value) for key, value in settings.items()}
    draw, same = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="kill-") as temporary:
        work = Path(temporary)
        (work / "album").mkdir()
        for path in find_images(arguments.folder)[: arguments.photographs]:
            (work / "album" / path.name).write_bytes(path.read_bytes())
        profile = work / "profile.yaml"
        document = load_profile(arguments.profile, settings).document()
        profile.write_text(json.dumps(document), encoding="utf-8")
        whole = start(INDEX, work / "whole", work / "album", profile)
        whole.stdout.readline()
        started = time.perf_counter()
        finished(whole)
        seconds = time.perf_counter() - started
        print(f"without a break: {seconds:.1f} s", flush=True)
        expected = json.loads(finished(start(QUERY, work / "whole", work / "album")))
        for kill in range(arguments.kills):
            cache = work / f"cut{kill}"
            run = start(INDEX, cache, work / "album", profile)
            run.stdout.readline()
            after = draw.uniform(0, seconds)
            try:
                run.wait(after)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
            resumed = finished(start(INDEX, cache, work / "album", profile)).split("\n")[1]
            found = json.loads(finished(start(QUERY, cache, work / "album")))
            same += found == expected
            print(
                f"kill {kill + 1}: after {after:.1f} s, kept and added {resumed}, answers "
                + ("the same" if found == expected else "DIFFER"),
                flush=True,
            )
    print(f"the same answers {same} of {arguments.kills} times")
    return int(same != arguments.kills)


if __name__ == "__main__":
    raise SystemExit(main())
