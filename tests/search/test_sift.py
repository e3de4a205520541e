"""SIFT keypoints, their words and the search with them, against plain reference code."""

import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import processes
import pytest
from PIL import Image

from blcf_utils.config.profile import SiftConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.sift import keypoints as sift_module
from blcf_utils.search.sift.keypoints import describe, extract_sift, query_keypoints, root_sift
from blcf_utils.search.sift.words import (
    assign_sift_words,
    learn_sift_codebook,
    search_sift,
    sift_histogram,
    sift_histograms,
    sift_index,
    sift_query,
)

CONFIG = SiftConfig(keypoints=30, words=40, iterations=6)
FILES = ("descriptors.bin", "images.bin", "keypoints.bin", "skipped.json")


def set_of(paths, queries=(), **options):
    return Dataset("set", paths[0].parent, tuple(paths), tuple(queries), **options)


def photograph(path, width=90, height=60, seed=0, **options):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return path


def grey_of(path, size=None):
    image = Image.open(path).convert("RGB")
    image = image.resize(size, Image.Resampling.BILINEAR) if size else image
    return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)


def blob(path, x, y, width=200, height=100):
    """A grey image with one bright blob centred on pixel (x, y)."""
    squared = (np.arange(width) - x) ** 2 + (np.arange(height)[:, None] - y) ** 2
    values = 60 + 180 * np.exp(-squared / (2 * 7.0**2))
    Image.fromarray(values.round().astype(np.uint8)).save(path)
    return path


