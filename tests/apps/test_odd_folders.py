"""Any file and any layout of a folder: nothing stops an indexing, nothing is lost in silence.

``BLCF_FUZZ=1`` makes 500 files and 200 layouts instead of a few; counts are printed (``-s``).
"""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
from album import paint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from blcf_utils.apps.explorer.uploads import accept
from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.querying import query_folder, results_as_json, results_as_text
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.folder import load_folder
from blcf_utils.datasets.formats import FORMATS, IMAGE_ENDINGS
from blcf_utils.ground.errors import StudyError

LARGE = bool(os.environ.get("BLCF_FUZZ"))
FILES, LAYOUTS = (500, 200) if LARGE else (70, 8)
# Pillow's formats that are no pictures.
NO_PICTURES = {"BUFR", "GRIB", "HDF5", "PDF"}
# Those that their first bytes tell.
BEGINNINGS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP"}


def in_every_format(folder):
    """Return Pillow's format and ending to the bytes of a photograph in it."""
    Image.init()
    endings = {}
    for ending, format in Image.registered_extensions().items():
        endings.setdefault(format, ending)
    endings |= {"JPEG": ".jpg", "PPM": ".ppm", "EPS": ".eps", "SPIDER": ".spi"}
    paint(folder / "one.png", 1, 2)
    written = {}
    for format in sorted(Image.SAVE.keys() - NO_PICTURES):
        for mode in ("RGB", "L", "1", "F"):
            path = folder / f"one{endings[format]}"
            try:
                Image.open(folder / "one.png").convert(mode).save(path, format)
            except (OSError, ValueError, KeyError):  # not in this mode, or not written at all
                continue
            written[format, endings[format]] = path.read_bytes()
            break
    return written


def spoiled(content, rng):
    """Return the bytes of a file and how they were spoiled."""
    how = rng.choice(["whole", "cut", "flipped", "flipped head", "zeros inside", "longer"])
    changed = bytearray(content)
    if how == "cut":
        changed = changed[: rng.integers(len(content))]
    elif how.startswith("flipped"):
        last = min(len(content), 200) if how == "flipped head" else len(content)
        for place in rng.integers(0, last, rng.integers(1, 30)):
            changed[place] ^= 1 << rng.integers(8)
    elif how == "zeros inside":
        start = rng.integers(len(content))
        changed[start : start + 64] = bytes(len(changed[start : start + 64]))
    elif how == "longer":
        changed += rng.bytes(100)
    return bytes(changed), str(how)


def refusal(function, *given, **options):
    """Return what a StudyError says, or nothing when there is none; other errors are raised."""
    try:
        function(*given, **options)
    except StudyError as error:
        return str(error)
    return ""


def test_every_spoiled_file_is_searched_or_named(album, album_profile, tmp_path):
    (tmp_path / "formats").mkdir()
    formats, rng = in_every_format(tmp_path / "formats"), np.random.default_rng(5)
    assert len(formats) > 20
    endings = [ending for _, ending in formats] + [".JPG", ".heic", ".dng", ".jfif", ""]
    made, to_tell, to_find = {}, set(), set()
    for number in range(FILES):
        (format, own), content = list(formats.items())[number % len(formats)]
        content, how = spoiled(content, rng)
        ending = str(rng.choice(endings)) if rng.random() < 0.3 else own
        name = f"{number:03d}-{format}-{how.replace(' ', '-')}{ending}"
        (album / name).write_bytes(content)
        made[name] = content
        # A picture by its ending, or by its first bytes where nothing happened to them.
        if ending or (how in ("whole", "longer") and format in BEGINNINGS):
            to_tell.add(name)
        if how == "whole" and format in {*FORMATS, "MPO"} and ending.lower() in IMAGE_ENDINGS:
            to_find.add(name)
    done = index_folder(album, album_profile, [])
    searched = [name for name in Collection(album).names if name in made]
    passed_over = [name for names in done.other.values() for name in names]
    told = Counter([*searched, *done.unreadable, *passed_over])
    assert {name: told[name] for name in to_tell if told[name] != 1} == {}
    assert max(told.values()) == 1
    assert to_find
    assert to_find <= set(searched)

    (tmp_path / "uploads").mkdir()
    accepted = [n for n in made if not refusal(accept, tmp_path / "uploads", n, made[n])]
    assert set(searched) <= set(accepted)
    asked = list(done.unreadable)[:: 1 if LARGE else 10]
    said = [refusal(query_folder, album, name, top=1) for name in asked]
    assert asked
    assert all("cannot be searched with" in one for one in said)
    checked = refusal(lambda: check_dataset(load_folder(album, name="album")))
    assert "cannot be decoded" in checked
    print(
        f"\n{len(made)} files of {len(formats)} formats: {len(searched)} searched, "
        f"{len(done.unreadable)} unreadable, {len(passed_over)} passed over, "
        f"{len(made) - sum(told.values())} no picture any more; {len(accepted)} accepted as "
        f"uploads; {len(asked)} refused as queries"
    )


