"""Own photographs: indexed, brought up to date, resumed after a kill, searched."""

import fcntl
import json
import os
import shutil
import time
import unicodedata

import cv2
import numpy as np
import processes
import pytest
from album import lock, paint
from PIL import Image
from typer.testing import CliRunner

from blcf_utils.apps.explorer.subject import FolderSubject
from blcf_utils.apps.photographs import indexing
from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.manifest import Manifest, home_of
from blcf_utils.apps.photographs.querying import query_folder
from blcf_utils.cli import app
from blcf_utils.config.profile import BackboneConfig, FeatureConfig
from blcf_utils.datasets.folder import load_folder
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.weighting import NONE


def test_what_is_new_is_read_and_the_rest_is_kept(album, album_profile, monkeypatch):
    first = index_folder(album, album_profile, ["Gaussian"])
    assert (first.photographs, first.added, first.kept) == (12, 12, 0)
    again = index_folder(album)
    assert (again.added, again.changed, again.kept, again.removed) == (0, 0, 12, 0)

    paint(album / "new.png", 50)
    paint(album / "day0" / "00.jpg", 99, 3)
    (album / "day1" / "01.jpg").unlink()
    read = []
    decode = Encoder.read
    monkeypatch.setattr(
        Encoder, "read", lambda self, path: read.append(path.name) or decode(self, path)
    )
    third = index_folder(album)
    assert (third.added, third.changed, third.kept, third.removed) == (1, 1, 10, 1)
    assert sorted(read) == ["00.jpg", "new.png"]
    assert "day1/01.jpg" not in Collection(album).names


def test_a_photograph_is_resized_as_the_profile_says(album, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "noise.png")
    backbone = load_backbone(BackboneConfig(name="squeezenet1_1", layer="fire3", weights="random"))
    features = FeatureConfig(longest_side=80, resize="plain")
    pixels, size = Encoder(backbone, None, None, features).read(tmp_path / "noise.png")
    assert size == (200, 150)
    np.testing.assert_array_equal(pixels, cv2.resize(photo, (80, 60)))


def test_an_index_brought_up_to_date_equals_one_made_at_once(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    paint(album / "a-new.jpg", 50, 1)
    index_folder(album)
    grown = Collection(album)
    maps = [grown.maps.map(i).copy() for i in range(len(grown.names))]
    scores = query_folder(album, "day0/00.jpg", weighting="Gaussian")
    # With the words kept, all photographs are encoded anew.
    for part in ("shards", "searched"):
        shutil.rmtree(home_of(album) / part)
    assert index_folder(album).added == 13
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


def test_a_file_that_only_moved_or_was_touched_is_not_encoded_again(
    album, album_profile, monkeypatch
):
    index_folder(album, album_profile, ["Gaussian"])
    before = Collection(album)
    words = before.maps.map(before.names.index("day0/00.jpg")).copy()
    (album / "day0" / "00.jpg").rename(album / "renamed.jpg")
    (album / "day0" / "02.jpg").touch()
    (album / "copy.jpg").write_bytes((album / "day1" / "01.jpg").read_bytes())
    monkeypatch.setattr(Encoder, "feature_maps", None)
    done = index_folder(album)
    counts = (done.photographs, done.added, done.changed, done.moved, done.kept, done.removed)
    assert counts == (13, 1, 0, 1, 11, 0)
    after = Collection(album)
    assert "day0/00.jpg" not in after.names
    assert np.array_equal(after.maps.map(after.names.index("renamed.jpg")), words)
    (album / "copy.jpg").unlink()
    assert index_folder(album).removed == 1
    assert index_folder(album).removed == 0  # said once


def test_files_that_exchange_their_names_are_found_under_the_new_ones(album, album_profile):
    index_folder(album, album_profile, [])
    one, two = album / "day0" / "00.jpg", album / "day1" / "11.jpg"
    one.rename(album / "aside")
    two.rename(one)
    (album / "aside").rename(two)
    done = index_folder(album)
    assert (done.added, done.changed, done.moved, done.kept, done.removed) == (0, 2, 0, 10, 0)
    found = query_folder(album, "day1/11.jpg", (30, 20, 78, 68), top=2)
    assert sorted(one.photograph for one in found) == ["day0/02.jpg", "day1/01.jpg"]


def test_a_photograph_too_narrow_for_the_network_is_left_out(album, album_profile):
    # One is there when words are learned, the other comes later.
    Image.new("RGB", (4000, 3)).save(album / "a-strip.png")
    first = index_folder(album, album_profile, [])
    Image.new("RGB", (3, 4000)).save(album / "day0" / "pole.png")
    second = index_folder(album)
    assert (first.photographs, second.photographs) == (12, 12)
    assert list(second.unreadable) == ["a-strip.png", "day0/pole.png"]
    for why in second.unreadable.values():
        assert "too narrow for the network); replace the file and index again" in why
    with pytest.raises(StudyError, match=r"cannot be searched with .*too narrow.*another image"):
        query_folder(album, album / "a-strip.png")


def test_photographs_of_other_kinds_are_counted_not_forgotten(album, album_profile, tmp_path):
    for name in ("1.CR2", "2.cr2", "layers.psd", "notes.txt"):
        (album / name).write_bytes(b"x")
    for name in ("day0/backup.jpg_original", "download"):
        (album / name).write_bytes((album / "day0" / "00.jpg").read_bytes())
    assert index_folder(album, album_profile, []).other == {
        "": ["download"],
        ".cr2": ["1.CR2", "2.cr2"],
        ".jpg_original": ["day0/backup.jpg_original"],
        ".psd": ["layers.psd"],
    }
    said = CliRunner().invoke(app, ["index", str(album)]).output
    assert "read: 12 .jpg\n" in said
    assert "passed over: 2 .cr2 (1.CR2, 2.cr2): a raw converter exports them" in said
    assert "passed over: 1 without an ending (download): pictures without" in said
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "1.NEF").write_bytes(b"x")
    with pytest.raises(StudyError, match=r"no photograph in it: .*convert .*\(1 .nef: a raw"):
        index_folder(tmp_path / "camera", album_profile, [])


