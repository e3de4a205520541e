"""A search of a folder from the command line: which photograph is meant, and the contact sheet."""

import json
import os
import unicodedata

import numpy as np
import pytest
from album import paint
from PIL import Image
from typer.testing import CliRunner

from blcf_utils.apps.photographs import querying
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.querying import Result, query_folder, results_as_json
from blcf_utils.cli import app
from blcf_utils.ground.errors import StudyError


def test_a_photograph_is_left_out_of_its_results_however_it_is_named(
    album, album_profile, tmp_path, monkeypatch
):
    apart = unicodedata.normalize("NFD", "day0/Café.jpg")
    (album / "day0" / "00.jpg").rename(album / apart)
    index_folder(album, album_profile, [])
    (tmp_path / "linked.jpg").symlink_to(album / apart)
    os.link(album / apart, tmp_path / "same.jpg")
    (tmp_path / "way").symlink_to(album)
    monkeypatch.chdir(album.parent)
    expected = query_folder(album, apart, top=12)
    assert len(expected) == 11
    assert all(one.photograph != apart for one in expected)
    names = ["day0/Café.jpg", "holiday/day0/Café.jpg", str(album / "day0/../day0/Café.jpg")]
    names += [str(album / apart), f"holiday/{apart}", "linked.jpg", "same.jpg", f"way/{apart}"]
    for name in names:
        assert query_folder("holiday", name, top=12) == expected, name


def test_a_photograph_that_was_changed_since_is_not_taken_for_the_old_one(album, album_profile):
    index_folder(album, album_profile, [])
    paint(album / "day0" / "00.jpg", 50, 3)
    for box in (None, (30, 20, 78, 68), (130, 100, 230, 170)):
        with pytest.raises(StudyError, match=r"00.jpg: was changed since it was indexed; run blcf"):
            query_folder(album, "day0/00.jpg", box)
    index_folder(album)
    found = query_folder(album, "day0/00.jpg", (30, 20, 78, 68), top=3)
    assert {one.photograph for one in found} == {"day1/09.jpg", "day0/10.jpg", "day1/11.jpg"}


def test_a_sheet_replaces_no_photograph(album, album_profile, tmp_path):
    index_folder(album, album_profile, [])
    paint(tmp_path / "elsewhere.jpg", 20, 0)
    os.link(album / "day0" / "02.jpg", tmp_path / "linked.jpg")
    for query, sheet in (
        ("day0/00.jpg", album / "day0" / "00.jpg"),
        ("day0/00.jpg", tmp_path / "linked.jpg"),
        (tmp_path / "elsewhere.jpg", tmp_path / "elsewhere.jpg"),
    ):
        before = sheet.read_bytes()
        with pytest.raises(StudyError, match=r"is a photograph; name another file"):
            query_folder(album, query, sheet=sheet)
        assert sheet.read_bytes() == before
    query_folder(album, "day0/00.jpg", sheet=tmp_path / "sheet.jpg")
    query_folder(album, "day0/00.jpg", sheet=tmp_path / "sheet.jpg")  # which was a sheet


def test_a_folder_without_another_photograph_says_so(tmp_path, store, album_profile):
    paint(tmp_path / "one" / "a.jpg", 1)
    index_folder(tmp_path / "one", album_profile, [])
    found = CliRunner().invoke(app, ["query", str(tmp_path / "one"), "a.jpg"])
    assert (found.exit_code, found.stdout) == (0, "")
    assert "one: no photograph beside the query\n" in found.stderr
    found = CliRunner().invoke(app, ["query", str(tmp_path / "one"), "a.jpg", "--json"])
    assert json.loads(found.stdout) == []


@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "cp1252"])
def test_names_are_written_in_whatever_encoding_the_output_has(album, album_profile, charset):
    (album / "day0" / "02.jpg").rename(album / "day0" / "Café \N{CAMERA}.jpg")
    index_folder(album, album_profile, [])
    asked = ["query", str(album), "day0/00.jpg", "--top", "1"]
    runner = CliRunner(charset=charset)
    camera = "\N{CAMERA}" if charset == "utf-8" else r"\U0001f4f7"
    assert f"day0/Café {camera}.jpg" in runner.invoke(app, asked).output
    found = json.loads(runner.invoke(app, [*asked, "--json"]).stdout)
    assert found[0]["photograph"] == "day0/Café \N{CAMERA}.jpg"


def test_a_name_that_is_no_text_is_escaped_in_json():
    latin = os.fsdecode(b"caf\xe9.jpg")
    text = results_as_json([Result(1, latin, 0.5, (0.0, 0.0, 1.0, 1.0))])
    assert "caf\\udce9.jpg" in text.encode("utf-8").decode()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_contact_sheet_shows_query_and_results_with_their_boxes(
    album, album_profile, tmp_path, suffix
):
    (album / "day0" / "00.jpg").rename(album / "day0" / "cost $5 or $x_1.jpg")
    index_folder(album, album_profile, [])
    sheet = tmp_path / f"sheet.{suffix}"
    asked = ["query", str(album), "day0/cost $5 or $x_1.jpg", "--top", "5"]
    plain = CliRunner().invoke(app, asked).output
    drawn = CliRunner().invoke(app, [*asked, "--box", "30,20,78,68", "--sheet", str(sheet)])
    assert drawn.exit_code == 0, drawn.output
    assert len(drawn.stdout.splitlines()) == len(plain.splitlines()) == 5
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert pixels.shape[1] > pixels.shape[0] > 200
    # The query's box is blue, those of the results are green (0072b2 and 009e73): the query's in
    # the first of four columns and two rows only, results in every other of the six.
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 4
    blue, green = (np.abs(pixels - colour).sum(2) < 40 for colour in ((0, 114, 178), (0, 158, 115)))
    # Below the titles, which have the same colours.
    cells = [(slice(r * height + 60, (r + 1) * height), slice(c * width, (c + 1) * width))
             for r in (0, 1) for c in range(4)]  # fmt: skip
    assert [int(blue[cell].sum() > 100) for cell in cells] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert [int(green[cell].sum() > 100) for cell in cells] == [0, 1, 1, 1, 1, 1, 0, 0]


def test_a_sheet_has_room_for_so_many_results(album, album_profile, tmp_path, monkeypatch):
    monkeypatch.setattr(querying, "MOST", 4)
    index_folder(album, album_profile, [])
    query_folder(album, "day0/00.jpg", top=4, sheet=tmp_path / "sheet.jpg")
    with pytest.raises(StudyError, match="a sheet shows at most 4 results; lower top"):
        query_folder(album, "day0/00.jpg", top=5, sheet=tmp_path / "sheet.jpg")


def test_a_sheet_of_an_unknown_kind_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(StudyError, match=r"sheet.xyz: expected a name that ends in .jpg"):
        query_folder(tmp_path / "nowhere", "a.jpg", sheet=tmp_path / "sheet.xyz")
