"""A detector's features: proposals without torchvision's compiled operators, windows, search."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blcf_utils import experiments
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.rows import row
from blcf_utils.pooling.faster_rcnn import (
    Detected,
    detect,
    image_vector,
    load_detector,
    region_vectors,
    suppressed,
)
from blcf_utils.study.study import open_study


@pytest.fixture(scope="module")
def detector():
    return load_detector(seed=1)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


@given(st.integers(0, 99), st.integers(0, 25))
@settings(max_examples=30, deadline=None)
def test_suppression_against_loops(seed, count):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (count, 2))], axis=1)
    kept = []
    for k in range(count):
        if all(overlap(boxes[k], boxes[j]) <= 0.5 for j in kept):
            kept.append(k)
    assert suppressed(boxes, 0.5).tolist() == kept


def test_what_a_detector_sees(detector):
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    seen = detect(detector, image)
    assert seen.map.shape == (256, 6, 9)
    assert len(seen.boxes) == len(seen.scores) > 0
    assert (np.diff(seen.scores) <= 0).all()
    assert (seen.boxes >= 0).all()
    assert (seen.boxes <= [130, 90, 130, 90]).all()
    assert (seen.boxes[:, 2:] - seen.boxes[:, :2] >= 16).all()
    y0, y1, x0, x1 = seen.windows()[0]
    unit = seen.map[:, y0:y1, x0:x1].max(axis=(1, 2))
    np.testing.assert_allclose(
        region_vectors(seen)[0], unit / np.linalg.norm(unit), rtol=1e-4, atol=1e-6
    )
    whole = seen.map.max(axis=(1, 2))
    np.testing.assert_allclose(image_vector(seen), whole / np.linalg.norm(whole), rtol=1e-4)
    nothing = Detected(seen.map, seen.boxes[:0], seen.scores[:0], seen.size)
    assert region_vectors(nothing).shape == (0, 256)


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(2)}, path)
    with pytest.raises(StudyError, match="fasterrcnn_resnet50_fpn, found none for backbone"):
        load_detector(path)


def test_the_row_runs_when_weights_are_given(detector, tmp_path, toy_root, store, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    path, profile = tmp_path / "detector.pth", tmp_path / "toy.yaml"
    torch.save(detector.state_dict(), path)
    profile.write_text(
        "name: toy\ndatasets: [toy]\ncomparison: {same_dataset: true}\n"
        "features: {backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded},"
        " longest_side: 96, device: cpu}\n"
        "whitening: {dimensions: 64}\ncodebook: {words: 40}\n"
    )
    line = row("faster-rcnn")
    assert "detector" in line.unavailable_because(open_study(str(profile)).comparison("toy"))
    study = open_study(str(profile), {"comparison.weights": {"faster-rcnn": str(path)}})
    found = experiments.compare_methods(study, [line])[0]
    assert set(found.scores) == {("gs", False), ("ls", False), ("ls", True)}
    assert found.bytes == 4 * 256
    search = study.comparison("toy").detector(path)
    held, vector = search.database, search.queries("gs")[0]
    number = study.open("toy").dataset.image_index[study.open("toy").dataset.queries[0].image]
    np.testing.assert_allclose(held.vectors[number], vector, rtol=1e-4, atol=1e-5)
    regions = np.split(held.regions, held.ends[:-1])[3]
    expected = max((regions @ vector).max(initial=-1), -1)
    assert held.best_region(3, vector) == pytest.approx(expected)