def test_what_cannot_be_searched_with_is_said_without_talk_of_indexing(album, album_profile):
    (album / "broken.jpg").write_bytes(b"\xff\xd8 no photograph")
    whole = (album / "day0" / "02.jpg").read_bytes()
    (album.parent / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    index_folder(album, album_profile, [])
    (album / "day0" / "02.jpg").unlink()
    for image, why in (
        ("broken.jpg", "not of a known image format"),
        (album.parent / "cut.jpg", "truncated"),
        ("day0/02.jpg", "no such file"),
    ):
        with pytest.raises(StudyError, match=why) as caught:
            query_folder(album, image)
        assert "on_corrupt" not in str(caught.value)
        assert "cannot be searched with" in str(caught.value)


def test_every_result_says_where_whatever_the_recipe(album, album_profile):
    index_folder(album, album_profile, [])
    for recipe in ("GS", "LS", "LS + R", "LS + R + GQE", "LS + R + LQE"):
        found = query_folder(album, "day0/00.jpg", (30, 20, 78, 68), recipe=recipe, top=12)
        assert len(found) == 11
        for x1, y1, x2, y2 in (one.box for one in found):
            assert 0 <= x1 < x2 <= 120
            assert 0 <= y1 < y2 <= 90
        if recipe.startswith("LS"):  # the poster, not the photograph
            x1, y1, x2, y2 = found[0].box
            assert (x2 - x1) * (y2 - y1) < 0.6 * 120 * 90


def test_unreadable_files_are_named_once_and_tried_again_when_they_change(album, album_profile):
    (album / "broken.jpg").write_bytes(b"\xff\xd8 no photograph")
    (album / "link.jpg").symlink_to("nowhere.jpg")
    first = index_folder(album, album_profile, [])
    assert list(first.unreadable) == ["broken.jpg", "link.jpg"]
    assert "broken.jpg: expected an image" in first.unreadable["broken.jpg"]
    assert "a link that leads nowhere" in first.unreadable["link.jpg"]
    assert index_folder(album).unreadable == first.unreadable
    paint(album / "broken.jpg", 70)
    paint(album / "nowhere.jpg", 71)
    mended = index_folder(album)
    assert (mended.unreadable, mended.photographs, mended.added) == ({}, 14, 2)


def test_a_linked_photograph_counts_once_and_is_left_out_of_its_own_results(
    album, album_profile, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    for name in ("a", "b"):
        paint(store / f"{name}.jpg", ord(name), 0)
    (album / "00-link.jpg").symlink_to(album / "day0" / "00.jpg")
    (album / "nas").symlink_to(store)
    (album / "a-link.jpg").symlink_to(store / "a.jpg")
    (album / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(album / "pipe.jpg")
    (album / "zero.jpg").symlink_to("/dev/zero")
    done = index_folder(album, album_profile, [])
    assert list(done.unreadable) == ["itself.jpg", "pipe.jpg", "zero.jpg"]
    for name in ("pipe.jpg", "zero.jpg"):
        assert f"{name}: no regular file" in done.unreadable[name]
    names = Collection(album).names
    assert len(names) == 14
    assert {"nas/a.jpg", "nas/b.jpg", "day0/00.jpg"} <= set(names)
    monkeypatch.chdir(store.parent)
    for image, own in (
        ("nas/a.jpg", "nas/a.jpg"),
        (album / "nas" / "a.jpg", "nas/a.jpg"),
        ("store/a.jpg", "nas/a.jpg"),
        ("a-link.jpg", "nas/a.jpg"),
        (album / "00-link.jpg", "day0/00.jpg"),
        (os.path.relpath(album / "day0" / "00.jpg"), "day0/00.jpg"),
    ):
        found = [one.photograph for one in query_folder(album, image, top=99)]
        assert sorted([*found, own]) == sorted(names)


def test_photographs_of_a_folder_that_cannot_be_looked_into_are_kept(
    album, album_profile, tmp_path, monkeypatch
):
    (tmp_path / "nas").mkdir()
    paint(tmp_path / "nas" / "far.jpg", 40)
    (album / "nas").symlink_to(tmp_path / "nas")
    index_folder(album, album_profile, [])
    lock(monkeypatch, "day1")
    (tmp_path / "nas").rename(tmp_path / "away")  # a disk that is not there
    done = index_folder(album)
    counts = done.photographs, done.kept, done.removed, done.added
    assert counts == (13, 13, 0, 0)
    why = f"{album / 'day1'}: Permission denied; photographs of it that are kept: 6"
    assert done.unlisted == {"day1": why}
    assert "leads nowhere (photographs of it that are kept: 1); mend" in done.unreadable["nas"]
    said = CliRunner().invoke(app, ["index", str(album)]).output
    assert "day1: Permission denied" in said
    (album / "day0" / "00.jpg").unlink()
    assert index_folder(album).removed == 1
    paint(tmp_path / "only" / "day1" / "a.jpg", 41)
    with pytest.raises(StudyError, match=r"no photograph in it: .*day1: Permission denied"):
        index_folder(tmp_path / "only", album_profile, [])
    with pytest.raises(StudyError, match=r"day1: cannot be listed \(Permission denied\)"):
        load_folder(album, name="album")


def test_names_are_bytes_and_are_found_as_they_are_typed(
    album, album_profile, tmp_path, monkeypatch
):
    decomposed, composed = (unicodedata.normalize(f, "Caf\u00e9.jpg") for f in ("NFD", "NFC"))
    latin, lines = os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg"
    long = "x" * 251 + ".jpg"
    odd = (decomposed, latin, lines, long, "~p.jpg", "-p.jpg")
    for number, name in enumerate(odd):
        paint(album / "one.jpg", 60 + number, 0)
        (album / "one.jpg").rename(album / name)
    folder = album.rename(tmp_path / os.fsdecode(b"-f\xeate" + b"y" * 240))
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    refused = run(app, ["query", "--", folder.name, "~p.jpg"])
    assert "blcf index './-f\\xeatey" in refused.output
    options = ["--profile", album_profile, "--weighting", "Gaussian"]
    indexed = run(app, ["index", *options, "--", folder.name])
    assert "-f\\xeate" in indexed.output
    assert "18 photographs can be searched" in indexed.output
    names = Collection(folder).names
    assert set(odd) <= set(names)
    for name in (*odd, composed):
        result = run(app, ["query", "--json", "--top", "99", "--", folder.name, name])
        found = [one["photograph"] for one in json.loads(result.output)]
        own = decomposed if name == composed else name
        assert sorted([*found, own]) == sorted(names)
    shown = run(app, ["query", "--top", "99", "--", folder.name, "~p.jpg"]).output
    assert len(shown.splitlines()) == 17
    assert "two\\nlines.jpg" in shown
    assert "caf\\xe9.jpg" in shown
    (folder / "queries.csv").write_text(
        f"id,image,x1,y1,x2,y2,positives,junk\nq,{composed},,,,,~p.jpg;-p.jpg,\n", encoding="utf-8"
    )
    query = Collection(folder).dataset.queries[0]
    assert query.image == folder / decomposed


def test_a_transparent_drawing_is_what_a_viewer_shows(album, album_profile):
    """Black lines on a transparent ground whose hidden colour is black, too."""
    lines = np.zeros((90, 120, 4), np.uint8)
    lines[20:70:10, 20:100, 3] = 255
    Image.fromarray(lines).save(album / "drawing.png")
    white = Image.new("RGB", (120, 90), "white")
    white.paste(Image.fromarray(lines), mask=Image.fromarray(lines[..., 3]))
    white.save(album / "scan.png")
    index_folder(album, album_profile, [])
    collection = Collection(album)
    drawing, scan = (collection.names.index(f"{one}.png") for one in ("drawing", "scan"))
    assert np.array_equal(collection.maps.map(drawing), collection.maps.map(scan))


def test_a_killed_indexing_goes_on_with_what_is_missing(album, album_profile, store):
    for i in range(150):
        paint(album / f"more-{i:03d}.jpg", 200 + i, i % 20)
    code = (
        "from blcf_utils.apps.photographs.indexing import index_folder\n"
        f"if __name__ == '__main__': index_folder({str(album)!r}, {album_profile!r}, [], sample=20)"
    )
    process = processes.start(code)
    home = home_of(album)

    def encoded():
        manifest = Manifest.read(home)
        return len(manifest.decoded()) if manifest else 0

    try:
        until = time.monotonic() + 100
        while not encoded() and process.is_alive():
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    kept = encoded()
    assert 0 < kept < 162
    done = index_folder(album)
    assert (done.kept, done.added) == (kept, 162 - kept)
    assert done.photographs == 162


def test_settings_are_kept_when_learning_is_interrupted(album, album_profile, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "find_words", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index_folder(album, album_profile, ["Gaussian"])
    with pytest.raises(StudyError, match="not indexed yet"):
        Collection(album)
    index_folder(album)
    collection = Collection(album)
    assert (collection.profile.name, collection.weightings) == ("small", (NONE, "Gaussian"))


def test_one_process_indexes_a_folder_at_a_time_and_writes_nothing_into_it(album, album_profile):
    before = sorted(path for path in album.rglob("*"))
    index_folder(album, album_profile, ["Gaussian"])
    assert sorted(path for path in album.rglob("*")) == before
    with open(home_of(album) / ".lock") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StudyError, match="another process is indexing it"):
            index_folder(album)


def test_an_index_of_another_version_is_made_anew(album, album_profile):
    home_of(album).mkdir(parents=True)
    (home_of(album) / "settings.json").write_text('{"version": 1}', encoding="utf-8")
    for use in (index_folder, Collection):
        with pytest.raises(StudyError, match=r"another version of the study; .* --anew"):
            use(album)
    assert index_folder(album, album_profile, [], anew=True).added == 12


def test_other_settings_are_refused_until_asked_for_anew(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    with pytest.raises(StudyError, match=r"other weightings; .* --anew"):
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
    # A photograph that it names is removed, and another is new: only the CSV is left out.
    before = query_folder(album, "day0/04.jpg", top=99)
    (album / "day0" / "02.jpg").unlink()
    paint(album / "new.jpg", 50)
    done = index_folder(album)
    assert (done.photographs, done.added, done.removed) == (12, 1, 1)
    assert list(done.unreadable) == ["queries.csv"]
    assert "line 2: positives names 'day0/02.jpg', found no such" in done.unreadable["queries.csv"]
    names = {one.photograph for one in query_folder(album, "day0/04.jpg", top=99)}
    assert names == {one.photograph for one in before} - {"day0/02.jpg"} | {"new.jpg"}
    with pytest.raises(StudyError, match=r"queries.csv, line 2"):
        FolderSubject(album)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no photograph in it: expected jpg"),
        (lambda root: (root / "x.jpg").write_bytes(b"no"), "none of its 1 photographs decodes"),
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
    photograph = str(album / "day0/00.jpg")
    asked = ["query", str(album), photograph, "--box", "30,20,78,68", "--top", "2"]
    found = json.loads(run(app, [*asked, "--json"]).output)
    assert {one["photograph"] for one in found} == {"day0/02.jpg", "day1/01.jpg"}
    assert set(found[0]) == {"rank", "photograph", "score", "box"}
    assert "day0/02.jpg" in run(app, asked).output
    for wrong, message in (
        (["--box", "1,2,3"], "expected x1,y1,x2,y2"),
        (["--box", "nan,20,78,inf"], "expected x1,y1,x2,y2"),
        (["--box", "78,20,30,68"], "expected x1 < x2 and y1 < y2"),
        (["--box", "500,500,600,600"], "inside an image of 120x90"),
        (["--weighting", "BMS"], "unknown weighting of holiday 'BMS'"),
        (["--recipe", "R"], "expected GS or LS first"),
    ):
        result = run(app, [*asked, *wrong])
        assert result.exit_code == 2
        assert message in result.output
    missing = run(app, ["query", str(album), "nowhere.jpg"])
    assert "nowhere.jpg: no such file" in missing.output
