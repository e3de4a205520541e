"""Running notebooks: parameters, order, resume, failures and the record of a run."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.features.networks.backbones import BACKBONES
from blcf_utils.features.networks.weight_files import (
    candidate_files,
    published_source,
    weights_file,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.run import record
from blcf_utils.run.notebooks import NotebookSource, find_notebooks
from blcf_utils.run.record import read_run, seeds_of
from blcf_utils.run.runner import read_status, run_study

PARAMETERS = 'PROFILE: str = "tiny"  # a profile\nSETTINGS: dict = {}  # changes to it\n'
SETUP = """import os
from pathlib import Path
RESULTS = Path(os.environ["BLCF_RESULTS"]) / "tiny"
(RESULTS / "tables").mkdir(parents=True, exist_ok=True)
"""
TINY = "datasets: [pair]\nfeatures: {backbone: {weights: random}}\n"
LOG_DATASET = """import json
from blcf_utils.ground.artefacts import log_event
from blcf_utils.datasets import load_dataset
data = load_dataset("pair")
log_event({"dataset": "pair", "manifest": data.manifest, "ground_truth": data.ground_truth_digest,
           "images": 2, "queries": 0})
log_event({"stage": "features", "label": "pair", "key": "0123", "seconds": 0.5,
           "peak_rss_so_far_mb": 1, "reused": False})
