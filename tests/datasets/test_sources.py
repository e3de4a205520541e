"""Whole datasets: fetched and unpacked from a local server, or said how to get; their list."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from website import served

from blcf_utils.datasets import REGISTRY, load_dataset
from blcf_utils.datasets.fetching import benchmarks
from blcf_utils.datasets.fetching.archives import MARKER
from blcf_utils.datasets.fetching.benchmarks import fetch_dataset
from blcf_utils.datasets.fetching.sources import dataset_sources, describe_sources
from blcf_utils.ground.errors import StudyError


@pytest.fixture
def site(monkeypatch):
    # A proxy of this machine must not see requests to it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served() as site:
        yield site


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def tgz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


PARIS = {
    "paris_1-v1.tgz": tgz({"paris/eiffel/a.jpg": b"a", "paris/louvre/b.jpg": b"b"}),
    "paris_2-v1.tgz": tgz({"paris/triomphe/c.jpg": b"c"}),
    "paris_120310.tgz": tgz({"gt/eiffel_1_query.txt": b"a 0 0 1 1", "gt/eiffel_1_ok.txt": b"b"}),
    "gnd_rparis6k.mat": b"matlab",
}


@pytest.fixture
def offline(monkeypatch):
    """The published sources without their addresses: only mirrors remain."""
    kept = {
        name: source.model_copy(
            update={"files": tuple(f.model_copy(update={"urls": ()}) for f in source.files)}
        )
        for name, source in dataset_sources().items()
    }
    monkeypatch.setattr(benchmarks, "dataset_sources", lambda: kept)


def test_dataset_is_fetched_unpacked_and_left_alone_the_second_time(
    site, offline, tmp_path, capsys
):
    site.files = dict(PARIS)
    folder = fetch_dataset("rparis6k-hard", tmp_path, mirrors=[site.address])
    assert folder == tmp_path / "rparis6k"
    assert (folder / "gnd_rparis6k.mat").read_bytes() == b"matlab"
    images = tmp_path / "paris6k" / "jpg"
    assert names(images) == [MARKER, "a.jpg", "b.jpg", "c.jpg"]
    assert names(tmp_path / "paris6k" / "gt") == [MARKER, "eiffel_1_ok.txt", "eiffel_1_query.txt"]
    site.requests.clear()
    capsys.readouterr()
    shutil.rmtree(tmp_path / "paris6k" / "downloads")  # archives may go once they are unpacked
    assert fetch_dataset("paris6k", tmp_path, mirrors=[site.address]) == tmp_path / "paris6k"
    assert "complete; nothing to fetch" in capsys.readouterr().out
    assert site.requests == []
    (images / "b.jpg").unlink()
    fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    assert names(images) == [MARKER, "a.jpg", "b.jpg", "c.jpg"]
    assert [r["name"] for r in site.requests] == ["paris_1-v1.tgz", "paris_2-v1.tgz"]


@pytest.mark.filterwarnings("ignore:paris6k")
def test_fetched_folder_is_what_the_loader_reads(site, offline, tmp_path):
    site.files = {
        **PARIS,
        "paris_120310.tgz": tgz(
            {
                "eiffel_1_query.txt": b"a 0 0 1 1",
                "eiffel_1_good.txt": b"",
                "eiffel_1_ok.txt": b"a\nb",
                "eiffel_1_junk.txt": b"c",
            }
        ),
    }
    folder = fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    dataset = load_dataset("paris6k", root=folder, partial=True)
    assert [path.name for path in dataset.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [query.positives for query in dataset.queries] == [(0, 1)]


def test_images_put_there_by_hand_are_not_fetched(site, offline, tmp_path):
    site.files = dict(PARIS)
    mine = tmp_path / "paris6k" / "paris" / "eiffel" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    fetch_dataset("paris6k", tmp_path, mirrors=[site.address])
    assert [r["name"] for r in site.requests] == ["paris_120310.tgz"]
    assert names(tmp_path / "paris6k") == ["downloads", "gt", "paris"]


def test_failing_dataset_says_where_to_read_and_where_to_put_the_file(site, offline, tmp_path):
    with pytest.raises(StudyError) as caught:
        fetch_dataset("oxford5k", tmp_path, mirrors=[site.address])
    message = str(caught.value)
    assert f"{site.url('oxbuild_images-v1.tgz')}: HTTP 404" in message
    assert str(tmp_path / "oxford5k" / "downloads" / "oxbuild_images-v1.tgz") in message
    assert dataset_sources()["oxford5k"].page in message


@pytest.mark.parametrize("name", ["flickrlogos32", "trecvid-ins", "sculptures6k"])
def test_manual_dataset_says_whom_to_ask_and_where_to_put_it(name, tmp_path):
    source = dataset_sources()[name]
    with pytest.raises(StudyError) as caught:
        fetch_dataset(name, tmp_path)
    for part in (source.instructions, source.layout, str(tmp_path / name)):
        assert part in str(caught.value)
    for pattern in source.expects:
        file = tmp_path / name / pattern.replace("**", "below").replace("*", "x")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert fetch_dataset(name, tmp_path) == tmp_path / name


def test_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(StudyError, match=r"unknown dataset .*'oxford': expected one of .*oxford5k"):
        fetch_dataset("oxford", tmp_path)


def test_sources_are_complete_and_name_the_loaders_datasets():
    sources = dataset_sources()
    assert {"oxford5k", "paris6k", "roxford5k", "rparis6k", "instre", "holidays"} <= set(sources)
    for name, source in sources.items():
        for other in source.also or (name,):
            assert other in REGISTRY or other == "flickr100k"
        assert all(
            url.startswith(("http://", "https://", "ftp://"))
            for f in source.files
            for url in f.urls
        )
    assert len(sources["flickr100k"].files) == 40
    assert sources["flickr100k"].files[39].name == "oxc1_100k.part40.rar"
    assert sources["flickr100k"].files[6].urls[0].endswith("/oxc1_100k.part07.rar")


def test_describe_sources_shows_what_is_missing(tmp_path):
    rows = {row["dataset"]: row for row in describe_sources(tmp_path)}
    assert list(rows) == list(dataset_sources())
    assert rows["roxford5k"]["state"] == "missing gnd_roxford5k.mat, oxford5k"
    assert rows["oxford105k"]["state"] == "missing oxford5k, flickr100k"
    assert rows["trecvid-ins"]["how"] == "ask its authors"
    (tmp_path / "holidays" / ".jpg.unpacking").mkdir(parents=True)
    (tmp_path / "holidays" / ".jpg.unpacking" / "100000.jpg").touch()
    assert describe_sources(tmp_path)[5]["state"] == "missing **/*.jpg"
    (tmp_path / "holidays" / "jpg").mkdir()
    (tmp_path / "holidays" / "jpg" / "100000.jpg").touch()
    assert describe_sources(tmp_path)[5]["state"] == "here"


ENTRY = {
    "title": "t",
    "page": "p",
    "terms": "t",
    "citation": "c",
    "layout": "l",
    "files": [{"name": "a.tgz", "urls": ["http://127.0.0.1/a.tgz"]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha265": "x"}, "toy.sha265"),
        ({"files": [{"name": "../a.tgz", "urls": ["u"]}]}, "toy.files.0.name"),
        ({"files": [{"name": "a.tgz", "urls": ["u"], "checksum": "12"}]}, "toy.files.0.checksum"),
        ({"files": [{"name": "a.tgz"}]}, "every file needs an address"),
        ({"unpack": [{"archives": ["b.tgz"], "into": "jpg", "gives": "*"}]}, "may only name"),
        ({"unpack": [{"archives": ["a.tgz"], "into": "../x", "gives": "*"}]}, "toy.unpack.0.into"),
        ({"kind": "manual"}, "needs instructions"),
    ],
)
def test_wrong_entry_is_named(tmp_path, change, message):
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"toy": ENTRY}))
    assert list(dataset_sources(path)) == ["toy"]
    path.write_text(yaml.safe_dump({"toy": {**ENTRY, **change}}))
    with pytest.raises(StudyError, match=message) as caught:
        dataset_sources(path)
    assert str(path) in str(caught.value)
