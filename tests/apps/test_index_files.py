"""What an index believes: of its own files, and of the photographs' files."""

import errno
import json
import os
import shutil
import time
import zipfile

import numpy as np
import processes
import pytest
from album import PROFILE, fill, lock, paint
from PIL import Image

from blcf_utils.apps.photographs import indexing, manifest
from blcf_utils.apps.photographs.collection import Collection
from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.manifest import Manifest, home_of
from blcf_utils.apps.photographs.querying import query_folder
from blcf_utils.apps.photographs.shards import read_column
from blcf_utils.datasets import images
from blcf_utils.ground.errors import StudyError

PARTS = (
    "manifest.json",
    "settings.json",
    "shards/*.npz",
    "words/*/centroids.npy",
    "words/*/artefact.json",
    "words/*/origin.json",
    "searched/*/maps/*/words.npy",
    "searched/*/maps/*/artefact.json",
    "searched/*/index/*/made.json",
)


def empty(path):
    path.write_bytes(b"")


def change(path):
    whole = bytearray(path.read_bytes())
    whole[-9] ^= 1
    path.write_bytes(whole)


def answers(album):
    return query_folder(album, "day0/00.jpg", (30, 20, 78, 68), weighting="Gaussian", top=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An album and its index, each part of which is damaged in a copy."""
    from album import write_profile

    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BLCF_CACHE", str(root / "cache"))
        album = fill(root / "holiday")
        index_folder(album, write_profile(root / "small.yaml"), ["Gaussian"])
        yield album, home_of(album), answers(album)


@pytest.mark.parametrize("damage", [empty, change, os.unlink])
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_is_named_and_made_again(whole, tmp_path, part, damage, monkeypatch):
    album, home, before = whole
    saved = tmp_path / "saved"
    shutil.copytree(home, saved)
    monkeypatch.setenv("BLCF_CACHE", str(home.parents[1]))
    try:
        damaged = next(iter(home.glob(part)))
        damage(damaged)
        try:  # either the right answer or one sentence
            found, said = answers(album), ""
        except StudyError as error:
            found, said = before, str(error)
        assert found == before
        assert not said or (str(damaged) in said and "blcf index" in said)
        if not part.startswith(("shards", "words")):
            monkeypatch.setattr(Encoder, "feature_maps", None)
        done = index_folder(album)
        if part == "settings.json":  # a copy: written again without a word
            assert done.mended == []
        else:
            assert len(done.mended) == 1
            assert done.mended[0].startswith(str(damaged))
        assert done.photographs == 12
        assert answers(album) == before
        again = index_folder(album)
        assert (again.kept, again.mended) == (12, [])
    finally:
        shutil.rmtree(home)
        shutil.copytree(saved, home)


@pytest.mark.parametrize("part", ["words", "shards", "searched"])
def test_a_deleted_folder_of_the_index_is_made_again(album, album_profile, part):
    index_folder(album, album_profile, ["Gaussian"])
    before = answers(album)
    shutil.rmtree(home_of(album) / part)
    paint(album / "new.png", 50)
    assert index_folder(album).mended
    (album / "new.png").unlink()
    assert index_folder(album).mended == []
    if part != "words":  # words are learned again with the new photograph among them
        assert answers(album) == before


@pytest.mark.parametrize("part", ["words/*/centroids.npy", "shards/*.npz", "manifest.json"])
@pytest.mark.parametrize("damage", [change, os.unlink])
def test_what_a_locked_folder_lost_with_the_index_is_said_and_comes_back(
    album, album_profile, monkeypatch, part, damage
):
    index_folder(album, album_profile, ["Gaussian"])
    damage(next(iter(home_of(album).glob(part))))
    with monkeypatch.context() as patched:
        lock(patched, "day1")
        for _ in range(2):  # it is said as long as it lasts
            done = index_folder(album)
            assert (done.photographs, done.removed) == (6, 0)
            # Without the manifest nobody knows of how many photographs there were.
            lost = ", lost until it can be looked into: 6" if part != "manifest.json" else ""
            assert done.unlisted["day1"].endswith(f"photographs of it that are kept: 0{lost}")
        lock(patched, "day0", "day1")
        assert index_folder(album).photographs == 6
        shutil.rmtree(home_of(album) / "words")
        with pytest.raises(StudyError, match=r"no photograph in it: .*day0: Permission denied"):
            index_folder(album)
        with pytest.raises(StudyError, match="not indexed yet"):
            Collection(album)
    done = index_folder(album)
    assert (done.photographs, done.unlisted, done.unreadable) == (12, {}, {})
    names = {one.photograph for one in answers(album)}
    assert names == {p.relative_to(album).as_posix() for p in album.rglob("*.jpg")} - {
        "day0/00.jpg"
    }


def test_a_search_while_a_damaged_index_is_mended_says_so(album, album_profile, monkeypatch):
    index_folder(album, album_profile, ["Gaussian"])
    before = answers(album)
    next((home_of(album) / "shards").iterdir()).unlink()

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "look_through", killed)
        with pytest.raises(KeyboardInterrupt):
            index_folder(album)
    with pytest.raises(StudyError, match="not indexed yet; run blcf index"):
        answers(album)
    index_folder(album)
    assert answers(album) == before


def test_a_shard_of_another_index_is_not_taken_for_its_own(album, album_profile, tmp_path):
    index_folder(album, album_profile, [])
    other = fill(tmp_path / "other")
    paint(other / "day0" / "00.jpg", 70)
    index_folder(other, album_profile, [])
    (shard,) = (home_of(album) / "shards").iterdir()
    shutil.copy(next((home_of(other) / "shards").iterdir()), shard)
    done = index_folder(album)
    assert len(done.mended) == 1
    assert str(shard) in done.mended[0]
    assert done.photographs == 12


def test_what_searches_read_is_made_again_by_indexing_only(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    before = answers(album)
    shutil.rmtree(home_of(album) / "searched")
    for _ in range(2):
        with pytest.raises(StudyError, match=r"searched/.* is missing; run blcf index"):
            answers(album)
    index_folder(album)
    assert answers(album) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["profile"]["features"].update(sharpness=1),
        lambda record: record["profile"]["codebook"].update(words="many"),
        lambda record: record.update(albums=[]),
        lambda record: record.pop("weightings"),
    ],
)
def test_settings_of_another_version_ask_for_anew(album, album_profile, monkeypatch, change):
    index_folder(album, album_profile, [])
    document = Manifest.read(home_of(album)).profile.document()
    found = Manifest.read(home_of(album))
    record = json.loads(json.dumps({**vars(found), "profile": document}))
    change(record)
    for name in ("manifest.json", "settings.json"):
        manifest._write(home_of(album) / name, record)
    for use in (index_folder, Collection):
        with pytest.raises(StudyError, match=r"another version of the study; .* --anew"):
            use(album)
    assert index_folder(album, album_profile, [], anew=True).photographs == 12


def test_words_without_their_settings_are_not_taken_over(album, album_profile, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(PROFILE.replace("fire3", "fire5"), encoding="utf-8")  # 256 values, not 128
    index_folder(album, str(other), ["Gaussian"])
    expected = answers(album)
    shutil.rmtree(home_of(album))
    index_folder(album, album_profile, ["Gaussian"])
    for name in ("manifest.json", "settings.json"):
        (home_of(album) / name).unlink()
    assert index_folder(album, str(other), ["Gaussian"]).photographs == 12
    assert answers(album) == expected


def test_settings_with_which_nothing_was_indexed_bind_nobody(album, album_profile):
    with pytest.raises(StudyError, match="the official weights are not here"):
        index_folder(album, album_profile, ["SalGAN"])
    index_folder(album, weightings=["Gaussian"], profile=album_profile)
    assert Collection(album).weightings == ("None", "Gaussian")


def test_without_manifest_and_settings_only_anew_helps(album, album_profile):
    index_folder(album, album_profile, [])
    for name in ("manifest.json", "settings.json"):
        empty(home_of(album) / name)
    with pytest.raises(StudyError, match=r"settings.json: is not as it was written.* --anew"):
        index_folder(album)
    assert index_folder(album, album_profile, [], anew=True).photographs == 12


def test_a_shard_s_bytes_are_compared_with_their_checksum(album, album_profile):
    index_folder(album, album_profile, [])
    (shard,) = (home_of(album) / "shards").iterdir()
    with zipfile.ZipFile(shard) as file:
        place = file.getinfo("thumbnail.npy").header_offset + 500
    whole = bytearray(shard.read_bytes())
    whole[place] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(StudyError, match=r"npz: is not as it was written .*CRC"):
        read_column(shard, "thumbnail")


def test_a_photograph_turned_in_place_is_encoded_again(album, album_profile):
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 1
    path = album / "turned.jpg"
    with Image.open(album / "day0" / "00.jpg") as image:
        image.save(path, exif=exif.tobytes())
    _age(album)
    index_folder(album, album_profile, [])
    before, whole = path.stat(), path.read_bytes()
    place = whole.index(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x01")
    path.write_bytes(whole[: place + 9] + b"\x06" + whole[place + 10 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    done = index_folder(album)
    assert (done.changed, done.kept) == (1, 12)
    collection = Collection(album)
    assert collection.maps.sizes[collection.names.index("turned.jpg")].tolist() == [90, 120]


def _age(album, seconds=10):
    """Let files look as if they had lain there for a while; their status' time cannot be set."""
    for path in album.rglob("*.*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


def test_photographs_of_a_folder_that_may_be_listed_but_not_entered_are_kept(
    album, album_profile, monkeypatch
):
    index_folder(album, album_profile, [])
    shut = str(album / "day1")

    def refusing(function):
        def refuses(path, *arguments, **options):
            if str(path).startswith(shut + "/"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *arguments, **options)

        return refuses

    with monkeypatch.context() as patched:
        for name in ("stat", "lstat"):
            patched.setattr(os, name, refusing(getattr(os, name)))
        patched.setattr(indexing, "content_digest", refusing(indexing.content_digest))
        done = index_folder(album)
        assert (done.photographs, done.kept, len(done.unreadable)) == (12, 12, 6)
        assert "what was indexed of it is kept" in done.unreadable["day1/01.jpg"]
        (album / "day1").rename(album / "day2")
        assert index_folder(album).photographs == 12  # encoded before, under another name
    (album / "day2" / "03.jpg").unlink()
    done = index_folder(album)
    assert (done.photographs, done.removed, done.unreadable) == (11, 1, {})


def test_what_changed_as_it_was_indexed_is_looked_at_again(album, album_profile, monkeypatch):
    read = []
    digest = indexing.content_digest
    monkeypatch.setattr(indexing, "content_digest", lambda path: read.append(path) or digest(path))
    index_folder(album, album_profile, [])
    assert len(read) == 12
    index_folder(album)
    assert len(read) == 24
    monkeypatch.setattr(indexing, "GRAIN", 0)  # as if two seconds had passed
    index_folder(album)
    index_folder(album)
    assert len(read) == 36


def test_what_the_system_refuses_is_tried_again_and_kept_meanwhile(
    album, album_profile, monkeypatch
):
    monkeypatch.setattr(indexing, "GRAIN", 0)
    paint(album / "locked.jpg", 60)
    digest = indexing.content_digest

    def refusing(path):
        if path.name in ("locked.jpg", "00.jpg"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return digest(path)

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "content_digest", refusing)
        first = index_folder(album, album_profile, [])
        assert (first.photographs, sorted(first.unreadable)) == (11, ["day0/00.jpg", "locked.jpg"])
        assert "cannot be read now (Permission denied)" in first.unreadable["locked.jpg"]
    second = index_folder(album)
    assert (second.photographs, second.added, second.unreadable) == (13, 2, {})
    (album / "locked.jpg").chmod(0o600)  # a new time of its status
    with monkeypatch.context() as patched:
        patched.setattr(indexing, "content_digest", refusing)
        third = index_folder(album)
    assert (third.photographs, third.kept) == (13, 13)
    assert "what was indexed of it is kept" in third.unreadable["locked.jpg"]
    assert index_folder(album).unreadable == {}


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (OSError(errno.EIO, "Input/output error"), 2),
        (MemoryError("no memory"), 2),
        (OSError("image file is truncated"), 1),
    ],
)
def test_broken_content_is_remembered_and_a_failing_system_is_not(
    album, album_profile, monkeypatch, error, tries
):
    index_folder(album, album_profile, [])
    paint(album / "new.jpg", 60)
    tried, read = [], Encoder.read

    def failing(self, path):
        if "new" not in path.name:
            return read(self, path)
        tried.append(path.name)
        try:
            raise error
        except (OSError, MemoryError) as caught:
            raise images.UnreadableImage(f"{path}: {caught}", str(caught)) from None

    monkeypatch.setattr(Encoder, "read", failing)
    assert list(index_folder(album).unreadable) == ["new.jpg"]
    (album / "new.jpg").rename(album / "still-new.jpg")
    assert list(index_folder(album).unreadable) == ["still-new.jpg"]
    assert len(tried) == tries