"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook; a cell that begins with # is Markdown."""
    notebook = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [tagged]
    for text in cells:
        kind = nbformat.v4.new_markdown_cell if text[0] == "#" else nbformat.v4.new_code_cell
        notebook.cells.append(kind(text))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with a profile ``tiny`` and a dataset ``pair`` of two images."""
    root = tmp_path / "project"
    (root / "data" / "profiles").mkdir(parents=True)
    (root / "data" / "profiles" / "tiny.yaml").write_text(TINY)
    images = root / "data" / "datasets" / "pair" / "images"
    images.mkdir(parents=True)
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Image.new("L", (32, 32), grey).save(images / name)
    query = {
        "id": "q", "image": "images/a.png", "bbox": [1, 1, 20, 20], "instance": "thing",
        "positives": ["b.png"], "junk": ["a.png"],
    }  # fmt: skip
    truth = {"images": ["a.png", "b.png"], "queries": [query]}
    (images.parent / "groundtruth.json").write_text(json.dumps(truth))
    for name in ("BLCF_RESULTS", "BLCF_DATA", "BLCF_WEIGHTS", "BLCF_STAGE_LOG"):
        monkeypatch.delenv(name, raising=False)
    # The package may be edited while its tests run.
    monkeypatch.setattr("blcf_utils.run.runner.code_digest", lambda: "frozen")
    monkeypatch.setenv("BLCF_HOME", str(root))
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    return root


def run(*arguments, **options):
    return run_study("tiny", *arguments, stream=io.StringIO(), **options)


def statuses(summary) -> dict[str, str]:
    return {done.name: done.status for done in summary.notebooks}


def test_notebooks_are_found_by_number_name_and_path_in_reading_order(project, tmp_path):
    for name in ("02_later", "01_first", "scratch"):
        write_notebook(project / "notebooks" / f"{name}.ipynb")
    elsewhere = write_notebook(tmp_path / "own.ipynb")
    assert [s.name for s in find_notebooks()] == ["01_first", "02_later"]
    assert [s.name for s in find_notebooks(["02", "01_first"])] == ["01_first", "02_later"]
    assert [s.name for s in find_notebooks([str(elsewhere)])] == ["own"]
    with pytest.raises(StudyError, match=r"unknown notebook '7': .* 01_first, 02_later$"):
        find_notebooks(["7"])


def test_a_notebook_needs_one_parameters_cell_with_the_profile(project):
    path = write_notebook(project / "notebooks" / "01_a.ipynb", parameters="K: int = 3\nL = 2")
    with pytest.raises(StudyError, match=r"no parameter 'PROFILE': expected one of K$"):
        run()
    write_notebook(path, parameters=PARAMETERS + "K: int = = 2")
    with pytest.raises(StudyError, match=r"the parameters cell is not Python \(line 3"):
        run()
    document = json.loads(path.read_text())
    document["cells"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(StudyError, match="expected one cell tagged 'parameters', found 0"):
        run()
    path.write_text("{}")
    with pytest.raises(StudyError, match="expected a Jupyter notebook"):
        run()


@pytest.mark.parametrize(
    ("annotation", "default", "good", "bad"),
    [
        ("int", "1", [0, -5], [1.0, "1", True, None]),
        ("float", "1.5", [2, 0.5], ["x", True]),
        ("bool", "True", [False], [0, "yes"]),
        ("str", "'a'", [""], [1, ["a"]]),
        ("list[str]", "['a']", [[], ["b"]], ["b", ["b", 1]]),
        ("dict[str, int]", "{}", [{"a": 1}], [{"a": "b"}, {1: 1}]),
        ("int | None", "None", [3, None], ["x"]),
        ("Path", "'a'", [], ["a"]),
    ],
)
def test_parameter_values_must_be_of_the_annotated_type(project, annotation, default, good, bad):
    line = f"K: {annotation} = {default}  # a knob"
    path = write_notebook(project / "notebooks" / "01_a.ipynb", parameters=PARAMETERS + line)
    source = NotebookSource("01_a", path)
    for value in good:
        source.check({"K": value})
    for value in bad:
        with pytest.raises(StudyError, match=r"01_a: parameter K must be"):
            source.check({"K": value})


def test_an_unknown_parameter_stops_the_run_before_anything_is_executed(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", parameters=PARAMETERS + "K: int = 1")
    write_notebook(project / "notebooks" / "02_b.ipynb")
    with pytest.raises(StudyError, match=r"02_b has no parameter 'K': .* PROFILE, SETTINGS$"):
        run(parameters={"K": 2})
    with pytest.raises(StudyError, match="use --profile and --set"):
        run(["01"], parameters={"PROFILE": "other"})
    assert not (project / "results" / "tiny" / "notebooks").exists()


def test_a_run_executes_records_and_resumes(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    first = write_notebook(
        project / "notebooks" / "01_first.ipynb",
        SETUP,
        LOG_DATASET,
        '(RESULTS / "tables" / "x.csv").write_text(f"row,ap,seconds\\na,{K},{os.getpid()}\\n")',
        'from IPython.display import HTML; print(Path.cwd()); HTML(f"<b>{Path.cwd()}/x</b>")',
        "import sys; print(sys.executable == "
        + repr(sys.executable)
        + ', "MPLBACKEND" in os.environ '
        'and os.environ["MPLBACKEND"])',
        parameters=PARAMETERS + "K: int = 3  # a knob",
    )
    second = write_notebook(
        project / "notebooks" / "02_second.ipynb", SETUP, '(RESULTS / "second.txt").touch()'
    )
    lines = io.StringIO()
    done = run_study("tiny", stream=lines)
    assert done.ok
    assert statuses(done) == {"01_first": "done", "02_second": "done"}
    assert [line.split()[:2] for line in lines.getvalue().splitlines()] == [
        ["01_first", "done"],
        ["02_second", "done"],
    ]
    folder = project / "results" / "tiny"
    assert sorted(p.name for p in (folder / "notebooks").iterdir()) == [
        "01_first.ipynb",
        "02_second.ipynb",
    ]

    # The executed copy: the running interpreter, pictures inline, and no folder of this machine.
    text = (folder / "notebooks" / "01_first.ipynb").read_text()
    assert str(tmp_path) not in text
    executed = json.loads(text)
    printed = ["".join(o.get("text", "")) for c in executed["cells"] for o in c.get("outputs", [])]
    assert "<project>\n" in printed
    shown = [o["data"] for c in executed["cells"] for o in c.get("outputs", []) if "data" in o]
    assert [d["text/html"] for d in shown if "text/html" in d] == [["<b>&lt;project&gt;/x</b>"]]
    assert "True module://matplotlib_inline.backend_inline\n" in printed

    record = read_run(folder)
    entry = record["notebooks"]["01_first"]
    assert list(entry["outputs"]) == ["tables/x.csv"]
    assert entry["stages"][0]["key"] == "0123"
    assert entry["datasets"][0]["dataset"] == "pair"
    assert entry["peak_rss_mb"] > 20
    assert record["profile"]["name"] == "tiny"
    assert str(tmp_path) not in (folder / "run.json").read_text()

    before = (folder / "run.json").read_bytes()
    assert statuses(run()) == {"01_first": "unchanged", "02_second": "unchanged"}
    assert (folder / "run.json").read_bytes() == before

    # Forced, the first writes the same numbers in another time: the second need not follow.
    assert statuses(run(["01"], force=True)) == {"01_first": "done"}
    assert statuses(run()) == {"01_first": "unchanged", "02_second": "unchanged"}

    # Another parameter: other numbers, so what comes later is stale.
    assert statuses(run(["01"], parameters={"K": 4})) == {"01_first": "done"}
    state = {row.name: row.message for row in read_status("tiny")}
    assert state == {"01_first": "parameters changed", "02_second": "earlier tables changed"}
    assert run(parameters={}).ok

    # Data, outputs, source and settings that change.
    Image.new("L", (32, 32), 99).save(project / "data/datasets/pair/images/b.png")
    (folder / "second.txt").unlink()
    lines = io.StringIO()
    run_study("tiny", stream=lines)
    assert "(dataset pair changed)" in lines.getvalue()
    assert "(second.txt is missing)" in lines.getvalue()
    write_notebook(second, SETUP + "\n# a comment", '(RESULTS / "second.txt").touch()')
    assert statuses(run()) == {"01_first": "unchanged", "02_second": "done"}
    state = {row.name: row.message for row in read_status("tiny", settings={"seed": 5})}
    assert state["01_first"] == "profile, parameters changed"
    monkeypatch.setattr("blcf_utils.run.runner.code_digest", lambda: "edited")
    assert [row.message for row in read_status("tiny")] == ["package code changed"] * 2
    assert first.is_file()


EMBEDDED = """datasets: [pair]
features: {backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}}
compare_backbones:
  - {name: efficientnet_lite0, layer: block11_expand, weights: data/own.pt}
  - {name: resnet18, layer: layer3, weights: local}
  - {name: efficientnet_lite0, layer: block11_expand, weights: random, seed: 4}
