"""The rendered collections: determinism, ground truth, distractors, photographs, atomicity."""

import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from blcf_utils.datasets.embedded import load_embedded
from blcf_utils.datasets.rendering import benchmark, photographs, render_benchmark
from blcf_utils.datasets.rendering.camera import box_of, warp
from blcf_utils.datasets.rendering.facades import draw_facade
from blcf_utils.datasets.rendering.objects import KINDS, Pose, draw_object, render_object
from blcf_utils.datasets.rendering.seeds import generator
from blcf_utils.ground.errors import StudyError

SMALL = 0.02  # 2 instances and four distractors


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered")
    return {
        name: render_benchmark(name, root / name, scale=SMALL, workers=1)
        for name in benchmark.BENCHMARKS
    }


@pytest.fixture(scope="module", params=["mini-buildings", "mini-objects"])
def rendered(request, collections):
    return collections[request.param]


def ground_truth(folder):
    return json.loads((folder / "groundtruth.json").read_text(encoding="utf-8"))


def test_same_seed_same_bytes_with_any_number_of_workers(collections, tmp_path):
    again = render_benchmark("mini-objects", tmp_path / "again", scale=SMALL, workers=2)
    assert digests(again) == digests(collections["mini-objects"])
    other = render_benchmark("mini-objects", tmp_path / "other", seed=1, scale=SMALL, workers=2)
    first, second = digests(again), digests(other)
    shared = [n for n in first if n.startswith("images/") and first[n] == second.get(n)]
    assert not shared


def test_an_image_does_not_depend_on_what_was_rendered_before(tmp_path):
    recipe = benchmark.BENCHMARKS["mini-buildings"]
    tasks, _ = benchmark._plan(recipe, "mini-buildings", 0, SMALL)
    task = tasks[1]
    content = []
    for name, images in (("forwards", task.images[:2]), ("backwards", task.images[1::-1])):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        part = benchmark._Task(task.instance, images)
        benchmark._render(part, folder=str(folder), name="mini-buildings", seed=0)
        content.append(digests(folder))
    assert content[0] == content[1]
    assert len(content[0]) == 4


def test_boxes_enclose_the_masks_exactly(rendered):
    truth = ground_truth(rendered)
    assert truth["boxes"]
    for file, box in truth["boxes"].items():
        image = cv2.imread(str(rendered / "images" / file))
        mask = cv2.imread(str(rendered / "masks" / file.replace(".jpg", ".png")), 0)
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) == {0, 255}
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= image.shape[1]
        assert 0 <= y1 < y2 <= image.shape[0]
        outside = mask.copy()
        outside[y1:y2, x1:x2] = 0
        assert not outside.any()
        edges = mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]
        assert all(edge.any() for edge in edges)
        # A visible instance, not a sliver.
        assert (mask > 0).sum() > 0.015 * mask.size


def test_ground_truth_is_consistent(rendered):
    truth = ground_truth(rendered)
    files = {path.name for path in (rendered / "images").iterdir()}
    assert set(truth["images"]) == files
    assert truth["recipe_version"] == benchmark.RECIPE_VERSION
    assert len(truth["boxes"]) == 8 * len(truth["instances"])
    assert len(truth["queries"]) == 3 * len(truth["instances"])
    masks = {path.with_suffix(".jpg").name for path in (rendered / "masks").iterdir()}
    assert masks == set(truth["boxes"])
    for query in truth["queries"]:
        file = query["image"].removeprefix("images/")
        assert query["junk"] == [file]
        assert query["bbox"] == truth["boxes"][file]
        assert len(query["positives"]) == 7
        assert file not in query["positives"]
        assert set(query["positives"]) <= set(truth["boxes"])
    # Sorted file names must not put the images of an instance next to each other.
    order = {file: place for place, file in enumerate(truth["images"])}
    query = truth["queries"][0]
    places = sorted(order[f] for f in [*query["positives"], *query["junk"]])
    assert places[-1] - places[0] > 7