def test_the_manifest_says_size_and_digest_of_every_file(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    home = home_of(album)
    parts = Manifest.read(home).parts
    own = {".lock", "manifest.json", "settings.json"}
    files = {p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()} - own
    assert parts.keys() == {name for name in files if not name.rpartition("/")[2].startswith(".")}
    assert all(size == (home / name).stat().st_size for name, (size, _) in parts.items())
    assert np.all([len(digest) == 32 for _, digest in parts.values()])


def test_killed_at_any_moment_an_index_is_finished_as_if_it_had_not_been(
    album, album_profile, monkeypatch, tmp_path
):
    for i in range(70):
        paint(album / f"more-{i:02d}.jpg", 200 + i, i % 20)
    started = time.perf_counter()
    index_folder(album, album_profile, ["Gaussian"])
    seconds, expected = time.perf_counter() - started, answers(album)
    code = (
        "from blcf_utils.apps.photographs.indexing import index_folder\n"
        f"if __name__ == '__main__': index_folder({str(album)!r}, {album_profile!r}, ['Gaussian'])"
    )
    for kill, share in enumerate(np.random.default_rng(0).uniform(0, 1, 3)):
        monkeypatch.setenv("BLCF_CACHE", str(tmp_path / f"killed-{kill}"))
        process = processes.start(code)
        try:
            until = time.monotonic() + 100
            while not (home_of(album) / ".lock").exists():
                assert process.is_alive()
                assert time.monotonic() < until
                time.sleep(0.01)
            process.join(share * seconds)
        finally:
            process.kill()
            process.join()
        done = index_folder(album, album_profile, ["Gaussian"])
        assert (done.photographs, done.mended) == (82, [])
        assert answers(album) == expected
