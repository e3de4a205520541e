"""A search of a folder from the command line: which photograph is meant, and the contact sheet."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

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


def test_a_sheet_of_an_unknown_kind_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(StudyError, match=r"sheet.xyz: expected a name that ends in .jpg"):
        query_folder(tmp_path / "nowhere", "a.jpg", sheet=tmp_path / "sheet.xyz")
