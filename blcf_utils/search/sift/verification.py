"""Geometric verification: do two images show the same flat surface from two viewpoints?

Descriptors that are each other's nearest, and clearly nearer than the second nearest (Lowe, IJCV
2004), are matches; those that agree on one homography are inliers. Their number says how surely
two images share something, and re-ranks the first images of a search (Philbin et al., CVPR 2007).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from blcf_utils.config.profile import VerificationConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.mapping import core_pool
from blcf_utils.ground.progress import progress
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking
from blcf_utils.search.sift.keypoints import SiftFeatures, query_keypoints

# A homography that enlarges or shrinks its inliers' surroundings more than this is an accident.
MOST_AREA_RATIO = 16.0
# Of an inlier: orders images of equally many, and is nothing beside a cosine in a fusion.
TIE_BREAK = 1e-3
_CONFIDENCE, _TRIALS = 0.995, 2000


@dataclass(frozen=True)
class LocalFeatures:
    """What verification needs of an image.

    Attributes:
        points: (m, 2) float32 x, y in pixels of the stored image.
        descriptors: (m, 128) float32 of unit length.
        shrunk: how many times longer the stored image is than the one SIFT saw.
    """

    points: np.ndarray
    descriptors: np.ndarray
    shrunk: float = 1.0


@dataclass(frozen=True)
class Matches:
    """Matched points of two images.

    Attributes:
        points_a: (m, 2) float32 in pixels of the first stored image.
        points_b: (m, 2) float32 the same points in the second.
        inliers: (m,) boolean, which agree on the homography; none if there is no good one.
    """

    points_a: np.ndarray
    points_b: np.ndarray
    inliers: np.ndarray

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def local_features(
    features: SiftFeatures, image: int, inside: np.ndarray | None = None
) -> LocalFeatures:
    """Return an image's keypoints and descriptors, or those that ``inside`` (m,) selects."""
    points, descriptors = features.keypoints(image)[:, :2], features.descriptors(image)
    if inside is not None:
        points, descriptors = points[inside], descriptors[inside]
    return LocalFeatures(points, descriptors, float(features.shrunk[image]))


def match_images(a: LocalFeatures, b: LocalFeatures, config: VerificationConfig) -> Matches:
    """Match the keypoints of two images and fit a homography to the matches.

    The homography is that of OpenCV's MAGSAC++ (Barath et al., CVPR 2020), whose fixed seed gives
    equal output for equal input. Distances are in pixels of the second image as SIFT saw it. A
    homography is refused, and nothing is an inlier, if fewer than ``config.least`` matches agree
    on it, or if it takes the rectangle around its inliers in the first image to anything but a
    convex, not mirrored quadrilateral of 1/16 to 16 times the rectangle's area.

    Args:
        a, b: the images.
        config: ratio, pixels, least.
    """
    rows, columns = _mutual_matches(a, b, config.ratio)
    points_a, points_b = a.points[rows], b.points[columns]
    inliers = _inliers(points_a / a.shrunk, points_b / b.shrunk, config)
    return Matches(points_a, points_b, inliers)


def shared_matches(
    features: SiftFeatures,
    a: int,
    b: int,
    config: VerificationConfig,
    inside: np.ndarray | None = None,
) -> int:
    """Return how many matches of two images of a dataset agree on a homography, 0 if too few.

    Args:
        features: of the dataset.
        a, b: image numbers.
        config: ratio, pixels, least.
        inside: which keypoints of ``a`` to match, boolean (m,); all when None.
    """
    first, second = local_features(features, a, inside), local_features(features, b)
    return match_images(first, second, config).count


def verify_ranking(
    query: LocalFeatures, ranking: Ranking, features: SiftFeatures, config: VerificationConfig
) -> tuple[Ranking, dict[int, int]]:
    """Re-rank the first ``config.images`` of a ranking, images with more inliers first.

    Args:
        query: local features of the query image or of its box.
        ranking: images best first.
        features: of the database.
        config: which matches count.

    Returns:
        The new ranking (see :func:`order_by_inliers`) and the inliers of each verified image.
    """
    with _Matcher(features, config) as matcher:
        counts = matcher.count(query, ranking)
    return order_by_inliers(ranking, counts), _named(ranking, counts)


