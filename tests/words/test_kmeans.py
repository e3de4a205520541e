"""k-means against faiss' own and slow float64 versions; stopped anywhere, it ends the same."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from blcf_utils.ground.errors import StudyError
from blcf_utils.words import kmeans as module
from blcf_utils.words.assignment import TorchSearcher
from blcf_utils.words.kmeans import fit_kmeans, write_descriptors


def unit_rows(n, dimensions, distinct=None, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(distinct or n, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[rng.integers(0, distinct, n)] if distinct else rows


def clusters(n=600, dimensions=8, centres=12, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(centres, dimensions)) * 3
    noise = rng.normal(size=(n, dimensions))
    return (means[rng.integers(centres, size=n)] + noise).astype(np.float32)


def squared_distances(data, centroids):
    difference = data.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return (difference**2).sum(axis=2)


def in_file(folder, data):
    size = module.CHUNK
    return write_descriptors(
        folder / "rows.f32",
        data.shape,
        lambda first: (data[k : k + size] for k in range(first, len(data), size)),
    )


@pytest.fixture
def many_chunks(monkeypatch):
    """Make chunks so small that little data has many; faiss rounds differently then."""
    monkeypatch.setattr(module, "_READ", 64)


@pytest.fixture
def in_torch(monkeypatch):
    """Run the path of a GPU on the CPU."""
    monkeypatch.setattr(module, "make_searcher", lambda c, *_: TorchSearcher(c, "cpu"))


@pytest.mark.parametrize(
    ("n", "words", "dimensions", "distinct"),
    [
        (600, 5, 8, None),
        (16_384 * 3 + 5, 60, 64, None),  # the last chunk is longer than the others
        (16_384 * 2 - 1, 30, 128, None),
        (16_384 * 2, 25, 512, None),
        (3_000, 900, 16, 450),  # half of the clusters are empty
        (40_000, 2_000, 64, 1_500),
    ],
)
def test_centroids_are_those_of_faiss_to_the_bit(tmp_path, n, words, dimensions, distinct):
    data = unit_rows(n, dimensions, distinct)
    drawn = np.sort(np.random.default_rng(3).choice(n, words, replace=False))
    kmeans = faiss.Kmeans(
        dimensions, words, niter=1, min_points_per_centroid=1, max_points_per_centroid=n
    )
    expected, objective = data[drawn], []
    # Halves of a split cluster are nearly tied: their last bits, and with them the next split, may
    # differ between two calls of faiss on several threads.
    with threadpool_limits(1 if distinct else None):
        for _ in range(2):
            kmeans.train(data, init_centroids=expected)
            expected = kmeans.centroids.copy()
            objective.append(kmeans.obj[-1])
        for source in (data, in_file(tmp_path, data)):
            found, gained = fit_kmeans(source, words, 2, seed=3)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(gained, objective)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(41, 300), st.integers(0, 10_000), st.booleans())
def test_the_objective_is_the_assigned_distance_and_never_rises(words, n, seed, rounded):
    data = clusters(n, seed=seed)
    data = np.round(data) if rounded else data  # repeated descriptors: some words are left empty
    moved, objective = fit_kmeans(data, words, 12, seed=seed)
    assert (np.diff(objective) <= 1e-3 * objective[0]).all()
    drawn = np.sort(np.random.default_rng(seed).choice(n, words, replace=False))
    centroids = data[drawn]
    for found in objective:
        expected = squared_distances(data, centroids).min(axis=1).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
        centroids, _ = fit_kmeans(data, words, 1, start=centroids)
    np.testing.assert_array_equal(moved, centroids)


def test_one_iteration_moves_each_word_to_its_mean():
    data = clusters()
    start = data[:5].copy()
    centroids, _ = fit_kmeans(data, 5, 1, start=start)
    nearest = squared_distances(data, start).argmin(axis=1)
    means = np.stack([data[nearest == w].astype(np.float64).mean(axis=0) for w in range(5)])
    np.testing.assert_allclose(centroids, means, atol=1e-4)


def test_equal_seeds_agree_and_others_differ():
    data = clusters()
    first, second, other = (fit_kmeans(data, 20, 5, seed=s)[0] for s in (4, 4, 5))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_iterations_stop_when_nothing_is_gained():
    data = np.repeat(clusters(30), 10, axis=0)
    _, objective = fit_kmeans(data, 4, 100)
    assert 3 <= len(objective) < 50


def test_the_least_gain_says_where_to_stop():
    data = clusters()
    _, long = fit_kmeans(data, 20, 30, min_gain=0)
    _, short = fit_kmeans(data, 20, 30, min_gain=0.05)
    np.testing.assert_array_equal(short, long[: len(short)])
    gains = -np.diff(short) / (short[0] - short[1:])
    assert gains[-1] < 0.05
    assert (gains[:-1] >= 0.05).all()
    assert len(short) < len(long)


def test_as_many_words_as_descriptors_are_the_descriptors(tmp_path):
    data = clusters(30)
    for source in (data, in_file(tmp_path, data)):
        centroids, objective = fit_kmeans(source, 30, 3)
        np.testing.assert_array_equal(centroids, data)
        assert objective[-1] == 0


def test_more_words_than_descriptors_is_an_error():
    with pytest.raises(StudyError, match="31 words cannot be learned from 30 descriptors"):
        fit_kmeans(clusters(30), 31, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_descriptors_that_are_not_finite_are_refused(value):
    data = unit_rows(200, 8)
    data[150, 3] = value
    with pytest.raises(StudyError, match="not finite"):
        fit_kmeans(data, 10, 3)


@pytest.mark.usefixtures("many_chunks")
@pytest.mark.parametrize("assignment", ["exact", "hnsw", "ivf", "torch"])
@pytest.mark.parametrize("stop", [3, 7, 16])
def test_killed_in_any_iteration_it_ends_with_the_same_bytes(
    tmp_path, monkeypatch, assignment, stop, request
):
    if assignment == "torch":
        request.getfixturevalue("in_torch")
    data = in_file(tmp_path, unit_rows(500, 8, 200))
    how = {"seed": 2, "effort": 2}
    how["assignment"] = "exact" if assignment == "torch" else assignment
    expected, objective = fit_kmeans(data, 90, 3, **how)
    read, chunks = [], module._chunks

    class Killed(Exception):
        pass

    def killed(data):
        for chunk in chunks(data):
            read.append(chunk[0].start)
            if len(read) == stop + 1:
                raise Killed
            yield chunk

    monkeypatch.setattr(module, "_chunks", killed)
    how["saved"] = tmp_path / "state.npz"
    with pytest.raises(Killed):
        fit_kmeans(data, 90, 3, **how)
    found, resumed = fit_kmeans(data, 90, 3, **how)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(resumed, objective)
    assert len(read) == 3 * 7 + stop % 7 + 1  # only the iteration that was cut is done again


@pytest.mark.usefixtures("many_chunks")
def test_very_many_distances_are_added_up_in_float64(monkeypatch):
    data = unit_rows(3_000, 16)
    start = data[:40].copy()
    nearest = squared_distances(data, start).min(1).sum()
    in_float32 = fit_kmeans(data, 40, 1, start=start)[1][0]
    monkeypatch.setattr(module, "_FLOAT32_SUM_UP_TO", 2_999)
    in_float64 = fit_kmeans(data, 40, 1, start=start)[1][0]
    assert np.float32(in_float32) == in_float32
    assert np.float32(in_float64) != in_float64
    assert in_float32 == pytest.approx(nearest, rel=1e-5)
    assert in_float64 == pytest.approx(nearest, rel=1e-6)


@pytest.mark.parametrize(("n", "words", "dimensions"), [(2_000, 40, 16), (900, 200, 64)])
def test_torch_gives_what_faiss_gives(request, n, words, dimensions):
    data = unit_rows(n, dimensions)
    _, objective = fit_kmeans(data, words, 4, seed=5)
    expected, _ = fit_kmeans(data, words, 1, seed=5)
    request.getfixturevalue("in_torch")
    _, gained = fit_kmeans(data, words, 4, seed=5)
    np.testing.assert_allclose(gained, objective, rtol=1e-3)
    assert gained[0] == pytest.approx(objective[0], rel=1e-6)
    found, _ = fit_kmeans(data, words, 1, seed=5)
    apart = np.abs(found - expected).max(axis=1)
    assert (apart < 1e-5).mean() > 0.95  # a tie moves two words


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["hnsw", "ivf"]))
def test_the_approximate_objective_never_rises_without_empty_clusters(
    tmp_path_factory, seed, assignment
):
    data, saved = unit_rows(400, 12, seed=seed), tmp_path_factory.mktemp("state") / "state.npz"
    how = {"seed": seed, "saved": saved, "assignment": assignment, "effort": 1}
    filled = []
    for iterations in range(1, 9):
        _, objective = fit_kmeans(data, 25, iterations, **how)
        filled.append(len(np.unique(np.load(saved)["words"])) == 25)
    for k in range(1, len(objective)):
        if filled[k - 1]:
            assert objective[k] <= objective[k - 1] * (1 + 1e-5)


def test_a_missed_word_does_not_replace_a_nearer_one():
    """A search that always says word 0 changes nothing after a right first assignment."""
    data = unit_rows(300, 8)
    centroids = data[:10].copy()
    right = squared_distances(data, centroids)

    class Zero:
        def search(self, rows):
            return np.zeros(len(rows), np.int64), ((rows - centroids[0]) ** 2).sum(1)

    words = right.argmin(1).astype(np.int32)
    _, total = module._iterate(data, centroids, [np.inf], Zero(), words)
    np.testing.assert_array_equal(words, right.argmin(1))
    assert total == pytest.approx(right.min(1).sum(), rel=1e-5)


def test_a_file_is_read_as_written_and_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READ", 100)
    data = unit_rows(1_030, 5)
    stored = in_file(tmp_path, data)
    for source in (data, stored):
        places, rows = zip(*module._chunks(source), strict=True)
        assert [place.start for place in places] == list(range(0, 1_000, 100))
        assert places[-1].stop == 1_030
        np.testing.assert_array_equal(np.concatenate(rows), data)
    np.testing.assert_array_equal(stored[np.array([1_029, 3])], data[[1_029, 3]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_030 * 20))
def test_a_killed_writing_goes_on_after_its_last_whole_chunk(tmp_path_factory, size):
    folder, asked, data = tmp_path_factory.mktemp("rows"), [], unit_rows(1_030, 5)
    (folder / "rows.f32").write_bytes(data.tobytes()[:size])

    def chunks(first):
        asked.append(first)
        return (data[k : k + 100] for k in range(first, len(data), 100))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 100)
        stored = write_descriptors(folder / "rows.f32", data.shape, chunks)
    np.testing.assert_array_equal(stored[:], data)
    rows = size // 20
    assert asked == ([] if rows == 1_030 else [rows - rows % 100])