def contents(artefact):
    return {name: (artefact.folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def stages(toy, tmp_path_factory):
    """SIFT features, codebook and words of ``toy``, made once."""
    from types import SimpleNamespace

    from blcf_utils.ground.artefacts import ArtefactStore

    store = ArtefactStore(tmp_path_factory.mktemp("sift-cache"))
    features = extract_sift(toy, CONFIG, store)
    codebook = learn_sift_codebook(features, CONFIG, store)
    words = assign_sift_words(features, codebook, store)
    return SimpleNamespace(store=store, features=features, codebook=codebook, words=words)


def test_features_are_opencvs_strongest_of_every_image(toy, stages):
    features = stages.features
    assert (len(features), features.n_database) == (19, 18)
    assert features.counts.max() == 30  # the limit bites
    for i, path in enumerate(toy.all_images):
        found, raw = cv2.SIFT_create().detectAndCompute(grey_of(path), None)
        order = sorted(range(len(found)), key=lambda k: -found[k].response)[:30]
        least = found[order[-1]].response
        sure = {(*found[k].pt, found[k].angle): k for k in order if found[k].response > least}
        keypoints, descriptors = features.keypoints(i), features.descriptors(i)
        assert len(keypoints) == len(descriptors) == features.counts[i] == len(order)
        assert tuple(features.sizes[i]) == Image.open(path).size
        responses = {(*p.pt, p.angle): p.response for p in found}
        strengths = [responses[x, y, angle] for x, y, _, angle in keypoints.tolist()]
        assert strengths == sorted(strengths, reverse=True)
        place = {(x, y, angle): k for k, (x, y, _, angle) in enumerate(keypoints.tolist())}
        assert set(sure) <= set(place)
        for name, k in sure.items():
            expected = np.sqrt(raw[k] / raw[k].sum())
            np.testing.assert_allclose(descriptors[place[name]], expected, atol=1e-6)


def test_root_sift_is_the_root_of_shares():
    raw = np.zeros((2, 128), np.uint8)
    raw[0, [3, 90]] = 50, 150
    rooted = root_sift(raw)
    np.testing.assert_allclose(rooted[0, [3, 90]], np.sqrt([0.25, 0.75]), rtol=1e-6)
    assert rooted.sum() == pytest.approx(np.sqrt([0.25, 0.75]).sum())


def test_plain_and_root_sift_share_what_is_stored(toy, stages):
    plain = extract_sift(toy, CONFIG.model_copy(update={"root": False}), stages.store)
    assert plain.artefact.reused
    assert plain.key != stages.features.key
    values, rooted = plain.descriptors(2), stages.features.descriptors(2)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)
    again = np.sqrt(values / values.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(rooted, again, atol=1e-5)


def test_settings_of_later_stages_make_no_new_features(toy, stages):
    later = CONFIG.model_copy(update={"words": 10, "idf": False, "max_descriptors": 50})
    assert extract_sift(toy, later, stages.store).artefact.key == stages.features.artefact.key
    for change in ({"keypoints": 31}, {"longest_side": 64}, {"dense": True}):
        other = extract_sift(toy, CONFIG.model_copy(update=change), stages.store)
        assert other.artefact.key != stages.features.artefact.key


@pytest.mark.parametrize("longest_side", [1024, 100, 50])
def test_keypoints_are_in_pixels_of_the_stored_image(tmp_path, store, longest_side):
    paths = [blob(tmp_path / "a.png", 140, 40), blob(tmp_path / "b.png", 60, 60, 100, 200)]
    config = SiftConfig(longest_side=longest_side, keypoints=5)
    features = extract_sift(set_of(paths), config, store)
    assert features.shrunk.tolist() == [200 / min(longest_side, 200)] * 2
    for i, centre in enumerate([(140, 40), (60, 60)]):
        x, y, size, _ = features.keypoints(i)[0]
        # OpenCV's default is wrong by a quarter of a pixel of the image it sees.
        expected = np.array(centre) + 0.25 * features.shrunk[i]
        np.testing.assert_allclose([x, y], expected, atol=0.15 * features.shrunk[i])
        assert size == pytest.approx(2 * 7, rel=0.3)  # the diameter SIFT gives a Gaussian blob


def test_exif_orientation_turns_the_image_when_the_dataset_says_so(tmp_path, store):
    path, turned = blob(tmp_path / "a.png", 140, 40), tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise: (x, y) appears at (99 - y, x)
    with Image.open(path) as image:
        image.save(turned, exif=exif)
    for wanted, size, centre in ((False, (200, 100), (140, 40)), (True, (100, 200), (59, 140))):
        features = extract_sift(set_of([turned], exif_orientation=wanted), CONFIG, store)
        assert tuple(features.sizes[0]) == size
        assert np.hypot(*(features.keypoints(0)[0, :2] - centre)) < 0.7


def test_equally_strong_keypoints_are_cut_at_the_number_asked_for():
    values = np.tile(np.pad(np.full((8, 8), 220, np.uint8), 16, constant_values=40), (6, 6))
    wanted = 50
    assert len(cv2.SIFT_create(wanted).detect(values)) > wanted
    keypoints, raw = describe(values, SiftConfig(keypoints=wanted))
    assert keypoints.shape == (wanted, 4)
    assert raw.shape == (wanted, 128)
    assert raw.dtype == np.uint8


def test_what_opencv_threads_do_changes_no_byte(toy, stages, store, monkeypatch):
    monkeypatch.setattr(sift_module, "_THREADS", 1)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if before > 1 else 3)
        other = extract_sift(toy, CONFIG, store)
    finally:
        cv2.setNumThreads(before)
    assert not other.artefact.reused
    assert contents(other.artefact) == contents(stages.features.artefact)


@pytest.mark.parametrize("shape", [(60, 90), (480, 640), (1, 1), (7, 300)])
@pytest.mark.parametrize("most", [1, 2, 3, 50, 800])
def test_a_grid_has_at_most_so_many_keypoints_in_three_scales(shape, most):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    keypoints, raw = describe(values, SiftConfig(dense=True, keypoints=most))
    assert len(keypoints) == len(raw) <= most
    if min(shape) < 60:
        return
    scales, counts = np.unique(keypoints[:, 2], return_counts=True)
    np.testing.assert_allclose(scales, [4.03, 8.06, 16.13][: min(most, 3)], rtol=1e-3)
    assert len(set(counts.tolist())) == 1
    first = keypoints[keypoints[:, 2] == scales[0], :2]
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in first.T])
    assert len(np.unique(steps)) <= 1  # one step, both ways
    centre = (first.min(axis=0) + first.max(axis=0)) / 2
    np.testing.assert_allclose(centre, [(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    if most == 800 and len(steps):
        coarser = (shape[0] // (steps[0] - 1)) * (shape[1] // (steps[0] - 1))
        assert 3 * coarser > most  # no denser grid fits


def test_grid_descriptors_describe_their_places():
    rng = np.random.default_rng(4)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8))
    values = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC))
    keypoints, raw = describe(values, SiftConfig(dense=True, keypoints=300))
    turned_keypoints, turned = describe(values[::-1, ::-1].copy(), SiftConfig(dense=True))
    assert not np.array_equal(raw, turned[: len(raw)])
    finest = np.flatnonzero(keypoints[:, 2] == keypoints[0, 2])
    for k in finest[:: len(finest) // 5]:
        x, y, size, angle = keypoints[k].astype(float)
        alone = [cv2.KeyPoint(x, y, size, angle, 0.0, 1 << 8)]
        _, expected = cv2.SIFT_create().compute(values, alone)
        np.testing.assert_array_equal(raw[k], expected[0])
    assert (turned_keypoints[:, 3] == 0).all()


def test_an_image_without_keypoints_has_no_words(tmp_path, store):
    Image.new("L", (80, 60), 128).save(tmp_path / "flat.png")
    paths = [photograph(tmp_path / "a.png"), tmp_path / "flat.png"]
    for dense in (False, True):
        config = CONFIG.model_copy(update={"dense": dense, "words": 4})
        features = extract_sift(set_of(paths), config, store)
        assert features.counts[1] == 0 < features.counts[0]
        assert features.keypoints(1).shape == (0, 4)
        assert features.descriptors(1).shape == (0, 128)
        words = assign_sift_words(features, learn_sift_codebook(features, config, store), store)
        assert len(words.words(1)) == 0
        assert sift_histograms(words).toarray()[1].sum() == 0
        index = sift_index(words, config, store)
        images, scores = index.search(*sift_histogram(words.words(0)))
        assert (images[0], scores[1]) == (0, 0)


def test_a_dataset_without_any_keypoint_is_stored_and_teaches_nothing(tmp_path, store):
    Image.new("L", (80, 60), 128).save(tmp_path / "flat.png")
    features = extract_sift(set_of([tmp_path / "flat.png"]), CONFIG, store)
    assert features.counts.tolist() == [0]
    with pytest.raises(StudyError, match=r"sift\.words: 40 words .* the 0 descriptors of set"):
        learn_sift_codebook(features, CONFIG, store)


@pytest.mark.parametrize(
    ("records", "record_bytes", "more_rows"), [(0, 0, 0), (0, 5, 300), (7, 11, 900), (19, 0, 0)]
)
def test_an_extraction_goes_on_behind_the_last_finished_image(
    toy, stages, store, monkeypatch, records, record_bytes, more_rows
):
    whole = stages.features.artefact
    partial = store.root / "sift" / f"{whole.folder.name}.partial"
    shutil.copytree(whole.folder, partial)
    rows = int(stages.features.counts[:records].sum())
    kept = {
        "images.bin": 12 * records + record_bytes,
        "keypoints.bin": 16 * rows + more_rows,
        "descriptors.bin": 128 * rows + more_rows // 2,
    }
    for name, size in kept.items():
        (partial / name).write_bytes((whole / name).read_bytes()[:size])
    for name in ("artefact.json", "made.json", "skipped.json"):
        (partial / name).unlink()
    described = []

    def counting(*arguments):
        described.append(1)
        return describe(*arguments)

    monkeypatch.setattr(sift_module, "describe", counting)
    resumed = extract_sift(toy, CONFIG, store)
    assert contents(resumed.artefact) == contents(whole)
    assert len(described) == 19 - records


KILLED = """
    import os, signal, sys
    from blcf_utils.ground import artefacts
    from blcf_utils.search.sift import keypoints as sift
    from blcf_utils.config.profile import SiftConfig
    from blcf_utils.datasets import load_dataset
    original, calls = sift.describe, []
    def killing(*arguments):
        calls.append(1)
        if len(calls) > 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    sift.describe = killing
    config = SiftConfig(keypoints=30, words=40, iterations=6)
    sift.extract_sift(
        load_dataset("toy", root=sys.argv[1]), config, artefacts.ArtefactStore(sys.argv[2])
    )
"""


def test_a_killed_extraction_resumes_to_the_same_bytes(toy, toy_root, stages, store):
    assert processes.run(KILLED, toy_root / "toy", store.root) == -signal.SIGKILL
    resumed = extract_sift(toy, CONFIG, store)
    assert not resumed.artefact.reused
    assert contents(resumed.artefact) == contents(stages.features.artefact)


def test_unreadable_images_stop_the_extraction_or_are_left_out(tmp_path, store, caplog):
    paths = [photograph(tmp_path / f"{k}.jpg", seed=k) for k in range(4)]
    paths[1].write_bytes(b"not an image")
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: len(content) // 2])
    queries = [Query("bad", paths[2], None, (0,))]
    dataset = set_of(paths, queries)
    with pytest.raises(StudyError, match=r"1\.jpg: expected an image that decodes"):
        extract_sift(dataset, CONFIG, store)
    with caplog.at_level(logging.WARNING, "blcf"):
        features = extract_sift(dataset, CONFIG, store, on_corrupt="skip")
    assert "2 unreadable images left out: 1.jpg, 2.jpg" in caplog.text
    assert (features.counts > 0).tolist() == [True, False, False, True]
    for mode in ("gs", "ls"):
        with pytest.raises(StudyError, match=r"query bad: its image 2\.jpg did not decode"):
            query_keypoints(dataset, queries[0], features, mode)


def test_when_no_image_decodes_that_is_an_error(tmp_path, store):
    (tmp_path / "a.jpg").write_bytes(b"no")
    with pytest.raises(StudyError, match="none of its 1 images decodes"):
        extract_sift(set_of([tmp_path / "a.jpg"]), CONFIG, store, on_corrupt="skip")


def test_the_box_takes_keypoints_whose_centre_lies_in_it(toy, stages):
    query = toy.queries[0]
    keypoints = stages.features.keypoints(toy.image_index[query.image])
    x1, y1 = keypoints[:, :2].min(axis=0).tolist()
    x, y = keypoints[3, :2].tolist()

    def inside(box, mode="ls"):
        return query_keypoints(toy, replace(query, box=box), stages.features, mode)

    assert inside(None).all()
    assert inside((1, 1, 2, 2), "gs").all()
    found = inside((x1, y1, x, y))  # the first border belongs to the box, the second does not
    expected = [x1 <= a < x and y1 <= b < y for a, b in keypoints[:, :2].tolist()]
    assert found.tolist() == expected
    assert not found[3]
    assert not inside((x1, y1, x, y + 1))[3]
    assert not inside((x1, y1, x + 1, y))[3]
    assert inside((x, y, x + 1, y + 1))[3]


def test_a_mask_takes_keypoints_on_its_pixels(toy, stages, tmp_path):
    query = toy.queries[1]
    i = toy.image_index[query.image]
    width, height = stages.features.sizes[i]
    keypoints = stages.features.keypoints(i)
    left = np.zeros((height * 2, width * 2), np.uint8)  # a mask larger than the image
    left[:, :width] = 255
    Image.fromarray(left).save(tmp_path / "mask.png")
    masked = replace(query, mask=tmp_path / "mask.png")
    found = query_keypoints(toy, masked, stages.features, "ls")
    np.testing.assert_array_equal(found, keypoints[:, 0] + 0.5 < width / 2)
    assert 0 < found.sum() < len(found)
    assert query_keypoints(toy, masked, stages.features, "gs").all()


def test_wrong_queries_are_refused(toy, stages):
    query = toy.queries[0]
    outside = replace(query, box=(500, 500, 600, 600))
    with pytest.raises(StudyError, match=r"box .*inside an image of"):
        query_keypoints(toy, outside, stages.features, "ls")
    with pytest.raises(StudyError, match="search mode 'local'"):
        query_keypoints(toy, query, stages.features, "local")


def test_words_are_the_nearest_centroids_of_a_seeded_codebook(toy, stages, store):
    words, codebook = stages.words, stages.codebook
    assert (codebook.words, words.n_words, words.n_database, len(words)) == (40, 40, 18, 19)
    assert codebook.n_descriptors == stages.features.counts[:18].sum()
    assert (np.diff(codebook.objective) <= 0).all()
    for i in (0, 9, 18):
        rows = stages.features.descriptors(i)
        distances = ((rows[:, None] - codebook.centroids) ** 2).sum(axis=2)
        assert words.words(i).dtype == np.uint16
        chosen = distances[np.arange(len(rows)), words.words(i)]
        np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-5)
        np.testing.assert_array_equal(words.keypoints(i), stages.features.keypoints(i))
    features = extract_sift(toy, CONFIG, store)
    again = learn_sift_codebook(features, CONFIG, store)
    np.testing.assert_array_equal(again.centroids, codebook.centroids)
    other = learn_sift_codebook(features, CONFIG, store, seed=1)
    assert not np.array_equal(other.centroids, codebook.centroids)
    few = CONFIG.model_copy(update={"max_descriptors": 100})
    assert learn_sift_codebook(features, few, store).n_descriptors == 100


