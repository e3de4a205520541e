"""Streamed k-means against faiss' own, from memory and a file; stopped anywhere, same bytes."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from blcf_utils.ground.errors import StudyError
from blcf_utils.words import kmeans as module
from blcf_utils.words.kmeans import (
    DescriptorFile,
    KMeansState,
    _Draws,
    _TorchStep,
    fit_kmeans,
    write_descriptors,
)


def unit_rows(n, dimensions, distinct=None, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(distinct or n, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[rng.integers(0, distinct, n)] if distinct else rows


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
    # Halves of a split cluster are nearly tied: their last bits, and with them the next split, may
    # differ between two calls of faiss on several threads.
    with threadpool_limits(1 if distinct else None):
        compare_with_faiss(tmp_path, n, words, dimensions, distinct)


def compare_with_faiss(tmp_path, n, words, dimensions, distinct):
    data = unit_rows(n, dimensions, distinct)
    drawn = np.sort(np.random.default_rng(3).choice(n, words, replace=False))
    kmeans = faiss.Kmeans(
        dimensions, words, niter=1, min_points_per_centroid=1, max_points_per_centroid=n
    )
    expected, objective = data[drawn], []
    for _ in range(2):
        kmeans.train(data, init_centroids=expected)
        expected = kmeans.centroids.copy()
        objective.append(kmeans.obj[-1])
    for source in (data, in_file(tmp_path, data)):
        found, gained = fit_kmeans(source, words, 2, seed=3)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(gained, objective)


def test_random_numbers_are_those_of_faiss():
    theirs, ours = faiss.RandomGenerator(1234), _Draws()
    for number in (1, 5, 70_000, 3):
        peeked = ours.peek(number).copy()
        expected = np.array([theirs.rand_float() for _ in range(number)], np.float32)
        np.testing.assert_array_equal(peeked, expected)
        ours.skip(number)


@pytest.mark.usefixtures("many_chunks")
@pytest.mark.parametrize("assignment", ["exact", "hnsw", "ivf"])
@pytest.mark.parametrize("stop", [0, 3, 7, 11, 16])
def test_killed_between_any_two_chunks_it_ends_with_the_same_bytes(tmp_path, assignment, stop):
    data = in_file(tmp_path, unit_rows(500, 8, 200))
    how = {"seed": 2, "assignment": assignment, "effort": 2}
    expected, objective = fit_kmeans(data, 90, 3, **how)
    saved, saves = tmp_path / "state.npz", []

    class Killed(Exception):
        pass

    def save(state):
        state.save(saved)
        saves.append(state.row)
        if len(saves) == stop + 1:
            raise Killed

    def iteration(state):
        state.save(saved)

    how |= {"save": save, "save_every": 0.0, "on_iteration": iteration}
    with pytest.raises(Killed):
        fit_kmeans(data, 90, 3, **how)
    state = KMeansState.load(saved)
    assert state.row == saves[-1] > 0
    found, resumed = fit_kmeans(data, 90, 3, state=state, **how)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(resumed, objective)
    assert len(saves) == 3 * 7  # every chunk once: nothing was done twice


@pytest.mark.usefixtures("many_chunks")
def test_chunks_change_the_objective_by_rounding_only(monkeypatch):
    data = unit_rows(3_000, 16)
    chunked = fit_kmeans(data, 40, 6, seed=1)[1]
    monkeypatch.setattr(module, "_READ", 16_384)
    whole = fit_kmeans(data, 40, 6, seed=1)[1]
    np.testing.assert_allclose(chunked, whole, rtol=1e-5)


@pytest.mark.usefixtures("many_chunks")
def test_very_many_distances_are_added_up_in_float64(monkeypatch):
    data = unit_rows(3_000, 16)
    start = data[:40].copy()
    nearest = ((data.astype(np.float64)[:, None] - start[None]) ** 2).sum(2).min(1).sum()
    in_float32 = fit_kmeans(data, 40, 1, state=KMeansState(start))[1][0]
    monkeypatch.setattr(module, "_FLOAT32_SUM_UP_TO", 2_999)
    in_float64 = fit_kmeans(data, 40, 1, state=KMeansState(start))[1][0]
    assert np.float32(in_float32) == in_float32
    assert np.float32(in_float64) != in_float64
    assert in_float64 == pytest.approx(nearest, rel=1e-6)


@pytest.mark.parametrize("at_once", [700, 32_000_000])
@pytest.mark.parametrize(("n", "words", "dimensions"), [(2_000, 40, 16), (900, 200, 64)])
def test_torch_gives_what_faiss_gives(monkeypatch, n, words, dimensions, at_once):
    """The path of a GPU, here on a CPU."""
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    data = unit_rows(n, dimensions)
    _, objective = fit_kmeans(data, words, 4, seed=5)
    steps = []

    def make(centroids, assignment, effort, device):
        steps.append(device)
        return _TorchStep(centroids, "cpu")

    monkeypatch.setattr(module, "_make_step", make)
    _, gained = fit_kmeans(data, words, 4, seed=5, device="cuda")
    assert steps == ["cuda"] * len(gained)
    np.testing.assert_allclose(gained, objective, rtol=1e-3)
    assert gained[0] == pytest.approx(objective[0], rel=1e-6)
    first, second = (fit_kmeans(data, words, 1, seed=5, device="cuda")[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    monkeypatch.undo()
    one = fit_kmeans(data, words, 1, seed=5)[0]
    apart = np.abs(first - one).max(axis=1)
    assert (apart < 1e-5).mean() > 0.95  # a tie moves two words


@pytest.mark.usefixtures("many_chunks")
def test_torch_goes_on_from_saved_sums(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_make_step", lambda c, *_: _TorchStep(c, "cpu"))
    data, saves = unit_rows(500, 8), []
    expected, _ = fit_kmeans(data, 30, 2, seed=2)

    def save(state):
        saves.append(tmp_path / f"{len(saves)}.npz")
        state.save(saves[-1])

    fit_kmeans(data, 30, 2, seed=2, save=save, save_every=0.0)
    for path in saves:
        found, _ = fit_kmeans(data, 30, 2, seed=2, state=KMeansState.load(path))
        np.testing.assert_array_equal(found, expected)


def test_a_gpu_is_used_where_one_is_asked_for_and_only_for_exact_assignment(monkeypatch):
    made = []
    monkeypatch.setattr(module, "_TorchStep", lambda c, device: made.append(device))
    centroids = unit_rows(20, 8)
    module._make_step(centroids, "exact", 0, "cuda")
    assert isinstance(module._make_step(centroids, "exact", 0, "cpu"), module._Step)
    assert isinstance(module._make_step(centroids, "ivf", 0, "cuda"), module._Step)
    assert made == ["cuda"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["hnsw", "ivf"]))
def test_the_approximate_objective_never_rises_without_empty_clusters(seed, assignment):
    data = unit_rows(400, 12, seed=seed)
    filled = []
    _, objective = fit_kmeans(
        data, 25, 8, seed=seed, assignment=assignment, effort=1,
        on_iteration=lambda state: filled.append(len(np.unique(state.words)) == 25),
    )  # fmt: skip
    for k in range(1, len(objective)):
        if filled[k - 1]:
            assert objective[k] <= objective[k - 1] * (1 + 1e-5)


def test_a_missed_word_does_not_replace_a_nearer_one():
    """An index that always says word 0 changes nothing after a right first assignment."""
    data = unit_rows(300, 8)
    centroids = data[:10].copy()
    right = ((data[:, None] - centroids[None]) ** 2).sum(2)

    class Zero:
        def search(self, rows):
            return np.zeros(len(rows), np.int64), ((rows - centroids[0]) ** 2).sum(1)

    step = module._Step(centroids, Zero())
    step.open(np.zeros_like(centroids), np.zeros(10, np.float32))
    words, distances = step.add(data, right.argmin(1).astype(np.int32))
    np.testing.assert_array_equal(words, right.argmin(1))
    np.testing.assert_allclose(distances, right.min(1), atol=1e-5)
    np.testing.assert_array_equal(step.sums()[1], np.bincount(right.argmin(1), minlength=10))


def test_a_file_is_read_as_written_and_a_cut_one_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READ", 100)
    data = unit_rows(1_030, 5)
    stored = in_file(tmp_path, data)
    for first in (0, 100, 900, 1_030):
        parts = list(stored.chunks(first))
        assert [start for start, _ in parts] == list(range(first, 931, 100))
        rows = np.concatenate([np.empty((0, 5), np.float32), *(rows for _, rows in parts)])
        np.testing.assert_array_equal(rows, data[first:])
    np.testing.assert_array_equal(stored.rows(np.array([1_029, 3])), data[[1_029, 3]])
    with open(stored.path, "r+b") as file:
        file.truncate(1_020 * 20)
    with pytest.raises(StudyError, match=r"rows\.f32: cut short"):
        list(DescriptorFile(stored.path, data.shape).chunks())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_030 * 20))
def test_a_killed_writing_goes_on_after_its_last_whole_chunk(tmp_path_factory, size):
    folder, asked = tmp_path_factory.mktemp("rows"), []
    data, whole = unit_rows(1_030, 5), module.CHUNK
    module.CHUNK = 100
    try:
        (folder / "rows.f32").write_bytes(data.tobytes()[:size])

        def chunks(first):
            asked.append(first)
            return (data[k : k + 100] for k in range(first, len(data), 100))

        stored = write_descriptors(folder / "rows.f32", data.shape, chunks)
    finally:
        module.CHUNK = whole
    np.testing.assert_array_equal(stored.rows(np.arange(1_030)), data)
    rows = size // 20
    assert asked == ([] if rows == 1_030 else [rows - rows % 100])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_descriptors_that_are_not_finite_are_refused(value):
    data = unit_rows(200, 8)
    data[150, 3] = value
    with pytest.raises(StudyError, match="not finite"):
        fit_kmeans(data, 10, 3)
