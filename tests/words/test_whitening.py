"""PCA whitening: against scikit-learn, streamed as at once, dead channels, degenerate input."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from blcf_utils.config.profile import WhiteningConfig
from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.whitening import fit_whitening, learn_whitening


def descriptors(n=2000, channels=24, seed=0):
    """Correlated, non-negative and of varying length, as after a ReLU."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, channels)) @ rng.normal(size=(channels, channels)) + 1
    return (np.maximum(rows, 0) * rng.uniform(0.1, 10, (n, 1))).astype(np.float32)


def test_whitening_is_scikit_learn_s_up_to_signs():
    data = descriptors()
    whitening = fit_whitening([data], 10)
    unit = data.astype(np.float64) / np.linalg.norm(data.astype(np.float64), axis=1, keepdims=True)
    pca = PCA(10, whiten=True, svd_solver="full").fit(unit)
    expected = pca.transform(unit)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = whitening.apply(data)
    expected *= np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(whitening.variances[:10], pca.explained_variance_, rtol=2e-3)
    np.testing.assert_allclose(whitening.mean, pca.mean_, atol=1e-6)
    assert (whitening.dimensions, whitening.n_vectors) == (10, 2000)


def test_before_the_second_normalisation_the_covariance_is_the_identity():
    data = descriptors(5000)
    whitening = fit_whitening([data], 24)
    projected = (normalise_rows(data) - whitening.mean).astype(np.float64) @ whitening.projection
    np.testing.assert_allclose(np.cov(projected.T), np.eye(24), atol=5e-3)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(whitening.apply(data), axis=1), 1, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 1999), max_size=6))
def test_chunks_of_any_size_teach_the_same(cuts):
    data = descriptors()
    whole = fit_whitening([data], 12)
    streamed = fit_whitening(np.split(data, sorted(set(cuts))), 12)
    np.testing.assert_allclose(streamed.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(streamed.apply(data), whole.apply(data), atol=2e-3)
    assert streamed.n_vectors == whole.n_vectors


def test_signs_do_not_depend_on_the_order_of_the_vectors():
    data = descriptors()
    shuffled = data[np.random.default_rng(1).permutation(len(data))]
    first, second = fit_whitening([data], 12), fit_whitening([shuffled], 12)
    np.testing.assert_allclose(first.projection, second.projection, rtol=0.01, atol=0.05)


def test_dead_and_dependent_channels_are_left_out(caplog):
    data = descriptors(4000)
    mixed = data @ np.random.default_rng(2).uniform(0, 1, (24, 10)).astype(np.float32)
    wide = np.concatenate([data, np.zeros((4000, 6), np.float32), data[:, :3], mixed], axis=1)
    with caplog.at_level(logging.WARNING, "blcf"):
        whitening = fit_whitening([wide], 40)
    assert whitening.dimensions == 24
    assert "keeps 24 of 40 directions" in caplog.text
    assert whitening.projection.shape == (43, 24)
    caplog.clear()
    every = fit_whitening([wide], None)  # as many as there are: nothing to tell
    np.testing.assert_array_equal(every.projection, whitening.projection)
    assert not caplog.text
    assert fit_whitening([data[:9]], None).dimensions == 8  # of nine vectors
    found = whitening.apply(wide)
    assert np.isfinite(found).all()
    assert np.abs(whitening.projection[24:30]).max() < 1e-3 * np.abs(whitening.projection).max()


def test_a_descriptor_of_zeros_is_whitened_like_any_other():
    whitening = fit_whitening([descriptors()], 8)
    found = whitening.apply(np.zeros((2, 24)))
    expected = -whitening.mean @ whitening.projection
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_scale_does_not_matter():
    data, whitening = descriptors(), fit_whitening([descriptors()], 8)
    np.testing.assert_allclose(whitening.apply(data), whitening.apply(37 * data), atol=1e-4)


@pytest.mark.parametrize(
    ("data", "dimensions", "message"),
    [
        (descriptors(), 25, r"25 is more than the 24 channels"),
        (descriptors(10), 10, r"10 directions cannot be learned from 10 vectors"),
        (np.ones((50, 4), np.float32), 2, r"the 50 vectors are all equal"),
        (np.zeros((50, 4), np.float32), 2, r"the 50 vectors are all equal"),
    ],
)
def test_what_cannot_be_learned_is_said(data, dimensions, message):
    with pytest.raises(StudyError, match=message):
        fit_whitening([data], dimensions)


def test_learning_uses_the_database_s_descriptors_and_is_found_again(toy_stages):
    features, store = toy_stages.features, toy_stages.store
    data = np.concatenate([features.descriptors(i) for i in range(features.n_database)])
    expected = fit_whitening([data], 64)
    np.testing.assert_allclose(toy_stages.whitening.mean, expected.mean, atol=1e-6)
    assert toy_stages.whitening.n_vectors == len(data)
    sampled = WhiteningConfig(dimensions=16, max_descriptors=500)
    first = learn_whitening(features, sampled, store, seed=1)
    again = learn_whitening(features, sampled, store, seed=1)
    other = learn_whitening(features, sampled, store, seed=2)
    assert first.n_vectors == 500
    assert first.key == again.key != other.key
    np.testing.assert_array_equal(first.projection, again.projection)
    assert not np.allclose(first.mean, other.mean, atol=1e-5)


LEARN_FROM_A_FILE = """
import sys
import numpy as np
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.features.rows import sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.words.whitening import fit_whitening
features = object.__new__(Features)
count = int(sys.argv[2])
features._rows = np.memmap(sys.argv[1], np.float16, "r", shape=(count, 64))
rows = np.arange(count)
fit_whitening(features.stream(rows[:100_000]), 32)
before = peak_memory_mb()
fit_whitening(features.stream(rows), 32)
fit_whitening(features.stream(sample_rows(rows, count // 2, 0)), 32)
print(peak_memory_mb() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_descriptors(tmp_path):
    count = 2_000_000  # 256 MB
    rows = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float16)
    with open(tmp_path / "rows", "wb") as file:
        for _ in range(count // len(rows)):
            file.write(rows.tobytes())
    command = [sys.executable, "-c", LEARN_FROM_A_FILE, str(tmp_path / "rows"), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # of which 32 are the numbers of the rows, twice
