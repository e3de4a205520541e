"""Geometric verification: planted homographies are found, accidents and strangers are not."""

import cv2
import numpy as np
import pytest
from PIL import Image

from blcf_utils.config.profile import SiftConfig, VerificationConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.search.query import Ranking
from blcf_utils.search.sift.keypoints import extract_sift
from blcf_utils.search.sift.verification import (
    LocalFeatures,
    is_plausible,
    local_features,
    match_images,
    shared_matches,
    verify,
    verify_ranking,
)

CONFIG = VerificationConfig(images=3)
TURN = np.array([[0.9, -0.25, 60], [0.2, 0.95, 5], [2e-4, 1e-4, 1]])


def unit_rows(rng, n):
    rows = rng.random((n, 128)).astype(np.float32) ** 4
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mapped(homography, points):
    lifted = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return (lifted[:, :2] / lifted[:, 2:]).astype(np.float32)


def planted(homography=TURN, inliers=40, outliers=25, seed=0, shrunk=1.0):
    """Two images whose first ``inliers`` keypoints match by a homography; others match wrongly."""
    rng = np.random.default_rng(seed)
    n = inliers + outliers
    descriptors = unit_rows(rng, n)
    points = rng.uniform(0, 400, (n, 2)).astype(np.float32)
    others = mapped(homography, points) + rng.normal(0, 0.3, (n, 2)).astype(np.float32)
    others[inliers:] = rng.uniform(0, 400, (outliers, 2))
    order = rng.permutation(n)
    a = LocalFeatures(points, descriptors)
    return a, LocalFeatures(others[order] * np.float32(shrunk), descriptors[order], shrunk), order


def poster(seed, size=(240, 180)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (15, 20), np.uint8))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))


