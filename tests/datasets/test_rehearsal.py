"""Stand-ins: official names and counts, boxes that fit, and a marker that nothing can lose."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from official import write_ground_truth
from PIL import Image
from typer.testing import CliRunner

from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.datasets.stand_ins import writing
from blcf_utils.datasets.stand_ins.marker import MARKER
from blcf_utils.datasets.stand_ins.names import COUNTS, names_of
from blcf_utils.datasets.stand_ins.pictures import assign_pictures, plan_pictures
from blcf_utils.datasets.stand_ins.writing import PICTURES_FOLDER, write_stand_ins
from blcf_utils.ground.errors import StudyError

THREE = ("oxford5k", "paris6k", "instre")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_ground_truth(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def small(truth, tmp_path_factory):
    """Stand-ins of 40 names each on three pictures."""
    folder = tmp_path_factory.mktemp("stand-ins")
    write_stand_ins(folder, truth, pictures=3, names=40, workers=1)
    return folder


def load(name, root, **options):
    with pytest.warns(UserWarning, match="not comparable|missing"):
        return load_dataset(name, root=root / name, partial=True, **options)


@pytest.mark.parametrize("name", ["oxford5k", "paris6k", "oxc1_100k"])
def test_names_have_the_official_count_and_invented_ones_are_told(truth, name):
    names = names_of(name, truth)
    assert len(set(names.images)) == len(names.images) == COUNTS[name]
    true = 26 if name != "oxc1_100k" else 0  # 24 of the landmarks, two only revisited
    assert len(set(names.invented)) == COUNTS[name] - true
    assert not set(names.invented) & set(names.boxes)
    assert not set(names.corrupt) & set(names.images)


def test_official_names_are_all_true(shared_data):
    for name in THREE:
        names = names_of(name, shared_data / "groundtruth")
        assert len(names.images) == COUNTS[name]
        assert not names.invented
        pictures = plan_pictures(names, 6)
        given = assign_pictures(names, pictures, seed=0)
        assert set(given) == set(names.images)


def test_every_loader_takes_its_stand_in_and_every_box_fits(small):
    for name in THREE:
        dataset = load(name, small)
        assert len(dataset.all_images) == (40 if name != "instre" else 30)
        assert len(dataset.queries) >= 3
        assert dataset.stand_in
        check_dataset(dataset)
        for path in dataset.all_images:
            with Image.open(path) as image:
                assert max(image.size) == 1024
                assert b"blcf rehearse" in image.info["comment"]
    revisited = small.parent / "roxford5k"
    assert not revisited.exists()


def test_queries_find_their_picture_among_their_positives(small):
    dataset = load("instre", small)
    shares = [
        any(os.path.samefile(q.image, dataset.images[p]) for p in q.positives)
        for q in dataset.queries
    ]
    assert any(shares)


def test_equal_options_give_equal_bytes_and_a_killed_writing_goes_on(
    small, truth, tmp_path, monkeypatch
):
    calls, link = [], writing._link

    def dies(original, target):
        calls.append(target)
        if len(calls) > 15:
            raise KeyboardInterrupt
        link(original, target)

    monkeypatch.setattr(writing, "_link", dies)
    options = {"datasets": ["paris6k"], "pictures": 3, "names": 40, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        write_stand_ins(tmp_path, truth, **options)
    half = json.loads((tmp_path / "paris6k" / MARKER).read_text())
    assert half["complete"] is False
    monkeypatch.setattr(writing, "_link", link)
    write_stand_ins(tmp_path, truth, **options)

    def contents(root):
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }

    assert contents(tmp_path / "paris6k") == contents(small / "paris6k")


def test_names_are_links_or_copies_where_links_cannot_be(truth, tmp_path, monkeypatch):
    options = {"datasets": ["instre"], "pictures": 2, "names": 12, "workers": 1}
    linked = write_stand_ins(tmp_path / "a", truth, **options)[0]
    assert linked["links"] == linked["images"]

    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = write_stand_ins(tmp_path / "b", truth, **options)[0]
    assert copied["links"] == 0
    assert copied["digest"] == linked["digest"]


def test_real_data_are_never_written_over(small, truth, tmp_path):
    (tmp_path / "instre").mkdir()
    (tmp_path / "instre" / "photograph.jpg").write_bytes(b"mine")
    with pytest.raises(StudyError, match="may be the dataset itself"):
        write_stand_ins(tmp_path, truth, datasets=["instre"], pictures=2, names=12)
    with pytest.raises(StudyError, match="a stand-in made with"):
        write_stand_ins(small, truth, datasets=["instre"], pictures=4, names=40)
    with pytest.raises(StudyError, match="at least 2"):
        write_stand_ins(tmp_path, truth, pictures=1)
    with pytest.raises(StudyError, match="unknown dataset"):
        write_stand_ins(tmp_path, truth, datasets=["holidays"])
    with pytest.raises(StudyError, match="put oxford5k's ground-truth text files there"):
        write_stand_ins(tmp_path, tmp_path, datasets=["oxford5k"])


def test_a_stand_in_is_one_from_wherever_it_is_looked_at(small, tmp_path):
    dataset = load("oxford5k", small)
    assert replace(dataset, name="renamed").stand_in
    assert dataset.of_query_images().stand_in
    # Photographs of one folder under the ground truth of another, and behind a link.
    (tmp_path / "linked").symlink_to(small / "oxford5k", target_is_directory=True)
    shutil.copytree(small / "oxford5k" / "gt", tmp_path / "own" / "gt")
    (tmp_path / "own" / "jpg").symlink_to(tmp_path / "linked" / "jpg")
    with pytest.warns(UserWarning, match="missing|not comparable"):
        linked = load_dataset("oxford5k", root=tmp_path / "own", partial=True)
    assert linked.stand_in
    # A copy of pictures and ground truth without the marker is out of reach; the folder is not.
    assert not (small / "oxford5k" / PICTURES_FOLDER / MARKER).exists()


def test_distractors_that_stand_in_make_the_whole_a_stand_in(toy, truth, tmp_path):
    from blcf_utils.datasets.distractors import add_distractors

    write_stand_ins(tmp_path, truth, datasets=["oxc1_100k"], pictures=2, names=5, workers=1)
    assert not toy.stand_in
    with pytest.warns(UserWarning, match="not comparable"):
        more = add_distractors(toy, "more", tmp_path / "oxc1_100k", partial=True)
    assert len(more.images) == len(toy.images) + 5
    assert more.stand_in


def test_the_command_says_what_it_wrote(truth, tmp_path):
    from blcf_utils.cli import app

    options = ["--groundtruth", str(truth), "--dataset", "instre", "--pictures", "2"]
    command = ["rehearse", "write", str(tmp_path), *options, "--names", "9", "--workers", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "instre: 9 names of the official 28,543 on 2 pictures" in done.output
    again = CliRunner().invoke(app, command)
    assert again.output == done.output
