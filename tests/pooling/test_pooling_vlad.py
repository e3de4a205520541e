"""VLAD, NetVLAD and their codebooks: hand-worked values, slow loops, invariances, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.dense_codebook import learn_dense_codebook
from blcf_utils.pooling.maps import positions
from blcf_utils.pooling.netvlad import netvlad_alpha, netvlad_parameters, netvlad_pool
from blcf_utils.pooling.vlad import nearest_words, residual_sums, unit_positions, vlad_pool
from blcf_utils.words.whitening import fit_whitening

sizes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(2, 5))
seeds = st.integers(0, 9999)


def drawn(size, seed, batch=3):
    """Return maps (B, C, h, w), weights (B, h, w) with zeros, and centroids (K, C)."""
    channels, height, width, words = size
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(batch, channels, height, width)).astype(np.float32)
    weights = rng.random((batch, height, width), np.float32) * (rng.random(maps[:, 0].shape) < 0.7)
    return maps, weights, rng.normal(size=(words, channels)).astype(np.float32)


def pools(centroids):
    """Return both methods with these centroids."""
    return (
        lambda *given: vlad_pool(*given, centroids=centroids),
        lambda *given: netvlad_pool(*given, centroids=centroids, alpha=1.5),
    )


def slow_vlad(values, weights, centroids, power, intra):
    total = np.zeros(centroids.shape)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            local = values[:, y, x] / np.linalg.norm(values[:, y, x])
            word = min(range(len(centroids)), key=lambda k: ((local - centroids[k]) ** 2).sum())
            total[word] += weights[y, x] * (local - centroids[word])
    total = np.sign(total) * abs(total) ** power
    if intra:
        for word in total:
            word /= max(np.linalg.norm(word), 1e-12)
    return total.ravel() / max(np.linalg.norm(total), 1e-12)


def slow_netvlad(values, weights, centroids, alpha):
    total = np.zeros(centroids.shape)
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            local = values[:, y, x] / np.linalg.norm(values[:, y, x])
            shares = np.exp([-alpha * ((local - c) ** 2).sum() for c in centroids])
            for k, share in enumerate(shares / shares.sum()):
                total[k] += weights[y, x] * share * (local - centroids[k])
    for word in total:
        word /= max(np.linalg.norm(word), 1e-12)
    return total.ravel() / max(np.linalg.norm(total), 1e-12)


def test_vlad_of_three_descriptors_worked_by_hand():
    values = np.array([[3, 0, 0.6], [0, 2, 0.8]], np.float32)[:, None]  # (2, 1, 3)
    centroids = np.array([[1, 1], [0, 0.5], [-1, 0]], np.float32)
    # Units (1, 0), (0, 1), (.6, .8): the first and last are nearest (1, 1), the second (0, .5).
    sums = np.array([[-0.4, -1.2], [0, 0.5], [0, 0]])
    read = positions(values)
    unit = unit_positions(read, centroids)
    words = nearest_words(unit, centroids)
    assert words.tolist() == [[0, 1, 0]]
    found = residual_sums(unit, words, None, centroids)
    np.testing.assert_allclose(found[0], sums, atol=1e-6)
    pooled = vlad_pool(values, centroids=centroids)
    each = np.array([-0.4, -1.2]) / np.sqrt(1.6)
    np.testing.assert_allclose(pooled, np.array([*each, 0, 1, 0, 0]) / np.sqrt(2), atol=1e-6)
    plain = vlad_pool(values, centroids=centroids, intra=False)
    np.testing.assert_allclose(plain, sums.ravel() / np.sqrt(1.85), atol=1e-6)
    rooted = vlad_pool(values, centroids=centroids, power=0.5, intra=False)
    root = np.array([-np.sqrt(0.4), -np.sqrt(1.2), 0, np.sqrt(0.5), 0, 0])
    np.testing.assert_allclose(rooted, root / np.sqrt(2.1), atol=1e-6)


def test_netvlad_of_two_descriptors_worked_by_hand():
    values = np.array([[2, 0], [0, 5]], np.float32)[:, None]
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    # Squared distances are 0 and 2: shares 3/4 and 1/4 for exp(2 alpha) = 3.
    pooled = netvlad_pool(values, centroids=centroids, alpha=np.log(3) / 2)
    # Word 0: 1/4 of (0, 1) - (1, 0); word 1 the opposite; each normalised, then both.
    np.testing.assert_allclose(pooled, np.array([-0.5, 0.5, 0.5, -0.5]), atol=1e-6)
    weighted = netvlad_pool(values, np.array([[1, 0]]), centroids=centroids, alpha=np.log(3) / 2)
    # The first descriptor alone lies on its own word, which stays empty.
    np.testing.assert_allclose(weighted, [0, 0, np.sqrt(0.5), -np.sqrt(0.5)], atol=1e-6)


@given(sizes, seeds, st.sampled_from([1.0, 0.5]), st.booleans())
def test_vlad_is_the_slow_loop(size, seed, power, intra):
    maps, weights, centroids = drawn(size, seed)
    found = vlad_pool(maps, weights, centroids=centroids, power=power, intra=intra)
    assert (found.shape, found.dtype) == ((3, centroids.size), np.float32)
    for row, values, weight in zip(found, maps, weights, strict=True):
        expected = slow_vlad(values, weight, centroids.astype(float), power, intra)
        np.testing.assert_allclose(row, expected, atol=2e-3 if power < 1 else 2e-5)


@given(sizes, seeds, st.floats(0.1, 5))
def test_netvlad_is_the_slow_loop(size, seed, alpha):
    maps, weights, centroids = drawn(size, seed)
    maps *= np.exp(maps[:, :1])  # lengths do not matter
    found = netvlad_pool(maps, weights, centroids=centroids, alpha=alpha)
    assert (found.shape, found.dtype) == ((3, centroids.size), np.float32)
    for row, values, weight in zip(found, maps, weights, strict=True):
        expected = slow_netvlad(values, weight, centroids.astype(float), alpha)
        np.testing.assert_allclose(row, expected, atol=5e-4)


@given(sizes, seeds)
def test_batches_boxes_and_booleans(size, seed):
    maps, weights, centroids = drawn(size, seed)
    height, width = maps.shape[2:]
    rng = np.random.default_rng(seed)
    y0, x0 = rng.integers(height), rng.integers(width)
    y1, x1 = rng.integers(y0, height) + 1, rng.integers(x0, width) + 1
    box, crop = (y0, y1, x0, x1), (..., slice(y0, y1), slice(x0, x1))
    taking = np.zeros((height, width), bool)
    taking[crop] = True
    for pool in pools(centroids):
        every = pool(maps, weights)
        singles = [pool(one, w) for one, w in zip(maps, weights, strict=True)]
        np.testing.assert_allclose(every, singles, atol=1e-5)
        boxed = pool(maps, weights, box)
        np.testing.assert_allclose(boxed, pool(maps[crop], weights[crop]), atol=1e-6)
        np.testing.assert_allclose(pool(maps, taking), pool(maps, None, box), atol=1e-4)
        norms = np.linalg.norm(pool(maps), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


@given(sizes, seeds)
def test_channels_and_words_may_be_permuted(size, seed):
    maps, _, centroids = drawn(size, seed)
    rng = np.random.default_rng(seed)
    channels, words = rng.permutation(size[0]), rng.permutation(size[3])
    shuffled = centroids[words][:, channels]
    for one, other in zip(pools(centroids), pools(shuffled), strict=True):
        expected = one(maps).reshape(-1, *centroids.shape)[:, words][:, :, channels]
        found = other(maps[:, channels]).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        # Where a descriptor lies plays no part.
        np.testing.assert_allclose(one(maps[..., ::-1]), one(maps), atol=1e-4)


def test_sharp_netvlad_is_vlad():
    maps, weights, centroids = drawn((6, 5, 4, 4), 3)
    sharp = netvlad_pool(maps, weights, centroids=centroids, alpha=5000.0)
    np.testing.assert_allclose(sharp, vlad_pool(maps, weights, centroids=centroids), atol=1e-4)


def test_whitened_descriptors_are_those_of_the_whitening():
    maps, weights, _ = drawn((6, 5, 4, 4), 3, batch=8)
    rows = maps.transpose(0, 2, 3, 1).reshape(-1, 6)
    whitening = fit_whitening([rows], 4)
    centroids = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    white = whitening.apply(rows).reshape(8, 5, 4, 4).transpose(0, 3, 1, 2)
    for pool, options in ((vlad_pool, {}), (netvlad_pool, {"alpha": 2.0})):
        found = pool(maps, weights, centroids=centroids, whitening=whitening, **options)
        expected = pool(white, weights, centroids=centroids, **options)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(StudyError, match="whitening of 5 channels"):
        vlad_pool(maps[:, :5], centroids=centroids, whitening=whitening)


def test_a_dead_position_is_the_descriptor_zero():
    maps, _, centroids = drawn((3, 4, 4, 2), 0)
    maps[:, :, 1, 2] = 0
    centroids *= np.array([[1], [0.1]], np.float32)  # the second word is nearest to 0
    dead = np.zeros((4, 4))
    dead[1, 2] = 2
    unit = -centroids[1] / np.linalg.norm(centroids[1])
    found = vlad_pool(maps, dead, centroids=centroids)
    np.testing.assert_allclose(found, [[0, 0, 0, *unit]] * 3, atol=1e-6)
    soft = netvlad_pool(maps, dead, centroids=centroids, alpha=1.0)
    both = -centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    np.testing.assert_allclose(soft, [both.ravel() / np.sqrt(2)] * 3, atol=1e-6)


def test_nothing_that_weighs_anything_is_zero():
    maps, _, centroids = drawn((3, 4, 4, 2), 0)
    for pool in pools(centroids):
        assert not pool(maps, np.zeros((4, 4))).any()


@pytest.mark.parametrize("ratio", [10.0, 100.0])
def test_alpha_gives_a_typical_descriptor_its_ratio(ratio):
    rng = np.random.default_rng(5)
    centroids = rng.normal(size=(6, 8)).astype(np.float32)
    one = normalise_rows(rng.normal(size=(1, 8)).astype(np.float32))
    alpha = netvlad_alpha(one, centroids, ratio)
    shares = np.exp(-alpha * ((one - centroids) ** 2).sum(axis=1, dtype=float))
    first, second = np.sort(shares)[:-3:-1]
    assert first / second == pytest.approx(ratio, rel=1e-3)
    many = normalise_rows(rng.normal(size=(50, 8)).astype(np.float32))
    near = np.sort(((many[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    gap = (near[:, 1] - near[:, 0]).mean()
    assert netvlad_alpha(many, centroids, ratio) == pytest.approx(np.log(ratio) / gap, rel=1e-4)


@pytest.mark.parametrize("prefix", ["", "pool.", "module.net_vlad."])
@pytest.mark.parametrize("biased", [True, False])
def test_trained_layers_are_read_and_used(prefix, biased):
    maps, _, centroids = drawn((5, 4, 3, 4), 1)
    layer = torch.nn.Conv2d(5, 4, 1, bias=biased)
    state = {
        f"{prefix}conv.{key}": value for key, value in layer.state_dict(keep_vars=True).items()
    }
    state[f"{prefix}centroids"] = torch.nn.Parameter(torch.from_numpy(centroids))
    state["encoder.conv.weight"] = torch.zeros(7, 3, 3, 3)
    read, (planes, bias) = netvlad_parameters(state)
    assert planes.shape == (4, 5)
    assert bias.any() == biased
    found = netvlad_pool(maps, centroids=read, assignment=(planes, bias))
    with torch.no_grad():  # the layer as it is defined, in torch
        unit = torch.nn.functional.normalize(torch.from_numpy(maps), dim=1)
        shares = layer(unit).softmax(dim=1).flatten(2)
        apart = unit.flatten(2)[:, None] - torch.from_numpy(centroids)[None, :, :, None]
        sums = torch.nn.functional.normalize((apart * shares[:, :, None]).sum(dim=3), dim=2)
        expected = torch.nn.functional.normalize(sums.flatten(1), dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_assignment_of_alpha_is_that_of_its_planes():
    maps, weights, centroids = drawn((5, 4, 3, 4), 1)
    planes = (2 * 3.0 * centroids, -3.0 * (centroids**2).sum(axis=1))
    np.testing.assert_allclose(
        netvlad_pool(maps, weights, centroids=centroids, assignment=planes),
        netvlad_pool(maps, weights, centroids=centroids, alpha=3.0),
        atol=1e-5,
    )


def layer_state(**changed):
    arrays = {"centroids": np.ones((4, 5)), "conv.weight": np.ones((4, 5, 1, 1))}
    return {key: value for key, value in (arrays | changed).items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (layer_state(centroids=None), "expected one centroids .* found 0"),
        (layer_state(**{"conv.weight": None}), "found 0"),
        (layer_state(**{"a.centroids": 0, "a.conv.weight": 0}), "found 2"),
        (layer_state(**{"conv.weight": np.ones((5, 4, 1, 1))}), r"found \(4, 5\), \(5, 4, 1, 1\)"),
        (layer_state(**{"conv.bias": np.ones(5)}), r"\(5,\)"),
        (layer_state(centroids=np.full((4, 5), np.nan)), "finite"),
    ],
)
def test_broken_layers_are_refused(state, message):
    with pytest.raises(StudyError, match=message):
        netvlad_parameters(state)


def test_wrong_settings_are_refused():
    maps, _, centroids = drawn((5, 4, 3, 4), 1)
    planes = (centroids, np.zeros(4))
    for options, message in [
        ({}, "neither"),
        ({"alpha": 1.0, "assignment": planes}, "both"),
        ({"assignment": (centroids[:3], np.zeros(3))}, "assignment weights"),
        ({"assignment": (centroids, np.zeros(3))}, r"bias \(4,\)"),
    ]:
        with pytest.raises(StudyError, match=message):
            netvlad_pool(maps, centroids=centroids, **options)
    for pool in pools(centroids[:, :4]):
        with pytest.raises(StudyError, match=r"centroids \(K, 5\)"):
            pool(maps)
    for power in (0, -1, 1.5):
        with pytest.raises(StudyError, match="power"):
            vlad_pool(maps, centroids=centroids, power=power)
    unit = np.eye(5, dtype=np.float32)
    for arguments, message in [
        ((unit, centroids[:1]), "two centroids"),
        ((unit[:0], centroids), "two centroids"),
        ((unit[:, :4], centroids), "5 values"),
        ((unit, centroids, 1.0), "ratio above 1"),
        ((unit, centroids[[0, 0]]), "differ"),
    ]:
        with pytest.raises(StudyError, match=message):
            netvlad_alpha(*arguments)


def test_codebooks_are_learned_on_normalised_database_descriptors(toy_stages, store):
    features = toy_stages.features
    book = learn_dense_codebook(features, 7, store, seed=1)
    again = learn_dense_codebook(features, 7, store, seed=1)
    assert (book.words, book.n_descriptors) == (7, min(7 * 256, len(features.database_rows())))
    assert learn_dense_codebook(features, 2, store).n_descriptors == 512
    assert again.key == book.key
    assert (np.diff(book.objective) <= 1e-3).all()
    assert (np.linalg.norm(book.centroids, axis=1) <= 1 + 1e-5).all()  # means of unit vectors
    rows = next(features.stream(features.database_rows()))
    unit = normalise_rows(rows)
    near = ((unit[:, None] - book.centroids) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest_words(unit[None], book.centroids)[0], near)
    vectors = vlad_pool(features.map(0), centroids=book.centroids)
    assert vectors.shape == (7 * features.channels,)


def test_codebooks_of_whitened_descriptors_are_others(toy_stages, store):
    features, whitening = toy_stages.features, toy_stages.whitening
    plain = learn_dense_codebook(features, 5, store)
    white = learn_dense_codebook(features, 5, store, whitening=whitening)
    assert white.centroids.shape == (5, whitening.dimensions)
    assert white.key != plain.key
    pooled = vlad_pool(features.map(0), centroids=white.centroids, whitening=whitening)
    assert pooled.shape == (5 * whitening.dimensions,)
    every = len(features.database_rows())
    with pytest.raises(StudyError, match=f"cannot be learned from the {every} descriptors"):
        learn_dense_codebook(features, every + 1, store)