def test_words_go_on_behind_the_last_finished_image(stages, monkeypatch):
    whole = stages.words.artefact
    expected = (whole / "words.npy").read_bytes()
    partial = whole.folder.with_name(whole.folder.name + ".partial")
    finished = int(stages.features.counts[:5].sum())
    shutil.move(whole.folder, partial)
    for path in partial.iterdir():
        path.unlink()
    raw = np.concatenate([stages.words.words(i) for i in range(19)])
    (partial / "words.bin").write_bytes(raw[: finished + 3].tobytes() + b"\x07")
    assigned = []
    original = type(stages.codebook).assign

    def counting(self, rows):
        assigned.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(type(stages.codebook), "assign", counting)
    again = assign_sift_words(stages.features, stages.codebook, stages.store)
    assert (again.artefact / "words.npy").read_bytes() == expected
    assert assigned == stages.features.counts[5:].tolist()


def test_a_histogram_dampens_bursts():
    words, values = sift_histogram(np.array([7, 2, 7, 7, 7], np.uint16))
    assert words.tolist() == [2, 7]
    np.testing.assert_allclose(values, np.array([1, 2]) / np.sqrt(5), rtol=1e-6)
    _, plain = sift_histogram(np.array([7, 2, 7, 7, 7], np.uint16), "none")
    np.testing.assert_allclose(plain, np.array([1, 4]) / np.sqrt(17), rtol=1e-6)
    assert [len(part) for part in sift_histogram(np.array([], np.uint16))] == [0, 0]


