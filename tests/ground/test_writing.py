"""What the system refuses to write is one sentence that names the setting which helps."""

import ctypes
import os
import resource
import subprocess
import sys

import album as album_pictures
import pytest

from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.ground.artefacts import ArtefactStore, Stage, write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.writing import writing
from blcf_utils.run.record import only_run


def test_each_reason_is_told_with_the_variable_of_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BLCF_DATA", str(tmp_path / "data"))
    for path, variable in (
        (tmp_path / "cache" / "x", "set BLCF_CACHE to another folder"),
        (tmp_path / "data" / "x", "set BLCF_DATA to another folder"),
        (tmp_path / "x", "--results DIR or BLCF_RESULTS"),
    ):
        with pytest.raises(StudyError, match=r"the disk is full \(\d+ MB free\)") as told:  # noqa: SIM117
            with writing(path), open("/dev/full", "w") as full:
                full.write("x")
        assert variable in str(told.value)
        assert str(path) in str(told.value)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "file" / "below" / "x.txt"):
        with pytest.raises(StudyError, match="a file lies where a folder is expected"):
            write_text(path, "x")
    with pytest.raises(StudyError, match="the name is too long for the file system"):
        write_text(tmp_path / ("x" * 250) / ("y" * 300), "x")
    with (
        pytest.raises(StudyError, match=r"file/smoke: cannot be written"),
        only_run(tmp_path / "file" / "smoke"),
    ):
        pass
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "file"))
    with pytest.raises(StudyError, match="set BLCF_CACHE to another folder"):
        ArtefactStore().get_or_make(Stage("toy"), "toy", {}, lambda folder: None)


def test_names_that_fill_the_file_system_s_limit_are_indexed_and_stored(tmp_path, store):
    write_text(tmp_path / ("x" * 251 + ".txt"), "whole")
    assert (tmp_path / ("x" * 251 + ".txt")).read_text() == "whole"
    profile = album_pictures.write_profile(tmp_path / "small.yaml")
    for name in ("北" * 85, "Holiday-" * 31 + "1999..."):
        assert len(os.fsencode(name)) == 255
        album_pictures.paint(tmp_path / name / "a.jpg", 0, 0)
        assert index_folder(tmp_path / name, profile, []).photographs == 1
        assert index_folder(tmp_path / name).kept == 1


def _blcf(*arguments, limit=None, **environment):
    """Run the command where modes of folders count, even for root, and files grow to a limit."""

    def restricted():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)

    return subprocess.run(
        [sys.executable, "-c", "from blcf_utils.cli import app; app()", *map(str, arguments)],
        env={**os.environ, **environment},
        preexec_fn=restricted,
        capture_output=True,
        text=True,
    )


# Within 2,000 bytes the manifest does not fit, within 20,000 the features, which h5py writes.
@pytest.mark.parametrize("limit", [2000, 20_000, None])
def test_an_indexing_that_cannot_write_ends_in_one_sentence(album, album_profile, tmp_path, limit):
    asked = ["index", album, "--profile", album_profile, "--weighting", "Gaussian"]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if limit:
        told = _blcf(*asked, limit=limit)
        assert "grew larger than this user" in told.stderr
    else:  # the cache of another user
        told = _blcf(*asked, BLCF_CACHE=str(closed / "cache"))
        assert "this user may not write there" in told.stderr
    assert told.returncode == 2, told.stderr
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith("blcf: ")
    assert "set BLCF_CACHE to another folder" in last
    assert "Traceback" not in told.stderr
