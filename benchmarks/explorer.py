"""How long the explorer takes to answer each knob: a change of the panel until all is shown.

What is timed is what a visitor waits for but the drawing in the browser: search, localisation of
the results, their thumbnails, the precision-recall curve as a picture; of an own photograph also
its checks, the network and its words. On a dataset of a profile,
on a folder that ``blcf index`` has indexed, or on photographs of noise made for it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from side_by_side import machine, median, report

from blcf_utils.apps.explorer.demo import WEIGHTINGS, WORDS
from blcf_utils.apps.explorer.panel import Panel
from blcf_utils.apps.explorer.subject import FolderSubject, StudySubject, Subject
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.study.study import open_study


def knobs(subject: Subject) -> dict[str, dict]:
    """Return each knob with the settings of the panel that it is set to."""
    weightings = {f"weighting {name}": {"weighting": name} for name in subject.weightings[1:]}
    codings = {f"coding {name}": {"coding": name} for name in subject.codings[1:]}
    return {
        "global search": {"mode": "GS"},
        "re-ranking": {"rerank": True},
        "GQE": {"expansion": "GQE"},
        "re-ranking and LQE": {"rerank": True, "expansion": "LQE"},
        **weightings,
        **codings,
    }


def measure(subject: Subject, queries: int) -> tuple[list[dict], bool]:
    """Return one row a knob, and whether contributions added up to scores."""
    panel = Panel(subject)
    explorer, seconds, agree = panel.explorer, {}, True
    plain = {"mode": "LS", "rerank": False, "expansion": "none", "weighting": "None"}
    plain["coding"] = subject.codings[0]
    numbers = np.linspace(0, len(subject.dataset.images) - 1, queries).astype(int)
    turns = knobs(subject)
    for warm in (True, False):
        for number in numbers[:1] if warm else numbers:
            panel.details.selected_index = 0  # closed, "why?" does not follow the knobs
            sent = explorer.subject.dataset.images[number].read_bytes()
            about = {"name": "own.jpg", "size": len(sent)}
            times = {"own photograph": _timed(panel._uploaded, panel.upload, about, [sent])}
            times["another image"] = _timed(panel._ask, int(number))
            width, height = explorer.answer.base.query_size(explorer.query)
            box = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
            times["box"] = _timed(panel._ask, explorer.query.image, box)
            for name, settings in turns.items():
                explorer.turn(**settings)
                times[name] = _timed(lambda: panel._show(explorer.answer))
                explorer.turn(**plain)
            panel._show(explorer.answer)
            hit = explorer.answer.hits[0]
            times["why?"] = _timed(panel._chosen, panel.results, {"why": hit.image}, [])
            added = explorer.contributions(hit.image)["contribution"].sum()
            agree = agree and bool(abs(added - hit.score) < 1e-4)
            if not warm:
                for name, value in times.items():
                    seconds.setdefault(name, []).append(value)
    rows = [
        {
            "knob": name,
            "median (ms)": 1e3 * median(values),
            "95 % (ms)": 1e3 * float(np.quantile(values, 0.95)),
        }
        for name, values in seconds.items()
    ]
    return rows, agree


def _timed(call, *arguments) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def _noise(folder: Path, number: int) -> Path:
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), np.uint8)
        image = Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST)
        image.save(folder / f"{i:05d}.jpg")
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--dataset", default="", help="of the profile; its first, if none")
    parser.add_argument("--layer", action="append", help="further ones; the next layer, if none")
    parser.add_argument("--folder", type=Path, help="an indexed folder, instead of a dataset")
    parser.add_argument("--noise", type=int, default=0, help="make so many photographs instead")
    parser.add_argument("--queries", type=int, default=30)
    options = parser.parse_args(arguments)
    start = machine()
    with tempfile.TemporaryDirectory() as scratch:
        if options.noise:
            os.environ["BLCF_CACHE"] = str(Path(scratch) / "cache")
            folder = Path(scratch) / "noise"
            folder.mkdir()
            index_folder(_noise(folder, options.noise), options.profile, ["Gaussian"])
            subject: Subject = FolderSubject(folder)
        elif options.folder:
            subject = FolderSubject(options.folder)
        else:
            bench = open_study(options.profile).open(options.dataset)
            subject = StudySubject(bench, options.layer or (), WORDS, WEIGHTINGS).prepare()
        rows, agree = measure(subject, options.queries)
        settings = {name: str(value) for name, value in vars(options).items()}
        report(
            "explorer", rows, agree, start, images=len(subject.dataset.images),
            peak_memory_mb=peak_memory_mb(), **settings,
        )  # fmt: skip


if __name__ == "__main__":
    main()