"""


def test_weights_and_published_tables_that_were_replaced_run_again(project, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "weights"))
    (project / "data/profiles/tiny.yaml").write_text(EMBEDDED)
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    replaced = {
        project / "data/own.pt": "weights",
        tmp_path / "weights/resnet18-f37072fd.pth": "weights",
        project / "data/published/t01.csv": "published",
        project / "data/published/tables.yaml": "published",
    }
    for path in replaced:
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    (tmp_path / "weights/alexnet-owt.pth").write_text("not of this profile")
    assert run().ok
    assert read_run(project / "results/tiny")["provenance"]["seeds"] == {
        "profile": 0,
        "random weights of efficientnet_lite0 block11_expand": 4,
    }
    (tmp_path / "weights/alexnet-owt.pth").write_text("nor is this")
    for path, part in replaced.items():
        assert [row.message for row in read_status("tiny")] == [""]
        path.write_text("new, and of another length")
        assert [row.message for row in read_status("tiny")] == [f"{part} changed"], path.name
        path.write_text("old")
    replaced_file = next(iter(replaced))
    replaced_file.write_text("new")
    assert statuses(run()) == {"01_a": "done"}
    assert statuses(run()) == {"01_a": "unchanged"}


def test_weights_files_are_looked_for_where_the_backbones_find_them(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "local"))
    for folder in ("hub/checkpoints", "local"):
        (tmp_path / folder).mkdir(parents=True)
    for name in BACKBONES:
        local = tmp_path / "local" / f"{name}-1234.pth"
        local.touch()
        found = candidate_files(BackboneConfig(name=name, weights="local"))
        assert found == [weights_file(BackboneConfig(name=name, weights="local"))] == [local]
        source = published_source(name)
        if source:
            stored = Path(torch.hub.get_dir()) / "checkpoints" / source.file.name
            with open(stored, "wb") as file:
                file.truncate(source.file.about_bytes)  # of the right size, but not on the disk
            assert candidate_files(BackboneConfig(name=name, weights="torchvision")) == [stored]


def test_the_seeds_of_renderings_are_recorded():
    profile = Profile(
        name="x",
        datasets=("mini-buildings", "mini-objects", "oxford5k"),
        dataset_options={"mini-objects": {"seed": 7}},
        seed=3,
    )
    assert seeds_of(profile) == {
        "profile": 3,
        "rendering of mini-buildings": 0,
        "rendering of mini-objects": 7,
    }


def table_writer(name: str, text: str, *, only_if_missing: bool = False) -> str:
    path = f'(RESULTS / "tables" / "{name}.csv")'
    condition = f"if not {path}.exists(): " if only_if_missing else ""
    return f"{condition}{path}.write_text({text!r})"


def test_a_table_that_was_changed_is_made_again(project):
    write_notebook(
        project / "notebooks" / "01_a.ipynb", SETUP, table_writer("t", "ap,seconds\n0.5,1\n")
    )
    assert run().ok
    table = project / "results/tiny/tables/t.csv"
    table.write_text("ap,seconds\n0.5,2\n")
    assert statuses(run()) == {"01_a": "unchanged"}
    table.write_text("ap,seconds\n0.9,1\n")
    assert read_status("tiny")[0].message == "t.csv was changed"
    assert statuses(run()) == {"01_a": "done"}
    assert table.read_text() == "ap,seconds\n0.5,1\n"


def test_a_notebook_answers_for_what_it_wrote_before_and_found_there(project):
    write_notebook(
        project / "notebooks" / "01_a.ipynb",
        SETUP,
        table_writer("missing", "ap\n", only_if_missing=True),
    )
    for _ in range(2):
        assert statuses(run(force=True)) == {"01_a": "done"}
    assert statuses(run()) == {"01_a": "unchanged"}
    (project / "results/tiny/tables/missing.csv").unlink()
    assert read_status("tiny")[0].message == "tables/missing.csv is missing"


def test_the_summary_runs_last_and_is_read_in_its_place(project):
    listing = (
        SETUP + '(RESULTS / "all.txt").write_text(" ".join(sorted(os.listdir(RESULTS / "tables"))))'
    )
    write_notebook(project / "notebooks" / "10_tables.ipynb", listing)
    for name in ("01_a", "12_b"):
        text = f'(RESULTS / "tables" / "t{name}.csv").write_text("1")'
        write_notebook(project / "notebooks" / f"{name}.ipynb", SETUP + text)
    assert list(statuses(run())) == ["01_a", "12_b", "10_tables"]
    assert (project / "results/tiny/all.txt").read_text() == "t01_a.csv t12_b.csv"
    assert [one.name for one in read_status("tiny")] == ["01_a", "10_tables", "12_b"]
    assert set(statuses(run()).values()) == {"unchanged"}
    changed = SETUP + '(RESULTS / "tables" / "t12_b.csv").write_text("2")'
    write_notebook(project / "notebooks" / "12_b.ipynb", changed)
    assert statuses(run()) == {"01_a": "unchanged", "12_b": "done", "10_tables": "done"}


def test_tables_that_the_run_did_not_write_are_removed(project):
    """A clone comes with the reference's tables and record, but without its notebooks."""
    tables = project / "results/tiny/tables"
    for name in ("01_a", "02_b"):
        text = f'(RESULTS / "tables" / "t{name}.csv").write_text("1")'
        write_notebook(project / "notebooks" / f"{name}.ipynb", SETUP + text)
    assert run().ok
    (tables / "x99_hand.csv").write_text("by hand")
    assert set(statuses(run()).values()) == {"unchanged"}
    assert (tables / "x99_hand.csv").exists()  # nothing ran, nothing was touched
    shutil.rmtree(project / "results/tiny/notebooks")
    looks = SETUP + '(RESULTS / "seen.txt").write_text(" ".join(os.listdir(RESULTS / "tables")))'
    write_notebook(project / "notebooks" / "01_a.ipynb", looks)
    assert statuses(run(["01"])) == {"01_a": "done"}
    assert (project / "results/tiny/seen.txt").read_text() == ""
    assert run().ok
    assert [path.name for path in tables.iterdir()] == ["t02_b.csv"]


