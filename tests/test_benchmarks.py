"""Every benchmark runs at a tiny size and finds its compared results equal; nothing is timed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import processes
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
HELPERS = {"side_by_side", "pictures"}
# See test_kill_and_resume.py, and test_index_files.py for the same in small.
COMPARES_BYTES = {"kill_and_resume", "kill_indexing"}
TINY = {
    "extraction": "--vgg16 1 --lite0 3 --longest-side 64 --batch-size 2 --repeats 1",
    "kmeans": "--words 40 --descriptors 900 --dimensions 16 --repeats 1",
    "memory": "--few 4 --many 24 --longest-side 64",
    "scaling": "--database 200 900 --queries 3 --repeats 1",
    "search": "--database 300 900 --words 500 --queries 3 --top 50 --repeats 1",
    "reranking": "--images 4 --words 300 --height 5 --width 4 --repeats 1",
    "saliency": "--number 2 --longest-side 96 --repeats 1 --width 0.02",
    "aggregation": "--images 2 --channels 16 --words 4 --repeats 1",
    "explorer": "--noise 12 --queries 2",
    "finetuning": "--number 4 --longest-side 96 --batch 2 --steps 1 --repeats 1",
    "cluster": "--network efficientnet_lite0 --number 3 --small 0 --saliency 2 --words 40 "
    "--repeats 1 --workers 2",
    "gpu": "--tiny --device cpu",
    "peers": "--profile smoke --tiny --timed 2 --repeats 1 --encoded 3",
    "encoding": "--number 4 --words 60 --histograms 30 --repeats 1",
}


def lines_of(name: str, *arguments: str, folder: Path) -> list[str]:
    """Run a benchmark and return the lines that it prints."""
    status = processes.run(FOLDER / f"{name}.py", *arguments, output=folder)
    assert status == 0, (folder / "stderr").read_text()
    return (folder / "stdout").read_text().splitlines()


def test_every_benchmark_is_run_here():
    assert set(TINY) == {path.stem for path in FOLDER.glob("*.py")} - HELPERS - COMPARES_BYTES


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_benchmark_runs_and_its_results_agree(name, tmp_path):
    *table, last = lines_of(name, *TINY[name].split(), folder=tmp_path)
    found = json.loads(last)
    assert found["benchmark"] == name
    assert found["agree"] is True
    assert len(table) == len(found["rows"]) + 2  # head and rule
    assert set(found["machine"]) == {"processor", "cores", "threads", "load_average"}


def test_streamed_k_means_is_measured_in_processes_of_their_own(tmp_path):
    sizes = "--streamed 900 400 --words 40 --dimensions 16 --assignments exact ivf"
    rows = json.loads(lines_of("kmeans", *sizes.split(), folder=tmp_path)[-1])["rows"]
    found = [(row["assignment"], row["descriptors"]) for row in rows]
    assert found == [(m, n) for m in ("exact", "ivf") for n in (400, 900)]
    assert all(row["seconds"] > 0 and row["peak (MB)"] > 0 for row in rows)


@pytest.fixture
def module(monkeypatch):
    """Import a file of the benchmarks' folder by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_a_folder_of_photographs_can_be_given_and_must_hold_enough(tmp_path, module):
    pictures = module("pictures")
    pictures.write_pictures(tmp_path, 4)
    paths = pictures.picture_paths(tmp_path, tmp_path / "unused", 4)
    assert [path.name for path in paths] == [f"00000{i}.jpg" for i in range(4)]
    assert len({path.read_bytes() for path in paths}) == 4
    with pytest.raises(SystemExit, match="4 images, 5 asked for"):
        pictures.picture_paths(tmp_path, tmp_path / "unused", 5)


def test_the_turns_are_interleaved_and_the_ratio_is_that_of_neighbours(module):
    timing, calls = module("side_by_side"), []
    seconds = timing.interleave({n: lambda n=n: calls.append(n) for n in "ab"}, 3)
    assert "".join(calls) == "ab" + "ab" * 3
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert timing.speed_ratio({"a": [1.0, 2.0, 9.0], "b": [2.0, 6.0, 9.0]}, "a", "b") == 2.0


def test_unequal_results_end_a_benchmark(module, capsys):
    timing = module("side_by_side")
    with pytest.raises(SystemExit, match="kmeans: the compared results differ"):
        timing.report("kmeans", [{"a": 1.0}], False, timing.machine())
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["agree"] is False


def test_wrong_words_and_wrong_rankings_are_noticed(module):
    centroids = np.eye(3, dtype=np.float32)
    right, wrong = np.arange(3), np.array([0, 2, 1])
    same_distances = module("kmeans").same_distances
    assert same_distances(centroids, centroids, {"a": right, "b": right})
    assert not same_distances(centroids, centroids, {"a": right, "b": wrong})
    same_ranking, scores = module("search").same_ranking, np.array([0.1, 0.9, 0.5, 0.5])
    ranking = (np.array([1, 2, 3]), np.array([0.9, 0.5, 0.5]))
    assert same_ranking(ranking, (np.array([1, 3, 2]), ranking[1]), scores)  # a tie
    assert not same_ranking(ranking, (np.array([1, 2, 0]), np.array([0.9, 0.5, 0.1])), scores)
    assert not same_ranking((np.array([1, 0, 3]), ranking[1]), ranking, scores)
