"""The artefact store: found again, never mixed, complete or absent, one maker at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path, write_json, write_text
from blcf_utils.ground.errors import StudyError


def maker(calls, content="x"):
    def make(folder):
        calls.append(folder)
        (folder / "a.txt").write_text(content)

    return make


def test_the_same_document_is_made_once(store):
    calls = []
    first = store.get_or_make(Stage("stage"), "set a/b", {"n": 1, "list": (1, 2)}, maker(calls))
    again = store.get_or_make(Stage("stage"), "set a/b", {"list": [1, 2], "n": 1}, maker(calls))
    assert len(calls) == 1
    assert (first.reused, again.reused) == (False, True)
    assert first.folder == again.folder
    assert first.folder.parent == store.root / "stage"
    assert first.folder.name == f"set_a_b-{first.key}"
    assert (again / "a.txt").read_text() == "x"
    assert again.seconds == first.seconds
    assert "reused" in str(again)
    assert "made in" in str(first)


@pytest.mark.parametrize(
    ("stage", "document"), [("stage", {"n": 2}), ("other", {"n": 1}), ("stage", {"n": 1, "m": 0})]
)
def test_any_change_makes_another_artefact(store, stage, document):
    calls = []
    first = store.get_or_make(Stage("stage"), "x", {"n": 1}, maker(calls))
    other = store.get_or_make(Stage(stage), "x", document, maker(calls))
    assert len(calls) == 2
    assert first.key != other.key
    assert first.folder != other.folder


def test_a_failed_make_leaves_nothing_finished_and_is_resumed(store):
    def fails(folder):
        (folder / "part").write_text("kept")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, fails)
    seen = []

    def goes_on(folder):
        seen.append((folder / "part").read_text())

    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, goes_on)
    assert seen == ["kept"]
    assert not artefact.reused
    assert list(store.root.glob("stage/*.partial")) == []


def run_python(code, root, *, wait=True):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if wait:
        process.communicate(timeout=60)
    return process


def test_a_killed_make_resumes_without_its_half_written_files(store):
    code = """
        import os, signal, sys
        from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path
        def make(folder):
            (folder / "step1").write_text("done")
            with atomic_path(folder / "state.npz") as temporary:
                temporary.write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
        ArtefactStore(sys.argv[1]).get_or_make(Stage("stage"), "x", {"n": 1}, make)
    """
    assert run_python(code, store.root).returncode == -signal.SIGKILL
    assert len(list(store.root.glob("stage/*.partial/.state-*"))) == 1
    seen = []

    def make(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "step2").write_text("done")

    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, make)
    assert seen == [["step1"]]
    assert sorted(p.name for p in artefact.folder.iterdir()) == [
        "artefact.json",
        "made.json",
        "step1",
        "step2",
    ]


def test_processes_that_want_the_same_artefact_make_it_once(store):
    code = """
        import sys, time
        from pathlib import Path
        from blcf_utils.ground.artefacts import ArtefactStore, Stage
        root = Path(sys.argv[1])
        def make(folder):
            with open(root / "calls", "a") as stream:
                stream.write("made\\n")
            time.sleep(1)
            (folder / "a").write_text("x")
        root.mkdir(parents=True, exist_ok=True)
        print(ArtefactStore(root).get_or_make(Stage("stage"), "x", {"n": 1}, make).reused)
    """
    processes = [run_python(code, store.root, wait=False) for _ in range(3)]
    outcomes = sorted(p.communicate(timeout=60)[0].strip() for p in processes)
    assert outcomes == ["False", "True", "True"]
    assert (store.root / "calls").read_text() == "made\n"


def test_a_truncated_and_a_missing_file_are_named(store):
    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([], "content"))
    os.truncate(artefact / "a.txt", 3)
    with pytest.raises(StudyError, match=r"a\.txt: expected 7 bytes, found 3; delete the folder"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))
    (artefact / "a.txt").unlink()
    with pytest.raises(StudyError, match=r"a\.txt: expected 7 bytes, found None"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))


def test_a_lost_note_of_the_time_is_named(store):
    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))
    (artefact / "made.json").unlink()
    with pytest.raises(StudyError, match=r"made\.json: expected \d+ bytes, found None; delete"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))


def test_a_tampered_document_is_refused(store):
    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))
    manifest = json.loads((artefact / "artefact.json").read_text())
    manifest["document"]["n"] = 2
    write_json(artefact / "artefact.json", manifest)
    with pytest.raises(StudyError, match="made by another configuration than its name says"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))


def test_a_folder_that_lost_its_manifest_is_made_again(store):
    artefact = store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))
    (artefact / "artefact.json").unlink()
    calls = []
    assert not store.get_or_make(Stage("stage"), "x", {"n": 1}, maker(calls)).reused
    assert len(calls) == 1
    assert store.get_or_make(Stage("stage"), "x", {"n": 1}, maker(calls)).reused


def test_a_full_disk_says_what_to_do_and_keeps_what_is_finished(store):
    def fills(folder):
        (folder / "part").write_text("kept")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StudyError, match=r"the disk is full .* BLCF_CACHE .* run again"):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, fills)
    assert [p.name for p in store.root.glob("stage/*.partial/*")] == ["part"]

    def other(folder):
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, other)


def test_the_stage_log_has_a_line_per_artefact(store, tmp_path, monkeypatch):
    log = tmp_path / "stages.jsonl"
    monkeypatch.setenv("BLCF_STAGE_LOG", str(log))
    for _ in range(2):
        store.get_or_make(Stage("stage"), "x", {"n": 1}, maker([]))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["reused"] for line in lines] == [False, True]
    assert {line["stage"] for line in lines} == {"stage"}
    assert all(line["peak_rss_so_far_mb"] > 1 for line in lines)


def test_the_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "there"))
    assert ArtefactStore().root == tmp_path / "there"


def test_an_atomic_write_replaces_all_or_nothing(tmp_path):
    target = tmp_path / "new" / "a.txt"
    write_text(target, "grün\n")
    assert target.read_bytes() == "grün\n".encode()
    assert target.stat().st_mode & 0o777 == 0o644

    def fails():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert target.read_text() == "grün\n"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_folders_half_written_by_a_killed_run_do_not_stop_the_next(store):
    document = {"version": 1}

    def killed(folder):
        (folder / ".set-half").mkdir()
        (folder / ".set-half" / "a.jpg").write_bytes(b"half")
        (folder / ".file-half").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make(Stage("stage"), "label", document, killed)
    made = store.get_or_make(
        Stage("stage"), "label", document, lambda f: (f / "a").write_text("whole")
    )
    assert sorted(path.name for path in made.folder.iterdir() if path.name[0] == ".") == []
    assert (made / "a").read_text() == "whole"