def test_full_size_plans_hold_the_promised_numbers():
    planned = {}
    for name, recipe in benchmark.BENCHMARKS.items():
        tasks, names = benchmark._plan(recipe, name, 0, 1.0)
        assert len(names) == len(set(names)) == sum(len(task.images) for task in tasks)
        positives = sum(len(t.images) for t in tasks if t.instance is not None)
        planned[name] = (positives // recipe.views, len(names) - positives, recipe.queries)
    assert planned["mini-buildings"][0] >= 20
    assert planned["mini-buildings"][1] >= 150
    assert planned["mini-objects"][0] >= 24
    assert planned["mini-objects"][1] >= 200
    assert all(instances * queries >= 60 for instances, _, queries in planned.values())


def test_dataset_is_rendered_once_and_loaded(tmp_path):
    root = tmp_path / "mini-objects"
    dataset = load_embedded("mini-objects", root, scale=SMALL)
    assert dataset.protocol.query_image == "junk"
    assert dataset.queries[0].image in dataset.images
    assert len(dataset.queries[0].positives) == 7
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert load_embedded("mini-objects", root, scale=SMALL).manifest == dataset.manifest
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_script_without_a_guard_can_ask_for_pictures(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from blcf_utils.datasets import load_dataset\n"
        "print('asked')\n"
        "print(len(load_dataset('mini-objects', scale=0.02).images))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "BLCF_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Run once: no process that draws has started it again.
    assert done.stdout.split()[0] == "asked"
    assert done.stdout.count("asked") == 1


def test_a_failed_rendering_leaves_nothing(tmp_path, monkeypatch):
    def broken(*args, **keys):
        raise RuntimeError("power cut")

    monkeypatch.setattr(benchmark, "expose", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        render_benchmark("mini-objects", tmp_path / "set", scale=SMALL, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("mini-cars", {}, "mini-buildings, mini-objects"),
        ("mini-objects", {"scale": 0.0}, "above 0"),
        ("mini-objects", {"scale": 1.5}, "at most 1"),
    ],
)
def test_bad_requests_say_what_is_expected(tmp_path, name, keys, message):
    with pytest.raises(StudyError, match=message):
        render_benchmark(name, tmp_path / "set", **keys)


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(StudyError, match="new or empty folder"):
        render_benchmark("mini-objects", tmp_path, scale=SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_benchmark_and_pretraining_share_no_photograph():
    def files(split):
        return set(photographs.SCENES[split]) | set(photographs.PICTURES[split])

    assert not files("benchmark") & files("pretraining")
    for name in files("benchmark") | files("pretraining"):
        assert photographs.photograph(name).ndim == 3


def test_missing_photograph_names_its_package():
    with pytest.raises(StudyError, match="skimage"):
        photographs.photograph("skimage/unheard_of.png")


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_objects_fill_the_place_they_are_given(kind):
    thing = draw_object(generator(0, "style"), generator(0, "layout"), "benchmark", kind)
    pose = Pose((100.0, 90.0), 120.0, yaw=0.4, pitch=0.3)
    color, alpha = render_object(thing, pose, 200, 220)
    x1, y1, x2, y2 = box_of(alpha > 0.5)
    assert 70 < np.hypot(x2 - x1, y2 - y1) < 175
    assert abs((x1 + x2) / 2 - 100) < 25
    assert abs((y1 + y2) / 2 - 90) < 25
    assert color[alpha > 0.5].std() > 0.02


def test_a_box_shows_three_faces():
    thing = draw_object(generator(1, "style"), generator(1, "layout"), "benchmark", "box")
    marks = []
    for value in (50, 120, 200):
        face = np.full((40, 40, 4), 255, np.uint8)
        face[..., :3] = value
        marks.append(face)
    for yaw in (0.6, -0.6):
        plain = type(thing)("box", (80, 100, 60), tuple(marks))
        color, alpha = render_object(plain, Pose((100, 100), 140, yaw=yaw, pitch=0.45), 200, 200)
        values = np.round(color[alpha > 0.99].mean(axis=1) * 255).astype(int)
        shares = np.bincount(values, minlength=256) / len(values)
        for lightness in (50, 120 * 0.72, 200 * 1.12):
            assert shares[int(lightness) - 1 : int(lightness) + 3].sum() > 0.08, (yaw, lightness)


def test_warp_keeps_the_corners():
    texture = np.full((50, 80, 4), 255, np.uint8)
    corners = np.array([[20, 30], [120, 40], [110, 90], [25, 85]], np.float32)
    _, alpha = warp(texture, corners, 120, 150)
    area = cv2.contourArea(corners)
    assert alpha.sum() == pytest.approx(area, rel=0.03)
    assert box_of(alpha > 0.5) == pytest.approx((20, 30, 120, 90), abs=2)


def test_one_style_gives_different_buildings():
    style = (7, "style")
    first, second = (draw_facade(generator(*style), generator(7, i)) for i in (0, 1))
    assert first.alpha.shape != second.alpha.shape
    walls = [np.median(f.albedo[f.alpha == 1], axis=0) for f in (first, second)]
    assert np.abs(walls[0] - walls[1]).max() < 0.15