@pytest.mark.parametrize("mode", ["gs", "ls"])
@pytest.mark.parametrize(("burstiness", "idf"), [("sqrt", True), ("none", True), ("sqrt", False)])
def test_scores_are_cosines_of_weighted_histograms(toy, stages, mode, burstiness, idf):
    words = stages.words
    config = CONFIG.model_copy(update={"burstiness": burstiness, "idf": idf})
    index = sift_index(words, config, stages.store)

    def counted(chosen):
        counts = np.bincount(chosen, minlength=40).astype(np.float64)
        return np.sqrt(counts) if burstiness == "sqrt" else counts

    database = np.stack([counted(words.words(i)) for i in range(18)])
    holders = (database > 0).sum(axis=0)
    factors = np.log(18 / np.maximum(holders, 1)) * (holders > 0) if idf else np.ones(40)
    database *= factors
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    # Few keypoints of the posters lie outside their boxes: the left 6/10 of a box leaves some out.
    boxes = [(x1, y1, x1 + 0.6 * (x2 - x1), y2) for x1, y1, x2, y2 in (q.box for q in toy.queries)]
    queries = tuple(replace(q, box=box) for q, box in zip(toy.queries, boxes, strict=True))
    rankings = search_sift(replace(toy, queries=queries), words, index, mode, burstiness)
    assert list(rankings) == [query.id for query in toy.queries]
    for query in queries:
        i = toy.image_index[query.image]
        chosen = words.words(i)
        if mode == "ls":
            x, y = words.keypoints(i)[:, :2].T
            x1, y1, x2, y2 = query.box
            chosen = chosen[(x >= x1) & (x < x2) & (y >= y1) & (y < y2)]
            assert 0 < len(chosen) < len(words.words(i))
        wanted = counted(chosen) * factors
        cosines = database @ (wanted / np.linalg.norm(wanted))
        ranking = rankings[query.id]
        assert sorted(ranking.images) == list(range(18))
        # An index may round its weights.
        np.testing.assert_allclose(ranking.scores, cosines[ranking.images], atol=1e-5)
        if mode == "gs" and query.id != "outside":
            assert toy.images[ranking.images[0]] == query.image