def test_a_notebook_that_another_profile_left_out_is_forgotten_with_its_tables(project):
    for name in ("01_a", "02_b"):
        text = f'(RESULTS / "tables" / "t{name}.csv").write_text("1")'
        write_notebook(project / "notebooks" / f"{name}.ipynb", SETUP + text)
    assert run().ok
    profile = project / "data/profiles/tiny.yaml"
    profile.write_text(TINY + "seed: 1\nnotebooks: ['01']\n")
    assert run().ok
    assert [path.name for path in (project / "results/tiny/tables").iterdir()] == ["t01_a.csv"]


def test_a_folder_never_holds_results_of_different_settings(project):
    for name in ("01_a", "02_b", "03_c"):
        write_notebook(project / "notebooks" / f"{name}.ipynb", "1 + 1")
    assert run(["02"]).ok
    other = {"codebook.words": 64}
    before = (project / "results/tiny/run.json").read_bytes()
    for chosen in ("01", "03"):
        with pytest.raises(StudyError, match=r"02_b ran with other settings.* run 02 as well, or"):
            run([chosen], settings=other)
    assert (project / "results/tiny/run.json").read_bytes() == before
    # Elsewhere, again, or together with the others.
    assert run(["03"], settings=other, results=project / "elsewhere").ok
    assert run(["01"]).ok
    assert statuses(run(["01", "02"], settings=other)) == {"01_a": "done", "02_b": "done"}
    assert set(statuses(run()).values()) == {"done"}
    with pytest.raises(StudyError, match=r"01_a ran with .*, 02_b ran with .* run 01 02 as well"):
        run(["03"], settings=other)


