"""Database-side augmentation and k-reciprocal re-ranking against plain sets and loops."""

import numpy as np
import pytest

from blcf_utils.features.rows import normalise_rows
from blcf_utils.pooling.compared import neighbours
from blcf_utils.pooling.compared.neighbours import Reciprocal, augment_database, nearest


def drawn_vectors(count, groups, seed):
    """Unit vectors around a few centres, so that neighbours are shared."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 12))
    noise = 0.6 * rng.normal(size=(count, 12))
    return normalise_rows((centres[rng.integers(groups, size=count)] + noise).astype(np.float32))


def slow_reciprocal(vectors, query, k1=20, k2=6, share=0.3):
    """The paper's distance of a query to every image, set by set and value by value."""
    everyone = range(len(vectors))

    def squared(a, b):
        return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))

    between = [[squared(a, b) for b in vectors] for a in vectors]
    to = [squared(query, b) for b in vectors]

    def neighbours_of(i, k):
        others = sorted((j for j in everyone if j != i), key=lambda j: between[i][j])
        return [i, *others[:k]]

    def mutual(i, k):
        return {j for j in neighbours_of(i, k) if i in neighbours_of(j, k)}

    def extended(found):
        whole = set(found)
        for j in found:
            closer = mutual(j, k1 // 2)
            if len(closer & found) > 2 / 3 * len(closer):
                whole |= closer
        return whole

    def encoding(members, distances):
        largest = max(distances)
        weights = {j: np.exp(-distances[j] / largest) for j in members}
        row = np.zeros(len(vectors))
        for j, weight in weights.items():
            row[j] = weight / sum(weights.values())
        return row

    own = [encoding(extended(mutual(i, k1)), between[i]) for i in everyone]
    averaged = [np.mean([own[j] for j in neighbours_of(i, k2 - 1)], axis=0) for i in everyone]
    order = sorted(everyone, key=lambda j: to[j])
    found = {j for j in order[:k1] if to[j] <= max(between[j][i] for i in neighbours_of(j, k1))}
    mine = encoding(extended(found), to) if found else np.zeros(len(vectors))
    mine = np.mean([mine, *(own_ for own_ in (averaged[j] for j in order[: k2 - 1]))], axis=0)
    distances = []
    for j in everyone:
        jaccard = 1 - np.minimum(mine, averaged[j]).sum() / np.maximum(mine, averaged[j]).sum()
        distances.append((1 - share) * jaccard + share * to[j] / max(to))
    return np.array(distances)


@pytest.mark.parametrize(("count", "groups", "seed"), [(70, 3, 0), (60, 6, 1), (40, 1, 2)])
def test_reciprocal_ranking_is_that_of_the_formulas(monkeypatch, count, groups, seed):
    monkeypatch.setattr(neighbours, "_CHUNK", 16)
    vectors = drawn_vectors(count + 3, groups, seed)
    database, queries = vectors[3:], vectors[:3]
    ready, moved = Reciprocal(database), 0
    np.testing.assert_allclose(ready.encodings.sum(axis=1), 1, rtol=1e-6)
    for query in (*queries, database[5], -queries[0]):  # the last is nobody's neighbour
        expected = slow_reciprocal(database, query)
        found = ready.rank(query)
        np.testing.assert_allclose(-found.scores, expected[found.images], atol=2e-5)
        assert (np.diff(found.scores) <= 0).all()
        moved += (found.images != np.argsort(-(database @ query), kind="stable")).any()
    assert moved  # it is not the ranking by cosine


def test_nearest_has_each_image_first_even_beside_its_copies():
    vectors = drawn_vectors(30, 4, 3)
    vectors[7] = vectors[20]
    numbers, cosines, least = nearest(vectors, 4)
    assert numbers[:, 0].tolist() == list(range(30))
    assert numbers[20, 1] == 7
    assert numbers[7, 1] == 20
    everything = vectors @ vectors.T
    np.testing.assert_allclose(least, everything.min(axis=1), atol=1e-6)
    np.fill_diagonal(everything, -2)
    np.testing.assert_allclose(cosines[:, 1:], -np.sort(-everything, axis=1)[:, :4], atol=1e-6)
    assert nearest(vectors[:3], 10)[0].shape == (3, 3)


def test_augmentation_adds_neighbours_by_their_rank():
    # The neighbours of the first: the second at cosine .8, then the third at .6.
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, -0.8], [-1, 0]], np.float32)
    expected = vectors[0] + 2 / 3 * vectors[1] + 1 / 3 * vectors[2]
    found = augment_database(vectors, 2)
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(augment_database(vectors, 0), vectors, rtol=1e-6)
