"""Getting and finding published saliency weights, against a server on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from blcf_utils.datasets.fetching import transfer
from blcf_utils.datasets.fetching.downloads import RECORD
from blcf_utils.features.networks import published
from blcf_utils.features.networks.published import (
    describe_weights,
    fetch_weights,
    find_weights,
    published_weights,
    weights_dir,
)
from blcf_utils.ground.errors import StudyError

BODY = os.urandom(300_000)
NAME = "gen_modelWeights0090.npz"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project, so that weights that lie about on this machine play no part."""
    root = tmp_path / "project"
    (root / "data" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("BLCF_HOME", str(root))
    monkeypatch.delenv("BLCF_WEIGHTS", raising=False)
    return root


@pytest.fixture
def listed(site, project):
    """One small file of weights, listed as lying on the local server."""
    return lambda **known: write_list(project, **{"urls": [site.url(NAME)], **known})


def write_list(project: Path, **known) -> None:
    file = {"name": NAME, "about_bytes": len(BODY), **known}
    about = {"title": "t", "page": "http://about.example", "terms": "t", "citation": "c"}
    entries = {"salgan": {**about, "file": file}}
    (project / "data" / "weights.yaml").write_text(yaml.safe_dump(entries))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_goes_to_the_projects_folder_and_is_found_again(site, project, listed, capsys):
    listed()
    site.files[NAME] = BODY
    assert find_weights("salgan") is None
    path = fetch_weights("salgan")
    assert path == project / "data" / "weights" / NAME == find_weights("salgan")
    assert path.read_bytes() == BODY
    assert names(path.parent) == [RECORD, NAME]
    assert f"no checksum is published for {NAME}" in capsys.readouterr().out
    assert fetch_weights("salgan") == path
    assert len(site.requests) == 1


def test_download_goes_to_the_folder_of_weights_or_the_one_named(
    site, project, listed, tmp_path, monkeypatch
):
    listed()
    site.files[NAME] = BODY
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "mine"))
    assert fetch_weights("salgan", tmp_path / "there").parent == tmp_path / "there"
    assert find_weights("salgan") is None
    assert fetch_weights("salgan") == tmp_path / "mine" / NAME
    assert find_weights("salgan") == tmp_path / "mine" / NAME


def test_one_file_of_weights_is_no_folder_to_download_to(project, tmp_path, monkeypatch):
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "vgg16.pth"))
    assert weights_dir() == project / "data" / "weights"


@pytest.mark.parametrize("share", [0.79, 1.21])
def test_file_of_an_impossible_size_is_refused_and_leaves_nothing(site, project, listed, share):
    listed()
    site.files[NAME] = bytes(round(share * len(BODY)))
    with pytest.raises(StudyError) as caught:
        fetch_weights("salgan")
    message = str(caught.value)
    assert f"has {share * len(BODY):,.0f} bytes, expected 240,000 to 360,000" in message
    assert names(project / "data" / "weights") == []
    # What was refused must not be remembered as what the file was the first time.
    site.files[NAME] = BODY
    assert fetch_weights("salgan").read_bytes() == BODY


def test_mirror_with_an_impossible_file_is_passed_over(site, listed):
    listed()
    site.files = {f"bad/{NAME}": b"moved", NAME: BODY}
    path = fetch_weights("salgan", mirrors=[site.url("bad")])
    assert path.read_bytes() == BODY
    assert [request["name"] for request in site.requests] == [f"bad/{NAME}", NAME]


@pytest.mark.parametrize("size", [0.81, 1.19, 1.81, 2.39])
def test_optimiser_state_may_double_the_file(site, listed, size):
    listed(about_bytes_with_optimiser=2 * len(BODY))
    site.files[NAME] = bytes(round(size * len(BODY)))
    assert fetch_weights("salgan").stat().st_size == len(site.files[NAME])


def test_gone_server_says_where_to_put_the_file(site, project, listed):
    listed()
    with pytest.raises(StudyError) as caught:
        fetch_weights("salgan")
    message = str(caught.value)
    assert f"{site.url(NAME)}: HTTP 404 Not Found" in message
    assert f"put the file at {project / 'data' / 'weights' / NAME} by hand" in message
    assert "see http://about.example" in message


def test_full_disk_and_closed_folder_name_the_variable_of_weights(
    site, listed, tmp_path, monkeypatch
):
    listed()
    site.files[NAME] = BODY
    blocked = tmp_path / "a file"
    blocked.touch()
    with pytest.raises(StudyError, match="set BLCF_WEIGHTS to another one"):
        fetch_weights("salgan", blocked)
    usage = transfer.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StudyError, match="set BLCF_WEIGHTS to another disk"):
        fetch_weights("salgan")


