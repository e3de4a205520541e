"""Names of files as bytes, as letters, and as people type them."""

import os
import unicodedata
from pathlib import Path

import pytest

from blcf_utils.ground.names import as_argument, file_label, printable, same_name, typed_path

NFC, NFD = (unicodedata.normalize(form, "Café.jpg") for form in ("NFC", "NFD"))


def test_printable_text_is_one_line_of_valid_characters():
    assert printable("Café 日本 👨‍👩‍👧.jpg") == "Café 日本 👨‍👩‍👧.jpg"
    assert printable(os.fsdecode(b"caf\xe9\n\x1b[2J.jpg")) == r"caf\xe9\n\x1b[2J.jpg"
    printable("".join(map(chr, range(0x110000)))).encode()


def test_a_name_is_found_in_either_form_and_the_exact_one_first():
    assert NFC != NFD
    assert same_name(NFC, ["a.jpg", NFD]) == NFD
    assert same_name(NFD, [NFC]) == NFC
    assert same_name(NFC, [NFD, NFC]) == NFC
    assert same_name("b.jpg", [NFC]) is None
    # Three letters that look the same: Å, A with a ring, the ångström sign.
    assert same_name("\u212b", ["\u00c5", "A\u030a"]) is None


def test_a_typed_path_is_taken_as_it_is_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("~old", "~"):
        (tmp_path / name).mkdir()
        assert typed_path(name) == Path(name)
    assert typed_path("~no-such-user/a.jpg") == Path("~no-such-user/a.jpg")
    (tmp_path / "~").rmdir()
    assert typed_path("~/a.jpg") == tmp_path / "home" / "a.jpg"


def test_a_typed_path_finds_composed_and_decomposed_letters(tmp_path, monkeypatch):
    folder = tmp_path / unicodedata.normalize("NFD", "Été")
    folder.mkdir()
    (folder / NFD).touch()
    typed = tmp_path / unicodedata.normalize("NFC", "Été") / NFC
    assert typed_path(typed) == folder / NFD
    monkeypatch.chdir(tmp_path)
    assert typed_path(typed.relative_to(tmp_path)) == (folder / NFD).relative_to(tmp_path)
    assert typed_path(tmp_path / "Ñ" / "a.jpg") == tmp_path / "Ñ" / "a.jpg"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, os.fsdecode(b"\xe9" * 255), "👨" * 63])
def test_a_label_fits_into_a_longer_file_name(tmp_path, name):
    label = file_label(name)
    assert 90 < len(label.encode()) <= 100
    (tmp_path / f"{label}-0123456789abcdef.partial").touch()
    assert file_label("Holiday 2024") == "Holiday 2024"


def test_an_argument_is_no_option():
    assert as_argument("-album") == "./-album"
    assert as_argument(Path("/photos/-album")) == "/photos/-album"
