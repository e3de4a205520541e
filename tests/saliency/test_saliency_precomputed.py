"""Folders of precomputed saliency maps: which file belongs to which image, and what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.precomputed import PrecomputedMaps

SIZE = (12, 8)  # width, height


def write(path: Path, values, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


def flat(level: int, size=SIZE) -> np.ndarray:
    return np.full(size[::-1], level, np.uint8)


@pytest.fixture
def toy(tmp_path):
    """Return a maker of datasets whose images have the given names below the root."""

    def make(*names: str, **known) -> Dataset:
        root = tmp_path / "set"
        images = tuple(write(root / name, np.zeros((8, 12, 3))) for name in names)
        return Dataset(name="toy", root=root, images=images, queries=(), **known)

    return make


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "maps"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "name", ["jpg/old/a.png", "old/a.png", "a.png", "jpg/old/a.jpg", "old/a.jpg", "a.jpg"]
)
def test_a_map_is_found_under_every_name_it_may_have(toy, folder, name):
    values = np.arange(96).reshape(8, 12)
    write(folder / name, values, quality=100)
    found = PrecomputedMaps(folder, toy("jpg/old/a.jpg"))(0)
    assert found.shape == (8, 12)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, values, atol=0 if name.endswith("png") else 3)


def test_the_most_specific_name_and_png_come_first(toy, folder):
    dataset = toy("jpg/old/a.jpg")
    order = ["a.jpg", "a.png", "old/a.jpg", "old/a.png", "jpg/old/a.jpg", "jpg/old/a.png"]
    for level, name in enumerate(order):
        write(folder / name, flat(10 * level), quality=100)
        assert PrecomputedMaps(folder, dataset)(0)[0, 0] == 10 * level


def test_names_with_dots_keep_all_but_the_suffix(toy, folder):
    dataset = toy("a.b.jpg", "a.c.jpg")
    write(folder / "a.b.png", flat(1))
    write(folder / "a.c.png", flat(2))
    maps = PrecomputedMaps(folder, dataset)
    assert [maps(i)[0, 0] for i in range(2)] == [1, 2]


def test_images_of_one_name_in_different_folders_are_not_confused(toy, folder):
    dataset = toy("images/one/000.jpg", "images/two/000.jpg", "images/two/001.jpg")
    write(folder / "000.png", flat(9))
    write(folder / "001.png", flat(3))
    maps = PrecomputedMaps(folder, dataset)
    assert maps.missing() == list(dataset.images[:2])
    with pytest.raises(StudyError, match=r"has no saliency map of .*one/000\.jpg, expected images"):
        maps(0)
    write(folder / "one/000.png", flat(1))
    write(folder / "images/two/000.png", flat(2))
    assert maps.missing() == []
    assert [maps(i)[0, 0] for i in range(3)] == [1, 2, 3]


def test_a_short_path_may_not_be_the_whole_path_of_another_image(toy, folder):
    dataset = toy("a.jpg", "jpg/a.jpg")
    write(folder / "a.png", flat(5))
    maps = PrecomputedMaps(folder, dataset)
    assert maps(0)[0, 0] == 5
    assert maps.missing() == [dataset.images[1]]


def test_images_that_differ_in_their_suffix_only_are_refused(toy, folder):
    with pytest.raises(StudyError, match=r"a\.png: differs from .*a\.jpg in its suffix only"):
        PrecomputedMaps(folder, toy("jpg/a.jpg", "jpg/a.png"))


def test_query_images_outside_the_database_have_maps_too(toy, folder, tmp_path):
    dataset = toy("jpg/a.jpg", "jpg/b.jpg")
    write(folder / "a.png", flat(1))
    inside, outside = dataset.root / "queries" / "a.jpg", tmp_path / "elsewhere" / "a.jpg"
    maps = PrecomputedMaps(folder, dataset)
    # The map called a.png is that of the database's image.
    assert maps.missing([inside, outside, dataset.images[0]]) == [inside, outside]
    write(folder / "queries" / "a.png", flat(2))
    assert maps.map(inside)[0, 0] == 2
    write(folder / "other.png", flat(3))
    assert maps.map(tmp_path / "elsewhere" / "other.jpg")[0, 0] == 3


def test_missing_maps_are_all_found_before_work_starts(toy, folder):
    dataset = toy(*(f"jpg/{i}.jpg" for i in range(5)))
    write(folder / "1.png", flat(1))
    maps = PrecomputedMaps(folder, dataset)
    assert maps.missing() == [dataset.images[i] for i in (0, 2, 3, 4)]
    for check in (maps.require, maps.digest):
        with pytest.raises(StudyError) as caught:
            check()
        message = str(caught.value)
        assert message.startswith(
            f"{folder}: has no saliency map of {dataset.images[0]} and 3 more"
        )
        assert "expected jpg/0.png or .jpg" in message
        assert "\n" not in message
    maps.require(dataset.images[1:2])


def test_missing_folder_is_named(toy, folder):
    with pytest.raises(StudyError, match="none: no such folder, expected the saliency maps of toy"):
        PrecomputedMaps(folder / "none", toy("a.jpg"))


def test_folder_is_relative_to_the_project(toy, tmp_path, monkeypatch):
    (tmp_path / "data" / "profiles").mkdir(parents=True)
    monkeypatch.setenv("BLCF_HOME", str(tmp_path))
    write(tmp_path / "mine" / "a.png", flat(4))
    assert PrecomputedMaps("mine", toy("a.jpg"))(0)[0, 0] == 4


def test_a_map_of_another_size_is_resized_bilinearly(toy, folder):
    values = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    write(folder / "a.png", values)
    maps = PrecomputedMaps(folder, toy("a.jpg"))
    expected = cv2.resize(values, SIZE, interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(maps(0), expected)
    assert np.array_equal(maps.map(maps.dataset.images[0]), values)
    assert maps.map(maps.dataset.images[0], (3, 20)).shape == (20, 3)


def test_a_turned_image_has_a_turned_map(toy, folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    dataset = toy("a.jpg", exif_orientation=True)
    write(dataset.images[0], np.zeros((8, 12, 3)), exif=turned)
    write(folder / "a.png", flat(1))
    assert PrecomputedMaps(folder, dataset)(0).shape == (12, 8)


def test_of_a_colour_map_the_channel_of_the_original_pipeline_is_read(toy, folder):
    values = np.random.default_rng(1).integers(0, 256, (8, 12, 4)).astype(np.uint8)
    dataset = toy("a.jpg")
    path = write(folder / "a.png", values[:, :, :3])
    assert np.array_equal(PrecomputedMaps(folder, dataset)(0), cv2.imread(str(path))[:, :, 0])
    path = write(folder / "a.png", values)
    assert np.array_equal(PrecomputedMaps(folder, dataset)(0), cv2.imread(str(path))[:, :, 0])
    Image.fromarray(values[:, :, 0]).convert("P").save(path)
    assert np.array_equal(PrecomputedMaps(folder, dataset)(0), values[:, :, 0])


@pytest.mark.parametrize("kept", [0, 60, 150])
def test_a_broken_map_is_named_and_is_no_skippable_image(toy, folder, kept):
    path = write(folder / "a.png", np.random.default_rng(2).integers(0, 256, (8, 12)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StudyError, match="expected a saliency map that decodes") as caught:
        PrecomputedMaps(folder, toy("a.jpg"))(0)
    assert str(caught.value).startswith(str(path))
    assert not isinstance(caught.value, UnreadableImage)


def test_the_map_of_a_broken_image_keeps_its_size(toy, folder):
    dataset = toy("a.jpg")
    dataset.images[0].write_bytes(b"")
    write(folder / "a.png", flat(1, (5, 4)))
    assert PrecomputedMaps(folder, dataset)(0).shape == (4, 5)


def test_digest_depends_on_the_maps_in_use_and_nothing_else(toy, folder, tmp_path):
    dataset = toy("jpg/a.jpg", "jpg/b.jpg")
    write(folder / "a.png", flat(1))
    write(folder / "b.png", flat(2))
    digest = PrecomputedMaps(folder, dataset).digest()
    assert len(digest) == 16
    os.utime(folder / "a.png", (0, 0))
    write(folder / "other.png", flat(3))
    assert PrecomputedMaps(folder, dataset).digest() == digest
    moved = tmp_path / "moved" / "jpg"
    moved.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        shutil.copy(folder / name, moved / name)
    assert PrecomputedMaps(moved.parent, dataset).digest() == digest
    shutil.copy(folder / "b.png", folder / "c.png")
    assert PrecomputedMaps(folder, toy("jpg/a.jpg", "jpg/c.jpg")).digest() != digest
    shutil.copy(moved / "a.png", moved / "keep")
    shutil.copy(moved / "b.png", moved / "a.png")
    shutil.copy(moved / "keep", moved / "b.png")
    swapped = PrecomputedMaps(moved.parent, dataset).digest()
    write(folder / "b.png", flat(4))
    assert len({digest, swapped, PrecomputedMaps(folder, dataset).digest()}) == 3