def test_file_put_there_by_hand_is_found_wherever_weights_lie(
    site, project, listed, tmp_path, monkeypatch
):
    listed()
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path / "mine"))
    project_file = project / "data" / "weights" / NAME
    project_file.parent.mkdir()
    project_file.write_bytes(BODY)
    assert find_weights("salgan") == project_file
    assert fetch_weights("salgan") == project_file
    mine = tmp_path / "mine" / NAME
    mine.parent.mkdir()
    mine.write_bytes(BODY)
    assert find_weights("salgan") == mine
    assert site.requests == []


def test_wrong_file_put_there_by_hand_is_named_and_kept(site, project, listed):
    listed()
    wrong = project / "data" / "weights" / NAME
    wrong.parent.mkdir()
    wrong.write_bytes(b"<html>")
    for find in (find_weights, fetch_weights):
        with pytest.raises(StudyError, match="has 6 bytes, expected 240,000 to 360,000") as caught:
            find("salgan")
        assert str(caught.value).startswith(str(wrong))
        assert "delete it, or put the right file there" in str(caught.value)
    assert describe_weights()[0]["state"].startswith("not usable, ")
    assert wrong.read_bytes() == b"<html>"
    assert site.requests == []


def test_override_comes_before_everything(project, listed, tmp_path):
    listed()
    lying = project / "data" / "weights" / NAME
    lying.parent.mkdir()
    lying.write_bytes(BODY)
    own = tmp_path / "retrained.npz"
    own.write_bytes(b"small")
    (project / "own.npz").write_bytes(b"small")
    assert find_weights("salgan", str(own)) == own
    assert find_weights("salgan", "own.npz") == project / "own.npz"
    for wrong in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(StudyError, match="no such file, expected the weights of salgan") as e:
            find_weights("salgan", str(wrong))
        assert str(e.value).startswith(str(wrong))


def test_unknown_weights_list_the_known_ones(project, listed):
    listed()
    for call in (find_weights, fetch_weights):
        with pytest.raises(StudyError, match="'salicon': expected one of salgan"):
            call("salicon")


def test_the_list_of_this_study_is_complete(monkeypatch, tmp_path):
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    sources = {n: s for n, s in published_weights().items() if s.kind == "saliency"}
    assert list(sources) == ["salnet", "salgan", "sam-vgg", "sam-resnet", "sam-resnet-2017"]
    assert len({source.file.name for source in sources.values()}) == len(sources)
    # Four bytes for each published parameter, and the running statistics of SAM-ResNet.
    parameters = dict(zip(sources, [25806209, 31787009, 51835841, 70146561, 70146561], strict=True))
    for name, source in sources.items():
        file = source.file
        assert file.about_bytes == pytest.approx(4 * parameters[name], rel=1e-3)
        assert file.sizes[0] < 4 * parameters[name] < file.sizes[1]
        assert all(url.endswith(f"/{file.name}") for url in file.urls)
        assert all(url.startswith("https://") for url in file.urls)
        assert (file.bytes, file.checksum) == (None, "")
        assert (8 * parameters[name] < file.sizes[1]) == name.startswith("sam")


def test_list_shows_what_is_here(project, listed):
    listed(about_bytes=127_000_000)
    row = describe_weights()[0]
    assert row["weights"] == "salgan"
    assert row["file"] == NAME
    assert row["size"] == "about 127 MB"
    assert row["state"] == "missing"
    assert row["page"] == "http://about.example"
    listed(about_bytes_with_optimiser=2 * len(BODY), about_bytes=len(BODY))
    path = project / "data" / "weights" / NAME
    path.parent.mkdir()
    path.write_bytes(BODY)
    assert describe_weights()[0]["state"] == f"here, {path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "expected names and their sources"),
        ("salgan: 1", "salgan: "),
        ("salgan: {title: t, page: p, terms: t, citation: c}", r"salgan\.file: "),
        (
            "salgan: {title: t, page: p, terms: t, citation: c, file: {name: x}}",
            r"salgan\.file\.about_bytes: ",
        ),
        (
            "salgan: {title: t, page: p, terms: t, citation: c, file: "
            "{name: ../x, about_bytes: 1}}",
            r"salgan\.file\.name: ",
        ),
    ],
)
def test_wrong_list_is_named(tmp_path, text, message):
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message) as caught:
        published.published_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(StudyError, match="restore it from the repository"):
        published.published_weights(tmp_path / "none.yaml")
