"""Rankings of all images by the fused system: every database image as a query of its own.

This is what the thesis learns from: no labels, only the agreement of words and of SIFT matches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from blcf_utils.config.finetuning import MiningConfig
from blcf_utils.config.profile import VerificationConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, atomic_path
from blcf_utils.ground.progress import progress
from blcf_utils.search.query import Ranking
from blcf_utils.search.sift.keypoints import SiftFeatures
from blcf_utils.search.sift.verification import verify

STAGE = Stage("image-rankings", version=1)
NOBODY = -1


class ImageRankings:
    """The best images of every database image.

    Attributes:
        images: (n, m) int32 image numbers, best first; -1 behind the last one.
        cosines: (n, m) float32 of the convolutional words.
        matches: (n, m) int32 verified SIFT matches.
        scores: (n, m) float32 fused.
        key: digest of what made them.
    """

    def __init__(self, artefact: Artefact, config: MiningConfig):
        self.artefact, self.key = artefact, artefact.key
        with np.load(artefact / "rankings.npz") as stored:
            self.images, self.cosines = stored["images"], stored["cosines"]
            self.matches = stored["matches"]
        self.scores = fused_scores(self.cosines, self.matches, config)

    def __len__(self) -> int:
        return len(self.images)


def fused_scores(cosines: np.ndarray, matches: np.ndarray, config: MiningConfig) -> np.ndarray:
    """Return the fused score of pairs of images, float32, same shape."""
    scores = config.word_weight * cosines + config.match_weight * matches
    return scores.astype(np.float32)


def images_as_queries(dataset: Dataset, left_out: np.ndarray | None = None) -> Dataset:
    """Return a dataset whose queries are its own database images, whole, but those left out."""
    skipped = set() if left_out is None else set(left_out.tolist())
    queries = (Query(_id(i), path, None, ()) for i, path in enumerate(dataset.images))
    return replace(dataset, queries=tuple(q for i, q in enumerate(queries) if i not in skipped))


def _id(image: int) -> str:
    return f"image {image}"


def rank_images(
    dataset: Dataset,
    search_words: Callable[[Dataset], Callable[[Query], Ranking]],
    search_sift: Callable[[Dataset], dict[str, Ranking]],
    sift: SiftFeatures,
    verification: VerificationConfig,
    config: MiningConfig,
    store: ArtefactStore,
    made_of: dict,
    left_out: np.ndarray | None = None,
) -> ImageRankings:
    """Rank the database for every one of its images with the fused system.

    The first ``config.images`` of the SIFT search are verified; those of the words' search join
    them with the matches they have, none if they were not verified. Killed, the verification goes
    on with the image it was at.

    Args:
        dataset: whose images are ranked.
        search_words: gives what ranks the whole database by words.
        search_sift: gives the SIFT rankings, at least ``config.images`` long each.
        sift: keypoints and descriptors.
        verification: which matches count; how many images is ``config.images``.
        config: recipe, how many images, weights.
        store: where artefacts live.
        made_of: what determines both searches, as JSON values.
        left_out: numbers of images that do not decode; their rankings are empty.
    """
    verification = verification.model_copy(update={"images": config.images})
    document = {
        **made_of,
        "verification": verification.document(),
        "recipe": config.recipe,
        # The order of the stored images, and which of them are kept, follow the weights.
        "weights": [config.word_weight, config.match_weight],
    }

    def make(folder: Path) -> None:
        queries = images_as_queries(dataset, left_out)
        by_sift = search_sift(queries)
        kept = folder / "inliers.bin"
        _, inliers = verify(queries, by_sift, sift, verification, "gs", kept)
        by_words = search_words(queries)
        asked = {query.id: query for query in queries.queries}
        rows = []
        for i in progress(range(len(dataset.images)), label="rankings of all images", unit="image"):
            query = asked.get(_id(i))
            rows.append(
                _merge(i, by_words(query), inliers[query.id], config)
                if query
                else _empty(2 * config.images)
            )
        images, cosines, matches = (np.stack(part) for part in zip(*rows, strict=True))
        with atomic_path(folder / "rankings.npz") as path:
            np.savez(path, images=images, cosines=cosines, matches=matches)
        kept.unlink(missing_ok=True)

    label = f"{dataset.name}-{config.recipe}"
    return ImageRankings(store.get_or_make(STAGE, label, document, make), config)


def _merge(image: int, by_words: Ranking, inliers: dict[int, int], config: MiningConfig):
    """Return the best images of one image, their cosines and matches, (2 * images,) each."""
    width = 2 * config.images
    cosines = np.empty(len(by_words.images), np.float32)
    cosines[by_words.images] = by_words.scores
    matches = np.zeros(len(cosines), np.int32)
    matches[list(inliers)] = list(inliers.values())
    # One more of each: the image itself is among them and leaves.
    first = by_words.images[: config.images + 1]
    some = np.union1d(first, np.array(sorted(inliers), np.int64)).astype(np.int64)
    some = some[some != image]
    scores = fused_scores(cosines[some], matches[some], config)
    best = some[np.argsort(-scores, kind="stable")][:width]
    found = _empty(width)
    for row, values in zip(found, (best, cosines[best], matches[best]), strict=True):
        row[: len(best)] = values
    return found


def _empty(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, cosines and matches of a ranking of nothing."""
    return np.full(width, NOBODY, np.int32), np.zeros(width, np.float32), np.zeros(width, np.int32)