STEMS = [
    b"p",
    b"caf\xe9",
    unicodedata.normalize("NFC", "Caf\u00e9").encode(),
    unicodedata.normalize("NFD", "Caf\u00e9").encode(),
    b"~p",
    b"~root",
    b"-p",
    b"--anew",
    b"a\nb",
    b" ",
    b"'\"$(x)",
    b"\x1b[2J",
    b"\xff\xfe",
    b"x" * 250,
    b".hidden",
]
names = st.one_of(
    st.sampled_from(STEMS),
    st.binary(min_size=1, max_size=12).map(lambda b: b.translate(None, b"\0/") or b"x"),
).filter(lambda stem: stem not in (b".", b".."))
endings = st.sampled_from([b".jpg", b".JPEG", b".png", b".jfif"])
leaves = st.sampled_from(
    ["photo", "photo", "broken", "copy", "inside", "outside", "nowhere", "itself", "pipe", "raw"]
)
entries = st.recursive(
    st.tuples(names, endings, leaves),
    lambda below: st.tuples(
        names, st.sampled_from(["folder", "locked", "up", "to folder"]), st.lists(below, max_size=4)
    ),
    max_leaves=10,
)


class Layout:
    """Makes entries below a folder, and keeps what is to become of each."""

    def __init__(self, album, outside):
        self.album, self.outside = album, outside
        self.files, self.failed, self.passed_over, self.locked = set(), set(), set(), set()
        self._number = 100

    def make(self, folder, listed, seen=True):
        for entry in listed:
            stem, kind, below = entry
            leaf = isinstance(below, str)
            name = stem + (b".dng" if below == "raw" else kind) if leaf else stem
            path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name[-255:])))
            if os.path.lexists(path):
                continue
            visible = seen and not name[-255:].startswith(b".")
            (self._leaf if leaf else self._folder)(path, below, visible, kind)

    def _leaf(self, path, what, visible, _):
        self._number += 1
        name = path.relative_to(self.album).as_posix()
        if what in ("photo", "copy"):
            paint(path.with_name("made.png"), self._number if what == "photo" else 3)
            path.with_name("made.png").rename(path)
        elif what in ("broken", "raw"):
            path.write_bytes(b"\xff\xd8 no photograph" + bytes([self._number % 256]))
        elif what == "pipe":
            os.mkfifo(path)
        else:
            targets = {
                "inside": self.album / "day0" / "00.jpg",
                "outside": self.outside / "0.jpg",
                "nowhere": self.album / "nowhere.jpg",
                "itself": path,
            }
            path.symlink_to(targets[what])
        if not visible:
            return
        if what in ("photo", "copy", "outside"):
            self.files.add(os.path.realpath(path))
        elif what in ("broken", "pipe", "nowhere", "itself"):
            self.failed.add(name)
        elif what == "raw":
            self.passed_over.add(name)

    def _folder(self, path, below, visible, kind):
        if kind == "up":
            path.symlink_to(self.album)
        elif kind == "to folder":
            path.symlink_to(self.outside)
            if visible:
                self.files |= {os.path.realpath(one) for one in self.outside.iterdir()}
        else:
            path.mkdir()
            if kind == "locked" and visible:
                self.locked.add(path.relative_to(self.album).as_posix())
            self.make(path, below, visible and kind != "locked")


def names_of(done):
    return {name for names in done.other.values() for name in names}


def test_every_layout_is_searched_or_named(album, album_profile, tmp_path, monkeypatch):
    outside, locked, tally = tmp_path / "outside", set(), Counter()
    for number in range(2):
        paint(outside / f"{number}.jpg", 90 + number)
    index_folder(album, album_profile, [])
    before = {os.path.realpath(path) for path in Collection(album).dataset.images}
    scan = os.scandir

    def refuses(path="."):  # as a folder without permissions does, to all but root
        if not isinstance(path, int) and os.path.realpath(path) in locked:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuses)

    @settings(
        max_examples=LAYOUTS,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(entries, min_size=1, max_size=8))
    def check(listed):
        tally["layouts"] += 1
        tree = album / f"tree{tally['layouts']}"
        tree.mkdir()
        layout = Layout(album, outside)
        layout.make(tree, listed)
        locked.update(os.path.realpath(album / name) for name in layout.locked)
        done = index_folder(album)
        collection = Collection(album)
        found = [os.path.realpath(path) for path in collection.dataset.images]
        assert len(found) == len(set(found))  # each photograph once
        assert set(found) == before | layout.files
        assert set(done.unreadable) == layout.failed
        assert names_of(done) == layout.passed_over
        assert set(done.unlisted) == layout.locked
        tally["photographs"] += len(layout.files)
        tally["failures"] += len(layout.failed) + len(layout.locked)
        for name in collection.names:
            if name.startswith(tree.name) and unicodedata.normalize("NFC", name).isprintable():
                asked = query_folder(album, unicodedata.normalize("NFC", name), top=3, recipe="GS")
                tally["typed names"] += 1
        asked = query_folder(album, collection.folder / collection.names[-1], recipe="GS", top=99)
        assert collection.names[-1] not in [one.photograph for one in asked]
        assert len(results_as_text(asked).encode().splitlines()) == len(asked)
        results_as_json(asked).encode()
        # What cannot be looked into any more is kept.
        locked.add(os.path.realpath(tree))
        again = index_folder(album)
        assert (again.removed, again.photographs) == (0, done.photographs)
        assert tree.name in again.unlisted
        locked.clear()
        os.rename(tree, tmp_path / tree.name)

    check()
    print(f"\n{dict(tally)}")
