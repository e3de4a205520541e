"""Stand-ins: the official names and ground truth on rendered pictures, under names of their own."""

import os
import shutil

import pytest
from official import write_ground_truth
from PIL import Image
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.config.profile import load_profile
from blcf_utils.datasets import REGISTRY, distractors, load_dataset
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.instre import EXPECTED as INSTRE
from blcf_utils.datasets.stand_ins import writing
from blcf_utils.datasets.stand_ins.names import names_of
from blcf_utils.datasets.stand_ins.writing import write_stand_ins
from blcf_utils.datasets.vgg_groundtruth import EXPECTED
from blcf_utils.ground.errors import StudyError

SMALL = {"pictures": 3, "workers": 1}
IMAGES = {"oxford5k-standin": 26, "paris6k-standin": 26, "instre-standin": 30}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_ground_truth(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def small(truth, tmp_path_factory):
    """The stand-ins of the three small benchmarks of ``truth``, on three pictures or four."""
    folder = tmp_path_factory.mktemp("stand-ins")
    write_stand_ins(folder, truth, **SMALL)
    return folder


def load(name, root, **options):
    with pytest.warns(UserWarning, match="not comparable"):
        return load_dataset(name, root=root / name, partial=True, **options)


@pytest.mark.parametrize("name", ["oxford5k", "paris6k", "instre"])
def test_names_are_the_official_ones(shared_data, name):
    names = names_of(name, shared_data / "groundtruth")
    expected = EXPECTED.get(name) or INSTRE
    outside = INSTRE.queries if name == "instre" else 0
    assert len(set(names.images)) == len(names.images) == expected.images + outside
    assert sum(map(len, names.boxes.values())) == expected.queries
    assert set(names.boxes) <= set(names.instances) <= set(names.images)


@pytest.mark.parametrize("name", IMAGES)
def test_the_loader_takes_its_stand_in_and_every_box_fits(small, name, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(small))
    with pytest.warns(UserWarning, match=f"{name}: .*not comparable"):
        dataset = load_dataset(name, partial=True)
    assert dataset.name == name
    assert len(dataset.all_images) == IMAGES[name]
    assert len(dataset.queries) >= 4
    check_dataset(dataset)
    for path in dataset.all_images:
        with Image.open(path) as image:
            assert max(image.size) == 1024
    with pytest.raises(StudyError, match=f"{name}: found .* expected the published"):
        load_dataset(name)


def test_queries_find_their_picture_among_their_positives(small):
    dataset = load("instre-standin", small)
    assert any(
        os.path.samefile(query.image, dataset.images[positive])
        for query in dataset.queries
        for positive in query.positives
    )


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_equal_options_give_equal_bytes_and_interrupted_writing_goes_on(
    small, truth, tmp_path, monkeypatch
):
    calls, link = [], writing._link

    def dies(original, target):
        calls.append(target)
        if len(calls) > 15:
            raise KeyboardInterrupt
        link(original, target)

    monkeypatch.setattr(writing, "_link", dies)
    with pytest.raises(KeyboardInterrupt):
        write_stand_ins(tmp_path, truth, benchmarks=["paris6k"], **SMALL)
    monkeypatch.setattr(writing, "_link", link)
    write_stand_ins(tmp_path, truth, benchmarks=["paris6k"], **SMALL)
    assert contents(tmp_path / "paris6k-standin") == contents(small / "paris6k-standin")


def test_images_are_links_or_copies_where_links_cannot_be(small, truth, tmp_path, monkeypatch):
    image = "instre-standin/images/INSTRE-S1/01_thing/001.jpg"
    assert (small / image).stat().st_nlink > 1

    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_stand_ins(tmp_path, truth, benchmarks=["instre"], **SMALL)
    assert (tmp_path / image).stat().st_nlink == 1
    assert contents(tmp_path / "instre-standin") == contents(small / "instre-standin")


def test_other_files_are_never_written_over(small, truth, tmp_path):
    (tmp_path / "instre-standin").mkdir()
    (tmp_path / "instre-standin" / "photograph.jpg").write_bytes(b"mine")
    with pytest.raises(StudyError, match="found other files; delete it"):
        write_stand_ins(tmp_path, truth, benchmarks=["instre"], **SMALL)
    with pytest.raises(StudyError, match=r'found \{"names".*"pictures":3'):
        write_stand_ins(small, truth, benchmarks=["instre"], pictures=4)
    less = shutil.copytree(truth, tmp_path / "less")
    (less / "oxford5k" / "keble_2_query.txt").unlink()
    with pytest.raises(StudyError, match=r'found \{"names"'):
        write_stand_ins(small, less, benchmarks=["oxford5k"], **SMALL)


def test_what_cannot_be_written_is_said(truth, tmp_path):
    with pytest.raises(StudyError, match="at least 2"):
        write_stand_ins(tmp_path, truth, pictures=1)
    with pytest.raises(StudyError, match="unknown benchmark to stand in for"):
        write_stand_ins(tmp_path, truth, benchmarks=["holidays"])
    with pytest.raises(StudyError, match="expected the ground-truth files"):
        write_stand_ins(tmp_path, tmp_path, benchmarks=["oxford5k"])
    (tmp_path / "oxford5k").symlink_to(truth / "oxford5k")
    with pytest.raises(StudyError, match="gnd_roxford5k"):
        write_stand_ins(tmp_path, tmp_path, benchmarks=["oxford5k"])


def test_distractors_have_a_folder_of_their_own_too(small, truth, tmp_path, monkeypatch):
    monkeypatch.setattr(distractors, "EXPECTED", 5)
    shutil.copytree(small / "oxford5k-standin", tmp_path / "oxford5k-standin")
    (tmp_path / "oxc1_100k").mkdir()  # the true ones are not looked at
    write_stand_ins(tmp_path, truth, benchmarks=["oxc1_100k"], **SMALL)
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match="not comparable"):
        dataset = load_dataset("oxford105k-standin", partial=True)
    assert (dataset.name, len(dataset.images)) == ("oxford105k-standin", 31)
    assert dataset.images[-1].is_relative_to(tmp_path / "oxc1_100k-standin")


def test_the_profile_is_the_papers_on_stand_ins():
    paper, profile = load_profile("paper"), load_profile("rehearsal")
    assert profile.datasets == tuple(f"{name}-standin" for name in paper.datasets)
    assert set(profile.datasets) <= set(REGISTRY)
    for name, teacher in paper.comparison.learn_on.items():
        assert profile.comparison.learn_on[f"{name}-standin"] == f"{teacher}-standin"
    trained = profile.finetuning.oxford, profile.finetuning.instre
    assert trained == ("oxford5k-standin", "instre-standin")


def test_the_command_says_what_it_wrote(truth, tmp_path):
    command = ["standins", "write", str(tmp_path), "--groundtruth", str(truth)]
    command += ["--benchmark", "instre", "--pictures", "2", "--workers", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.output == "instre-standin: 30 images of 2 pictures\n"