def photographed(values, homography, size=(300, 240)):
    return cv2.warpPerspective(values, homography, size, borderValue=90)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Posters 0 to 3 twice each, straight and from aside; the query is poster 0 once more."""
    from blcf_utils.ground.artefacts import ArtefactStore

    folder = tmp_path_factory.mktemp("scenes")
    aside = np.array([[0.95, 0.1, 20], [-0.08, 0.9, 40], [3e-4, 1e-4, 1]])
    near = np.array([[1.1, 0, 5], [0, 1.1, 5], [0, 0, 1.0]])
    paths = []
    for k in range(4):
        for name, homography in (("straight", np.eye(3)), ("aside", aside)):
            paths.append(folder / f"{k}-{name}.png")
            Image.fromarray(photographed(poster(k), homography)).save(paths[-1])
    Image.fromarray(photographed(poster(0), near)).save(folder / "query.png")
    queries = tuple(
        Query(name, folder / "query.png", box, (0, 1))
        for name, box in (("whole", None), ("part", (20, 20, 140, 120)), ("empty", (0, 0, 1, 1)))
    )
    dataset = Dataset("scenes", folder, tuple(paths), queries)
    store = ArtefactStore(tmp_path_factory.mktemp("scenes-cache"))
    return dataset, extract_sift(dataset, SiftConfig(keypoints=300), store)


def test_planted_matches_are_found_and_wrong_ones_refused():
    a, b, order = planted()
    matches = match_images(a, b, CONFIG)
    assert len(matches.inliers) == 65  # every descriptor finds its copy
    place = np.argsort(order)
    number = [int(np.flatnonzero((a.points == p).all(axis=1))[0]) for p in matches.points_a]
    np.testing.assert_array_equal(matches.points_b, b.points[place[number]])
    true = np.array(number) < 40
    assert matches.inliers[true].all()
    assert matches.inliers[~true].sum() <= 2  # a random point may lie there
    assert matches.count == matches.inliers.sum()


def test_equal_input_gives_equal_output():
    a, b, _ = planted(inliers=20, outliers=40, seed=5)
    counts = []
    for seed in range(4):
        cv2.setRNGSeed(seed)
        counts.append(match_images(a, b, CONFIG).inliers.tolist())
    assert counts == counts[:1] * 4
    assert sum(counts[0]) >= 20


def test_distances_are_in_pixels_of_the_image_sift_saw():
    plain = match_images(*planted()[:2], CONFIG)
    large = match_images(*planted(shrunk=16.0)[:2], CONFIG)
    np.testing.assert_array_equal(large.inliers, plain.inliers)
    np.testing.assert_allclose(large.points_b, plain.points_b * 16, rtol=1e-5)


def test_fewer_inliers_than_asked_for_are_none():
    a, b, _ = planted(inliers=15, outliers=0)
    assert match_images(a, b, VerificationConfig(least=15)).count == 15
    short = match_images(a, b, VerificationConfig(least=16))
    assert (short.count, len(short.inliers)) == (0, 15)


def test_strangers_share_nothing():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (
            LocalFeatures(rng.uniform(0, 400, (300, 2)).astype(np.float32), unit_rows(rng, 300))
            for _ in range(2)
        )
        assert match_images(a, b, CONFIG).count == 0


def test_matches_are_mutual_and_clearly_the_nearest():
    rng = np.random.default_rng(3)
    base = unit_rows(rng, 3)
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    a = LocalFeatures(points, base)
    # b holds descriptor 0 once, 1 twice (not clear) and 2 not at all.
    blend = base[2] + 0.9 * base[0]
    other = np.stack([base[0], base[1], base[1], blend / np.linalg.norm(blend)])
    b = LocalFeatures(np.arange(8, dtype=np.float32).reshape(4, 2) + 50, other)
    matches = match_images(a, b, VerificationConfig(ratio=0.8))
    assert [0.0, 1.0] in matches.points_a.tolist()
    assert [2.0, 3.0] not in matches.points_a.tolist()
    # Two keypoints of a may have the same nearest one in b: only its own nearest is a match.
    twins = LocalFeatures(points, np.stack([base[0], 0.99 * base[0], base[2]]))
    found = match_images(twins, b, VerificationConfig(ratio=1.0)).points_a.tolist()
    assert found == [[0.0, 1.0], [4.0, 5.0]]


def along(*coordinates):
    """Unit descriptors with these first coordinates, at places of their own."""
    rows = np.zeros((len(coordinates), 128), np.float32)
    rows[:, :3] = coordinates
    points = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
    return LocalFeatures(points, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_a_nearest_descriptor_that_is_another_one_s_nearest_is_no_match():
    # b's first is nearest to a's first, which lies between b's two and is not clear; a's second
    # is clearly nearest to b's first, but not the other way round.
    a, b = along((1, 0.14, 0), (1, -0.3, 0)), along((1, 0, 0), (1, 0.3, 0))
    assert len(match_images(a, b, CONFIG).points_a) == 0
    alone = LocalFeatures(a.points[1:], a.descriptors[1:])
    assert match_images(alone, b, CONFIG).points_b.tolist() == [[0, 1]]


@pytest.mark.parametrize(("second", "clear"), [(0.857, False), (0.8, True)])
def test_the_ratio_is_one_of_distances(second, clear):
    # Squared distances are 0.2 and 2 - 2 * second, so the ratios are 0.84 and 0.71.
    a = along((1, 0, 0))
    b = along((0.9, np.sqrt(1 - 0.81), 0), (second, 0, np.sqrt(1 - second**2)))
    assert len(match_images(a, b, VerificationConfig(ratio=0.8)).points_a) == clear


def test_a_place_counts_once_however_many_orientations_it_has():
    a, b, _ = planted(inliers=20, outliers=0)
    rng = np.random.default_rng(9)
    more = unit_rows(rng, 20)
    back = np.array(
        [int(np.flatnonzero((b.descriptors == d).all(axis=1))[0]) for d in a.descriptors]
    )
    doubled_a = LocalFeatures(np.tile(a.points, (2, 1)), np.concatenate([a.descriptors, more]))
    doubled_b = LocalFeatures(
        np.concatenate([b.points, b.points[back]]), np.concatenate([b.descriptors, more])
    )
    assert match_images(doubled_a, doubled_b, CONFIG).count == match_images(a, b, CONFIG).count


@pytest.mark.parametrize("empty", ["a", "b", "both", "one in b"])
def test_images_without_keypoints_share_nothing(empty):
    a, b, _ = planted()
    none = LocalFeatures(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    a = none if empty in ("a", "both") else a
    b = none if empty in ("b", "both") else b
    b = LocalFeatures(b.points[:1], b.descriptors[:1]) if empty == "one in b" else b
    matches = match_images(a, b, CONFIG)
    assert matches.count == 0
    assert matches.points_a.shape == matches.points_b.shape == (0, 2)


SQUARE = np.array([(0, 0), (100, 0), (100, 100), (0, 100), (50, 50)], np.float64)


@pytest.mark.parametrize(
    ("homography", "plausible"),
    [
        (np.eye(3), True),
        (-np.eye(3), True),  # the same map
        (TURN, True),
        (np.diag([3.9, 3.9, 1]), True),
        (np.diag([4.1, 4.1, 1]), False),
        (np.diag([0.24, 0.24, 1]), False),
        (np.diag([0.26, 0.26, 1]), True),
        (np.diag([-1.0, 1, 1]), False),  # mirrored
        (np.diag([-1.0, -1, 1]), True),  # turned by half
        (np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1.0]]), False),  # the horizon runs through
        (np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1.0]]), False),  # all on a line
    ],
)
def test_plausible_homographies(homography, plausible):
    assert is_plausible(homography, SQUARE) == plausible


def test_points_on_a_line_parallel_to_an_axis_tell_nothing():
    assert not is_plausible(np.eye(3), SQUARE * (1, 0))


def test_a_mirrored_pattern_is_not_verified():
    a, b, _ = planted(np.array([[-1.0, 0, 400], [0, 1, 0], [0, 0, 1]]))
    assert match_images(a, b, CONFIG).count == 0
    turned, b, _ = planted(np.array([[-1.0, 0, 400], [0, -1, 400], [0, 0, 1]]))
    assert match_images(turned, b, CONFIG).count >= 40


def test_photographs_of_one_poster_share_matches(scenes):
    _, features = scenes
    counts = np.array(
        [[shared_matches(features, a, b, CONFIG) for b in range(8)] for a in range(8)]
    )
    same = np.arange(8)[:, None] // 2 == np.arange(8) // 2
    assert counts[same].min() > 25
    assert counts[~same].max() == 0
    every = np.ones(features.counts[0], bool)
    some = every & (np.arange(len(every)) % 3 == 0)
    assert shared_matches(features, 0, 1, CONFIG, every) == counts[0, 1]
    assert 8 <= shared_matches(features, 0, 1, CONFIG, some) < counts[0, 1]
    matches = match_images(local_features(features, 8), local_features(features, 0), CONFIG)
    agreeing = matches.points_a[matches.inliers] - (1.1 * matches.points_b[matches.inliers] + 5)
    assert np.abs(agreeing).max() < 6
    assert np.abs(np.median(agreeing, axis=0)).max() < 0.5


def test_verified_images_come_first_and_scores_fall(scenes):
    dataset, features = scenes
    query = local_features(features, dataset.image_index[dataset.queries[0].image])
    first = Ranking(np.array([6, 0, 3, 1, 2, 4, 5, 7]), np.linspace(0.4, -0.3, 8))
    expected = {i: match_images(query, local_features(features, i), CONFIG).count for i in range(8)}
    assert expected[0] > 0 < expected[1]
    for images in (1, 3, 5, 50):
        config = CONFIG.model_copy(update={"images": images})
        found, inliers = verify_ranking(query, first, features, config)
        used = first.images[:images].tolist()
        assert inliers == {i: expected[i] for i in used}
        order = sorted(used, key=lambda i: -expected[i])  # stable: ties as they came
        assert found.images.tolist() == order + first.images[images:].tolist()
        assert (np.diff(found.scores) <= 0).all()
        shares = dict(zip(first.images, np.linspace(0.001, 0, 8), strict=True))
        scores = [inliers.get(i, 0) + shares[i] for i in found.images]
        np.testing.assert_allclose(found.scores, scores)


def test_every_query_is_verified_with_its_box(scenes):
    dataset, features = scenes
    first = Ranking(np.arange(8)[::-1].copy(), np.linspace(1, 0.1, 8))
    rankings = {query.id: first for query in dataset.queries}
    config = VerificationConfig(images=8)
    found, inliers = verify(dataset, rankings, features, config, "ls")
    assert set(found["whole"].images[:2].tolist()) == {0, 1}
    assert 8 <= inliers["part"][0] < inliers["whole"][0]
    assert set(inliers["empty"].values()) == {0}
    np.testing.assert_array_equal(found["empty"].images, first.images)
    whole, counts = verify(dataset, rankings, features, config, "gs")
    assert counts["part"] == counts["empty"] == inliers["whole"]
    np.testing.assert_array_equal(whole["part"].images, found["whole"].images)


def test_nothing_to_verify_changes_nothing(scenes):
    dataset, features = scenes
    rankings = {"whole": Ranking(np.arange(8), np.linspace(1, 0, 8))}
    found, inliers = verify(dataset, rankings, features, VerificationConfig(images=0), "ls")
    assert found == rankings
    assert inliers == {"whole": {}}


def test_counts_are_kept_and_a_cut_file_is_mended(scenes, tmp_path, monkeypatch):
    dataset, features = scenes
    first = Ranking(np.arange(8), np.linspace(1, 0, 8))
    rankings = {query.id: first for query in dataset.queries}
    config, kept = VerificationConfig(images=5), tmp_path / "inliers.bin"
    expected = verify(dataset, rankings, features, config, "ls")
    assert repr(verify(dataset, rankings, features, config, "ls", kept)) == repr(expected)
    whole = kept.read_bytes()
    assert len(whole) == len(rankings) * 5 * 4
    kept.write_bytes(whole[: 5 * 4 + 3])  # killed within the second query
    assert repr(verify(dataset, rankings, features, config, "ls", kept)) == repr(expected)
    assert kept.read_bytes() == whole
    monkeypatch.setattr(
        "blcf_utils.search.sift.verification.match_images", None
    )  # read, not counted again
    assert repr(verify(dataset, rankings, features, config, "ls", kept)) == repr(expected)


def test_equal_first_scores_keep_their_order(scenes):
    dataset, features = scenes
    query = local_features(features, dataset.image_index[dataset.queries[0].image])
    found, _ = verify_ranking(query, Ranking(np.arange(8), np.zeros(8)), features, CONFIG)
    assert set(found.images[:2].tolist()) == {0, 1}
    assert found.images[2:].tolist() == list(range(2, 8))
    assert not found.scores[2:].any()


def test_copies_are_matched_once_and_share_what_the_first_one_shares(scenes, tmp_path, monkeypatch):
    from blcf_utils.ground.artefacts import ArtefactStore
    from blcf_utils.search.sift import verification

    dataset, _ = scenes
    paths = []
    for k, path in enumerate([*dataset.images, *dataset.images[:3]]):
        paths.append(tmp_path / f"{k}.png")
        paths[-1].write_bytes(path.read_bytes())
    copy = tmp_path / "query-again.png"
    copy.write_bytes(dataset.queries[0].image.read_bytes())
    more = (Query("whole again", copy, None, (0, 1)), Query("other", paths[4], None, (0,)))
    enlarged = Dataset("enlarged", tmp_path, tuple(paths), (*dataset.queries, *more))
    features = extract_sift(enlarged, SiftConfig(keypoints=300), ArtefactStore(tmp_path / "cache"))
    order = np.random.default_rng(3).permutation(len(paths))
    rankings = {q.id: Ranking(order, np.linspace(1, 0, len(order))) for q in enlarged.queries}
    config = VerificationConfig(images=len(paths))
    matched = []

    def counted(a, b, config):
        matched.append(len(b.points))
        return match_images(a, b, config)

    monkeypatch.setattr(verification, "match_images", counted)
    found = verify(enlarged, rankings, features, config, "ls")[1]
    # Eight different images; "whole again" asks what "whole" asked.
    assert len(matched) == 8 * (len(enlarged.queries) - 1)
    features.distinct = np.arange(len(features.distinct))
    assert verify(enlarged, rankings, features, config, "ls")[1] == found
    assert found["whole"] == found["whole again"]
    assert max(found["whole"].values()) > 8