def test_a_box_without_keypoints_ranks_by_number(toy, stages):
    query = toy.queries[0]
    keypoints = stages.features.keypoints(toy.image_index[query.image])[:, :2]
    width, height = stages.features.sizes[toy.image_index[query.image]]
    empty = next(
        (x, y, x + 1, y + 1)
        for x in range(width)
        for y in range(height)
        if not ((keypoints >= (x, y)) & (keypoints < (x + 1, y + 1))).all(axis=1).any()
    )
    boxed = replace(toy, queries=(replace(query, box=empty),))
    words, values = sift_query(boxed, boxed.queries[0], stages.words, "ls")
    assert len(words) == len(values) == 0
    index = sift_index(stages.words, CONFIG, stages.store)
    ranking = search_sift(boxed, stages.words, index, "ls")[query.id]
    assert ranking.images.tolist() == list(range(18))
    assert not ranking.scores.any()


@pytest.mark.photos
def test_photographed_covers_are_found(shared_data: Path, store):
    from blcf_utils.config.profile import VerificationConfig
    from blcf_utils.datasets import load_dataset
    from blcf_utils.results.evaluation import evaluate
    from blcf_utils.search.sift.verification import verify

    whole = load_dataset("dvd-mini", root=shared_data / "dvd-mini")
    queries = whole.queries[:6]
    used = sorted({i for q in queries for i in (*q.positives, *q.junk)} | set(range(0, 240, 12)))
    number = {old: new for new, old in enumerate(used)}
    dataset = replace(
        whole,
        images=tuple(whole.images[i] for i in used),
        queries=tuple(
            replace(
                q,
                positives=tuple(number[i] for i in q.positives),
                junk=tuple(number[i] for i in q.junk),
            )
            for q in queries
        ),
    )
    config = SiftConfig(keypoints=400, words=512, iterations=5)
    features = extract_sift(dataset, config, store)
    codebook = learn_sift_codebook(features, config, store)
    words = assign_sift_words(features, codebook, store)
    rankings = search_sift(dataset, words, sift_index(words, config, store), "ls")

    def score(rankings):
        return evaluate(dataset, {query: r.images for query, r in rankings.items()}).mean

    verified, inliers = verify(dataset, rankings, features, VerificationConfig(images=20), "ls")
    assert score(rankings) > 0.7
    assert score(verified) >= score(rankings)
    for query in dataset.queries:
        counted = inliers[query.id]
        shared = [counted.get(i, 0) for i in query.positives]
        others = set(counted) - set(query.positives) - set(query.junk)
        assert max(shared) > max(counted[i] for i in others) + 20
