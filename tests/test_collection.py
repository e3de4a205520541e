"""Own photographs: indexed, brought up to date, resumed after a kill, searched."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from album import paint
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.collection import indexing
from blcf_utils.collection.indexing import home_of, index_folder
from blcf_utils.collection.opened import Collection
from blcf_utils.collection.querying import query_folder
from blcf_utils.collection.shards import read_stamps
from blcf_utils.errors import StudyError
from blcf_utils.weighting import NONE


def test_what_is_new_is_read_and_the_rest_is_kept(album, album_profile, monkeypatch):
    first = index_folder(album, album_profile, ["Gaussian"])
    assert (first.photographs, first.added, first.kept) == (12, 12, 0)
    again = index_folder(album)
    assert (again.added, again.changed, again.kept, again.removed) == (0, 0, 12, 0)

    paint(album / "new.png", 50)
    paint(album / "day0" / "00.jpg", 99, 3)
    (album / "day1" / "01.jpg").unlink()
    read = []
    decode = indexing._Indexing._decode
    monkeypatch.setattr(
        indexing._Indexing,
        "_decode",
        lambda self, encoder, name: read.append(name) or decode(self, encoder, name),
    )
    third = index_folder(album)
    assert (third.added, third.changed, third.kept, third.removed) == (1, 1, 10, 1)
    assert sorted(read) == ["day0/00.jpg", "new.png"]
    assert "day1/01.jpg" not in Collection(album).names


def test_an_index_brought_up_to_date_equals_one_made_at_once(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    paint(album / "a-new.jpg", 50, 1)
    index_folder(album)
    grown = Collection(album)
    maps = [grown.maps.map(i).copy() for i in range(len(grown.names))]
    scores = query_folder(album, "day0/00.jpg", weighting="Gaussian")
    # With the words kept, all photographs are encoded anew.
    for path in (home_of(album) / "shards").glob("*.npz"):
        path.unlink()
    index_folder(album)
    whole = Collection(album)
    assert whole.names == grown.names
    assert all(np.array_equal(whole.maps.map(i), one) for i, one in enumerate(maps))
    assert query_folder(album, "day0/00.jpg", weighting="Gaussian") == scores


def test_a_box_finds_the_photographs_of_the_same_poster(album, album_profile):
    index_folder(album, album_profile, [])
    found = query_folder(album, "day0/00.jpg", (30, 20, 78, 68), top=2)
    assert sorted(one.photograph for one in found) == ["day0/02.jpg", "day1/01.jpg"]
    assert found[0].box is not None
    assert [one.rank for one in found] == [1, 2]


def test_a_photograph_from_elsewhere_is_searched_as_its_copy_inside(album, album_profile, tmp_path):
    index_folder(album, album_profile, [])
    copy = tmp_path / "elsewhere.jpg"
    copy.write_bytes((album / "day0" / "00.jpg").read_bytes())
    outside = query_folder(album, copy, "30,20,78,68", top=12, recipe="LS")
    assert outside[0].photograph == "day0/00.jpg"
    inside = query_folder(album, "day0/00.jpg", "30,20,78,68", top=12, recipe="LS")
    assert [one.photograph for one in outside[1:]] == [one.photograph for one in inside]
    np.testing.assert_allclose(
        [one.score for one in outside[1:]], [one.score for one in inside], rtol=1e-5
    )


def test_unreadable_files_are_named_once_and_tried_again_when_they_change(album, album_profile):
    (album / "broken.jpg").write_bytes(b"\xff\xd8 no photograph")
    first = index_folder(album, album_profile, [])
    assert list(first.unreadable) == ["broken.jpg"]
    assert "broken.jpg" in first.unreadable["broken.jpg"]
    assert index_folder(album).unreadable.keys() == {"broken.jpg"}
    paint(album / "broken.jpg", 70)
    mended = index_folder(album)
    assert (mended.unreadable, mended.photographs) == ({}, 13)


def test_a_killed_indexing_goes_on_with_what_is_missing(album, album_profile, store):
    for i in range(150):
        paint(album / f"more-{i:03d}.jpg", 200 + i, i % 20)
    code = (
        "from blcf_utils.collection.indexing import index_folder\n"
        f"if __name__ == '__main__': index_folder({str(album)!r}, {album_profile!r}, [], sample=20)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    shards = home_of(album) / "shards"
    try:
        until = time.monotonic() + 100
        while not list(shards.glob("0*.npz")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    kept = sum(len(read_stamps(path)) for path in shards.glob("0*.npz"))
    assert kept > 0
    done = index_folder(album)
    assert (done.kept, done.added) == (kept, 162 - kept)
    assert done.photographs == 162


def test_nothing_is_written_into_the_folder(album, album_profile):
    before = sorted(path for path in album.rglob("*"))
    index_folder(album, album_profile, ["Gaussian"])
    assert sorted(path for path in album.rglob("*")) == before


def test_other_settings_are_refused_until_asked_for_anew(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    with pytest.raises(StudyError, match=r"another weightings; .* --anew"):
        index_folder(album, album_profile, [])
    with pytest.raises(StudyError, match="unknown weighting 'Gauss'"):
        index_folder(album, album_profile, ["Gauss"])
    assert index_folder(album, album_profile, [], anew=True).added == 12
    assert Collection(album).weightings == (NONE,)


def test_a_csv_of_queries_says_what_is_relevant(album, album_profile):
    (album / "queries.csv").write_text(
        "id,image,x1,y1,x2,y2,positives,junk\nq,day0/00.jpg,30,20,78,68,day1/01.jpg;day0/02.jpg,\n"
    )
    index_folder(album, album_profile, [])
    dataset = Collection(album).dataset
    assert len(dataset.queries[0].positives) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no photograph in it: expected jpg"),
        (lambda root: (root / "x.jpg").write_bytes(b"no"), "none of its 1 images decodes"),
    ],
)
def test_a_folder_without_photographs_is_refused(tmp_path, store, album_profile, make, message):
    root = tmp_path / "empty"
    root.mkdir()
    make(root)
    with pytest.raises(StudyError, match=message):
        index_folder(root, album_profile, [])


def test_the_command_line_indexes_and_queries(album, album_profile):
    run = CliRunner().invoke
    refused = run(app, ["query", str(album), "day0/00.jpg"])
    assert refused.exit_code == 2
    assert "is not indexed yet; run blcf index" in refused.output
    indexed = run(app, ["index", str(album), "--profile", album_profile, "--weighting", "Gaussian"])
    assert "12 photographs can be searched (12 new" in indexed.output
    asked = [
        "query",
        str(album),
        str(album / "day0/00.jpg"),
        "--box",
        "30,20,78,68",
        "--top",
        "2",
    ]
    found = json.loads(run(app, [*asked, "--json"]).output)
    assert {one["photograph"] for one in found} == {"day0/02.jpg", "day1/01.jpg"}
    assert set(found[0]) == {"rank", "photograph", "score", "box"}
    assert "day0/02.jpg" in run(app, asked).output
    for wrong, message in (
        (["--box", "1,2,3"], "expected x1,y1,x2,y2"),
        (["--box", "500,500,600,600"], "inside an image of 120x90"),
        (["--weighting", "BMS"], "unknown weighting of holiday 'BMS'"),
        (["--recipe", "R"], "expected GS or LS first"),
    ):
        result = run(app, [*asked, *wrong])
        assert result.exit_code == 2
        assert message in result.output
    missing = run(app, ["query", str(album), "nowhere.jpg"])
    assert "nowhere.jpg: no such file" in missing.output