def test_a_notebook_is_not_run_on_what_an_unfinished_one_left(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 / 0")
    write_notebook(project / "notebooks" / "02_b.ipynb", "1 + 1")
    assert statuses(run()) == {"01_a": "failed", "02_b": "not run"}
    with pytest.raises(StudyError, match=r"01_a did not finish.* run 01 as well, or give"):
        run(["02"])
    assert run(["01"]).notebooks[0].status == "failed"
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    assert run(["01"]).ok
    assert run(["02"]).ok


def test_the_package_code_is_digested_without_the_layers_that_only_run_and_report():
    package = Path(record.__file__).parents[1]
    layer = [package / name for name in record.RUNNER_LAYER]
    assert [path for path in layer if not path.exists()] == []
    for path in package.rglob("*.py"):
        if not path.relative_to(package).as_posix().startswith(record.RUNNER_LAYER):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(from|import) blcf_utils\.(cli|run)\b", text, re.M), path


def test_a_failure_names_the_cell_and_how_to_resume(project):
    write_notebook(
        project / "notebooks" / "01_a.ipynb",
        "# A title",
        "1 + 1",
        "## Search\n\ntext",
        "from blcf_utils.ground.errors import StudyError\n"
        "raise StudyError('no such file; fetch it')",
        "never = 1",
    )
    write_notebook(project / "notebooks" / "02_b.ipynb", "2 + 2")
    stopped = run(settings={"codebook.words": 64})
    assert statuses(stopped) == {"01_a": "failed", "02_b": "not run"}
    assert stopped.exit_code == 1
    assert stopped.notebooks[0].message == "cell 5 ('Search'): StudyError: no such file; fetch it"
    copies = sorted(p.name for p in (project / "results/tiny/notebooks").iterdir())
    assert copies == ["01_a.failed.ipynb"]
    assert read_status("tiny")[0].status == "failed"

    went_on = run(settings={"codebook.words": 64}, keep_going=True)
    assert statuses(went_on) == {"01_a": "failed", "02_b": "done"}
    assert went_on.exit_code == 1

    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    assert run(settings={"codebook.words": 64}).ok
    copies = sorted(p.name for p in (project / "results/tiny/notebooks").iterdir())
    assert copies == ["01_a.ipynb", "02_b.ipynb"]


def test_a_killed_kernel_is_recognised(project):
    write_notebook(
        project / "notebooks" / "01_a.ipynb", "## Codebook", "import os; os.kill(os.getpid(), 9)"
    )
    message = run().notebooks[0].message
    assert message.startswith("cell 3 ('Codebook'): dead kernel: the system killed the kernel")
    assert "likely out of memory; lower features.batch_size" in message


def test_a_crashed_kernel_says_so(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", "import ctypes; ctypes.string_at(0)")
    message = run().notebooks[0].message
    assert "dead kernel: the kernel died" in message
    assert "memory; lower" not in message


def test_a_killed_run_keeps_what_was_done(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    slow = write_notebook(
        project / "notebooks" / "02_b.ipynb",
        "import os, time\nfrom pathlib import Path",
        "Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)",
    )
    code = (
        "from blcf_utils.run import runner; runner.code_digest = lambda: 'frozen'; "
        "runner.run_study('tiny')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "BLCF_PROGRESS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=project, stderr=subprocess.PIPE
    )
    try:
        pid = project / "pid"
        wait_for(lambda: process.poll() is not None or (pid.is_file() and pid.read_text()))
        with pytest.raises(StudyError, match="another run is writing there"):
            run()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    record = read_run(project / "results" / "tiny")
    assert {n: e["status"] for n, e in record["notebooks"].items()} == {
        "01_a": "done",
        "02_b": "interrupted",
    }
    assert [row.status for row in read_status("tiny")] == ["done", "interrupted"]
    kernel = int((project / "pid").read_text())
    wait_for(lambda: not is_running(kernel))
    assert process.stderr.read() == b""  # no progress bar in a log

    write_notebook(slow, "1 + 1")
    assert statuses(run()) == {"01_a": "unchanged", "02_b": "done"}


def test_an_interrupt_ends_the_kernel_and_is_recorded(project):
    write_notebook(
        project / "notebooks" / "01_a.ipynb",
        "import os, time\nfrom pathlib import Path",
        "Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)",
    )
    write_notebook(project / "notebooks" / "02_b.ipynb")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from blcf_utils.run.runner import run_study; sys.exit(run_study('tiny').exit_code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ, cwd=project)
    pid = project / "pid"
    try:
        wait_for(lambda: process.poll() is not None or (pid.is_file() and pid.read_text()))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    kernel = int(pid.read_text())
    wait_for(lambda: not is_running(kernel))
    first, second = read_status("tiny")
    assert (first.status, first.message) == ("interrupted", "interrupted from the keyboard")
    assert second.status == "not run"


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_profile_chooses_notebooks_and_sets_their_parameters(project):
    (project / "data/profiles/tiny.yaml").write_text(
        f"{TINY}notebooks: ['02_b']\nparameters: {{02_b: {{K: 7}}}}\n"
    )
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    write_notebook(
        project / "notebooks" / "02_b.ipynb", "print(K)", parameters=PARAMETERS + "K: int = 1"
    )
    assert statuses(run()) == {"02_b": "done"}
    executed = (project / "results/tiny/notebooks/02_b.ipynb").read_text()
    assert '"7\\n"' in executed
    assert statuses(run(["01"])) == {"01_a": "done"}


def test_a_damaged_record_is_named(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 + 1")
    folder = project / "results" / "tiny"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"notebooks": ')
    with pytest.raises(StudyError, match=r"run\.json: expected the JSON record of a run"):
        run()