def order_by_inliers(ranking: Ranking, counts: np.ndarray) -> Ranking:
    """Order a ranking by the inliers of its first images.

    The new score is the number of inliers (0 for the images not verified). Images of equally many
    keep their order by less than a thousandth of an inlier, in proportion to their first score.

    Args:
        ranking: (n,) images best first.
        counts: (m,) inliers of its first m images.
    """
    inliers = np.zeros(len(ranking.images))
    inliers[: len(counts)] = counts
    scores = np.asarray(ranking.scores, np.float64)
    span = np.ptp(scores) if len(scores) else 0.0
    shares = (scores - scores.min()) / span if span > 0 else np.zeros(len(scores))
    order = np.argsort(-inliers, kind="stable")
    return Ranking(ranking.images[order], (inliers + TIE_BREAK * shares)[order])


def verify(
    dataset: Dataset,
    rankings: Mapping[str, Ranking],
    features: SiftFeatures,
    config: VerificationConfig,
    mode: Mode,
    kept: Path | None = None,
) -> tuple[dict[str, Ranking], dict[str, dict[int, int]]]:
    """Re-rank the first ``config.images`` of every ranking (see :func:`verify_ranking`).

    Images with the same bytes are matched once.

    Args:
        dataset: queries.
        rankings: query id to ranking, all of one length.
        features: keypoints and descriptors of the dataset's images.
        config: how many images, which matches count; 0 images change nothing.
        mode: ``gs`` matches every keypoint of the query image, ``ls`` those in the mask or box.
        kept: a file that keeps the counts of every finished query: killed, it goes on from there,
            and a second time it only reads.

    Returns:
        Query id to new ranking, and query id to the inliers of each verified image.
    """
    queries = [query for query in dataset.queries if query.id in rankings]
    if config.images == 0 or not queries:
        return dict(rankings), {query: {} for query in rankings}
    width = min(config.images, *(len(rankings[query.id].images) for query in queries))
    counts = _read_counts(kept, width)[: len(queries)]
    todo = queries[len(counts) :]
    with _Matcher(features, config) as matcher:
        for query in progress(todo, label=f"verification {mode}", unit="query") if todo else ():
            inside = query_keypoints(dataset, query, features, mode)
            image = dataset.image_index[query.image]
            local = local_features(features, image, inside)
            counts.append(matcher.count(local, rankings[query.id], image, inside))
            if kept is not None:
                with open(kept, "ab") as file:
                    file.write(counts[-1].tobytes())
    pairs = {query.id: (rankings[query.id], c) for query, c in zip(queries, counts, strict=True)}
    return (
        {query: order_by_inliers(*pair) for query, pair in pairs.items()},
        {query: _named(*pair) for query, pair in pairs.items()},
    )


class _Matcher:
    """Matches queries with images in threads, one thread to each pair.

    What a query shares with an image it shares with every copy of it; and copies of a query image
    share the same with all.
    """

    def __init__(self, features: SiftFeatures, config: VerificationConfig):
        self.features, self.config = features, config
        copies = np.bincount(features.distinct, minlength=len(features.distinct))
        self.has_copies = copies[features.distinct] > 1
        self.known: dict[bytes, dict[int, int]] = {}

    def __enter__(self) -> _Matcher:
        self.cores = ExitStack()
        # Pairs, not matrix products, run in parallel.
        self.pool = self.cores.enter_context(core_pool(pool_threads()))
        return self

    def __exit__(self, *_) -> None:
        self.cores.close()

    def count(
        self,
        query: LocalFeatures,
        ranking: Ranking,
        image: int | None = None,
        inside: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the inliers of the first images of a ranking, (m,) int32.

        Args:
            query: local features of the query.
            ranking: images best first.
            image, inside: the number of the query's image and which of its keypoints take part,
                where they are known.
        """
        firsts = self.features.distinct[ranking.images[: self.config.images]].tolist()
        found: dict[int, int] = {}
        if image is not None and self.has_copies[image]:
            which = b"" if inside is None else hashlib.sha256(np.packbits(inside)).digest()
            found = self.known.setdefault(b"%d " % self.features.distinct[image] + which, found)
        todo = [first for first in dict.fromkeys(firsts) if first not in found]
        found |= zip(todo, self.pool.map(lambda i: self._match(query, i), todo), strict=True)
        return np.array([found[first] for first in firsts], np.int32)

    def _match(self, query: LocalFeatures, image: int) -> int:
        return match_images(query, local_features(self.features, image), self.config).count


def _named(ranking: Ranking, counts: np.ndarray) -> dict[int, int]:
    return {int(i): int(c) for i, c in zip(ranking.images, counts, strict=False)}


def _read_counts(kept: Path | None, width: int) -> list[np.ndarray]:
    """Return the counts of every query that was written whole, and cut a started one off."""
    if kept is None or not kept.exists() or width == 0:
        return []
    counts = np.fromfile(kept, np.int32)
    whole = len(counts) // width
    if counts.nbytes != kept.stat().st_size or len(counts) != whole * width:
        os.truncate(kept, whole * width * counts.itemsize)
    return list(counts[: whole * width].reshape(whole, width))


def _mutual_matches(
    a: LocalFeatures, b: LocalFeatures, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keypoint numbers of mutual nearest descriptors that pass the ratio test.

    A place with several orientations has several keypoints: it is matched at most once. One
    keypoint in ``b`` has no second nearest, so nothing matches.
    """
    if len(a.points) == 0 or len(b.points) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    similarity = a.descriptors @ b.descriptors.T
    every = np.arange(len(similarity))
    nearest = similarity.argmax(axis=1)
    mutual = similarity.argmax(axis=0)[nearest] == every
    best = similarity[every, nearest]
    similarity[every, nearest] = -1
    # Squared distances of unit vectors are 2 - 2 s.
    clear = 1 - best < ratio**2 * (1 - similarity.max(axis=1))
    rows = np.flatnonzero(mutual & clear)
    rows = rows[np.argsort(-best[rows], kind="stable")]
    for side in (lambda r: a.points[r], lambda r: b.points[nearest[r]]):
        _, kept = np.unique(side(rows), axis=0, return_index=True)
        rows = rows[np.sort(kept)]
    return rows, nearest[rows]


def _inliers(points_a: np.ndarray, points_b: np.ndarray, config: VerificationConfig) -> np.ndarray:
    none = np.zeros(len(points_a), bool)
    if len(points_a) < config.least:
        return none
    homography, mask = cv2.findHomography(
        points_a,
        points_b,
        cv2.USAC_MAGSAC,
        config.pixels,
        maxIters=_TRIALS,
        confidence=_CONFIDENCE,
    )
    if homography is None:
        return none
    inliers = mask.ravel().astype(bool)
    if inliers.sum() < config.least or not is_plausible(homography, points_a[inliers]):
        return none
    return inliers


def is_plausible(homography: np.ndarray, points: np.ndarray) -> bool:
    """Return whether a homography could be a camera's, around ``points`` (m, 2).

    It must take the rectangle around the points to a convex quadrilateral, not mirrored, of 1/16
    to 16 times its area. It is convex exactly if no horizon runs through the rectangle, and of
    negative area if mirrored.
    """
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    corners = np.array([(x1, y1, 1), (x2, y1, 1), (x2, y2, 1), (x1, y2, 1)], np.float64)
    mapped = corners @ homography.T
    depth = mapped[:, 2]
    if not (depth > 0).all() and not (depth < 0).all():
        return False
    x, y = (mapped[:, :2] / depth[:, None]).T
    area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    before = (x2 - x1) * (y2 - y1)
    return bool(before > 0 and before <= MOST_AREA_RATIO * area <= MOST_AREA_RATIO**2 * before)
