"""Spatial re-ranking (R): the best window of each of the first images, its score and its place.

Every window of an image's assignment map is compared with the query: the cosine of their
histograms, and that of each quarter of the window with the same quarter of the query (Mohedano
et al., ICMR 2016, sections 4 and 5.2).

What the paper leaves open is decided here as follows, with the first three as options: windows are
compared with the query's box, also after a global search (only so does re-ranking lift it as
published); the four cosines of the quarters are averaged; the whole counts 1/2 and the quarters 1.
Each region is L2-normalised on its own, and a query is split at the middle of the rectangle
around its cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba
import numpy as np

from blcf_utils.config.profile import RerankingConfig
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.query import Ranking, Region
from blcf_utils.search.windows import Window, WindowPlan, quarters, window_plan
from blcf_utils.words.assignment_maps import AssignmentMaps
from blcf_utils.words.histograms import Sparse, sparse_histogram

WeightMaps = Callable[[int], np.ndarray]

# Weights become whole numbers up to this one: sums and differences of them are exact in float64,
# so a region without weight has a norm of exactly zero.
WEIGHT_LEVELS = 2.0**30
# Counters of an image's words are padded to whole turns of the vectorised loop.
LANES = 32


@dataclass(frozen=True)
class RegionQuery:
    """What windows are compared with.

    Attributes:
        whole: distinct words and their unit-length weights in the whole region, (m,) each.
        quarters: the same of its quarters, in the order of :func:`windows.quarters`; without
            words where a quarter has no cells.
        aspect: width / height of the region in pixels.
    """

    whole: Sparse
    quarters: tuple[Sparse, ...]
    aspect: float


@dataclass(frozen=True)
class Localised:
    """A re-ranked ranking and where its first images match.

    Attributes:
        ranking: the images, best first.
        cells: re-ranked image to its best window (y0, y1, x0, x1) in cells of its map.
    """

    ranking: Ranking
    cells: dict[int, Window]


def region_query(views: Sequence[Region], size: tuple[int, int]) -> RegionQuery:
    """Return the query made of the marked cells of one or several views of the query image.

    The words of all views are put together before normalising, those of a view's quarter with
    those of the others' same quarter. A view's quarters split the rectangle around its own
    marked cells; a view without marked cells adds nothing.

    Args:
        views: assignment map (h, w) and boolean cells (h, w) of each view. The first with marked
            cells determines the aspect ratio.
        size: (width, height) of the image in pixels, the same for every view.

    Raises:
        StudyError: no view has marked cells.
    """
    wholes, parts, aspect = [], [[], [], [], []], None
    for words, cells in views:
        if not cells.any():
            continue
        ys, xs = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
        rectangle = np.array([[ys[0], ys[-1] + 1, xs[0], xs[-1] + 1]])
        if aspect is None:
            aspect = float(_aspects(rectangle)[0]) * _cell_aspect(size, words.shape)
        wholes.append(words[cells])
        for part, (y0, y1, x0, x1) in zip(parts, quarters(rectangle)[0], strict=True):
            part.append(words[y0:y1, x0:x1][cells[y0:y1, x0:x1]])
    if aspect is None:
        raise StudyError(
            "query region: expected at least one cell of the query's map, found none; "
            "check the query's box"
        )
    return RegionQuery(
        sparse_histogram(np.concatenate(wholes)),
        tuple(sparse_histogram(np.concatenate(part)) for part in parts),
        aspect,
    )


def rerank(
    ranking: Ranking,
    query: RegionQuery,
    maps: AssignmentMaps,
    config: RerankingConfig,
    weights: WeightMaps | None = None,
    factors: np.ndarray | None = None,
) -> Localised:
    """Order the first images of a ranking by their best window.

    The score of a window is the cosine with the whole query and, with ``config.pyramid``, that of
    its quarters with the query's, averaged (or their maximum) over the quarters in which the
    query has words; ``config.level_weights`` weigh the two. Windows whose aspect ratio in pixels
    is too far from the query's are discarded; an image that has no other is compared as a whole.
    Among equal windows the first of :func:`windows.window_grid` is taken.

    Args:
        ranking: of database images, from the first search.
        query: of the same codebook.
        maps: assignment maps of the database; an image without one (left out as unreadable) goes
            to the end of the re-ranked images with score 0.
        config: the first ``config.images`` of the ranking are re-ranked.
        weights: function from an image's number to its (h, w) weight map, none below 0; None
            gives every position weight 1.
        factors: (K,) factor of each word (idf) in windows and in the query.

    Returns:
        Re-ranked images, then the others in their order; equal scores keep their order, too. The
        scores of the others are scaled down, when the first of them is above the last of the
        re-ranked, so far that scores never rise along the ranking.

    Raises:
        StudyError: words of another codebook, a weight map of another shape, not finite or below
            0, weights of the pyramid's levels below 0 or all 0.
    """
    head = np.asarray(ranking.images[: config.images], np.int64)
    lookup = _Lookup.of(query, maps.words, config, factors)
    scores, cells = np.zeros(len(head), np.float32), {}
    for shape, positions in _by_shape(maps, head).items():
        images = head[positions]
        plan = window_plan(shape, tuple(config.sizes), config.pyramid)
        scores[positions], best = _score_images(images, plan, query, maps, config, lookup, weights)
        places = plan.windows[best].tolist()
        cells |= {int(i): tuple(place) for i, place in zip(images, places, strict=True)}
    missing = np.array([int(i) not in cells for i in head], bool)
    order = np.lexsort((-scores, missing))
    tail = _below(ranking.scores[config.images :], scores[order])
    images = np.concatenate([head[order], ranking.images[config.images :]])
    return Localised(Ranking(images, np.concatenate([scores[order], tail])), cells)


def _by_shape(maps: AssignmentMaps, images: np.ndarray) -> dict[tuple[int, int], list[int]]:
    groups = defaultdict(list)
    for position, (height, width) in enumerate(maps.shapes[images].tolist()):
        if height and width:
            groups[height, width].append(position)
    return groups


def _below(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Scale the scores behind the re-ranked images to at most the last of those."""
    if not len(tail) or not len(head) or tail[0] <= head[-1]:
        return tail.astype(np.float32)
    return np.minimum(tail * (head[-1] / tail[0]), head[-1]).astype(np.float32)


def _cell_aspect(size, shape: tuple[int, int]) -> float:
    return (float(size[0]) / shape[1]) / (float(size[1]) / shape[0])


def _aspects(windows: np.ndarray) -> np.ndarray:
    return (windows[:, 3] - windows[:, 2]) / (windows[:, 1] - windows[:, 0])


def _kept(plan: WindowPlan, sizes: np.ndarray, aspect: float, least: float) -> np.ndarray:
    """Return which windows of images of ``sizes`` (m, 2) resemble the query, (m, n) boolean."""
    across, down = sizes[:, 0] / len(plan.columns), sizes[:, 1] / len(plan.rows)
    aspects = _aspects(plan.windows) * (across / down)[:, None]
    kept = np.minimum(aspects / aspect, aspect / aspects) >= least - 1e-9
    kept[:, plan.n_grid :] = False
    kept[~kept.any(axis=1), plan.whole] = True
    return kept


@dataclass(frozen=True)
class _Lookup:
    """A query as the kernel reads it.

    Attributes:
        place: (K,) row of each word in ``values``; row 0 is that of words the query lacks.
        values: (m + 1, 1 or 5) unit-length weights in the whole query and in its quarters.
        factors: (K,) float32.
        levels: weights of the whole and of each quarter, (5,): 0 for a quarter without words.
        maximum: whether the best quarter counts, not their mean.
    """

    place: np.ndarray
    values: np.ndarray
    factors: np.ndarray
    levels: np.ndarray
    maximum: bool

    @classmethod
    def of(cls, query: RegionQuery, words: int, config: RerankingConfig, factors) -> _Lookup:
        regions = [query.whole, *(query.quarters if config.pyramid else ())]
        factors = np.ones(words, np.float32) if factors is None else np.float32(factors)
        known = np.unique(np.concatenate([region[0] for region in regions])).astype(np.int64)
        # The compiled loop does not check bounds.
        if len(known) and not 0 <= known[0] <= known[-1] < words:
            raise StudyError(
                f"re-ranking: expected query words 0 to {words - 1}, found {known[0]} to "
                f"{known[-1]}; encode the query with the codebook of the database"
            )
        place = np.zeros(words, np.int32)
        place[known] = np.arange(1, len(known) + 1)
        values = np.zeros((len(known) + 1, len(regions)), np.float32)
        for column, (region, value) in enumerate(regions):
            scaled = value * factors[region]
            scaled /= max(float(np.sqrt((scaled * scaled).sum())), 1e-12)
            # Once more for the other side of the product, the windows' counts.
            values[place[region], column] = scaled * factors[region]
        return cls(place, values, factors, _levels(query, config), config.aggregation == "max")


def _levels(query: RegionQuery, config: RerankingConfig) -> np.ndarray:
    whole, quarter = config.level_weights if config.pyramid else (1.0, 0.0)
    if min(whole, quarter) < 0 or whole + quarter <= 0:
        raise StudyError(
            "reranking.level_weights: expected two weights of at least 0, one of them above 0, "
            f"found {(whole, quarter)}"
        )
    present = np.array([len(words) > 0 for words, _ in query.quarters], np.float64)
    shared = 1.0 if config.aggregation == "max" else 1 / present.sum()
    return np.concatenate([[whole], quarter * shared * present]) / (whole + quarter)


def _score_images(images, plan, query, maps, config, lookup, weights):
    """Return score and best window of images whose maps have one shape."""
    words = np.stack([maps.map(i) for i in images])
    if words.max() >= maps.words:
        raise StudyError(
            f"re-ranking: expected words 0 to {maps.words - 1} in the assignment maps, found "
            f"{words.max()}; remove the stored maps and run again"
        )
    masses = np.ones((1, *words.shape[1:]), np.float32)
    if weights is not None:
        masses = np.stack([_mass(weights(int(i)), words.shape[1:], i) for i in images])
    kept = _kept(plan, maps.sizes[images], query.aspect, config.aspect)
    scores, best = np.zeros(len(images), np.float32), np.zeros(len(images), np.int64)
    _best_windows(
        words,
        masses,
        kept,
        (plan.rows, plan.columns, plan.blocks),
        (plan.corners, plan.starts, plan.roles, plan.parts),
        (lookup.place, lookup.values, lookup.factors, lookup.levels, lookup.maximum),
        scores,
        best,
    )
    return scores, best


def _mass(weight: np.ndarray, shape: tuple[int, int], image: int) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    if weight.shape != shape or not (np.isfinite(weight) & (weight >= 0)).all():
        found = f"shape {weight.shape}" if weight.shape != shape else "others"
        raise StudyError(
            f"re-ranking: weight map of image {image}: expected {shape[0]}x{shape[1]} finite "
            f"weights of at least 0, found {found}; mend what makes the weight maps"
        )
    return np.rint(weight / max(float(weight.max()), 1e-300) * WEIGHT_LEVELS)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _best_windows(words, masses, kept, grid, regions, query, scores, best):
    """Score every kept window of every image; regions are read off an integral histogram.

    The histogram holds, for every corner of a block, how often each of the image's own words (a
    few hundred of the K) lies above and left of it.
    """
    rows, columns, blocks = grid
    corners, starts, roles, parts = regions
    place, values, factors, levels, maximum = query
    n_images, height, width = words.shape
    n_roles = values.shape[1]
    down, across = blocks[0] + 1, blocks[1] + 1
    most = (min(height * width, len(place)) + LANES - 1) // LANES * LANES
    number = np.zeros(len(place), np.int32)  # 1 and up: the word's number within the image
    numbers = np.empty((height, width), np.int32)
    distinct = np.empty(most, np.int64)
    squares = np.empty(most, masses.dtype)
    local = np.empty((n_roles, most), masses.dtype)
    counts = np.empty(most, masses.dtype)
    running = np.empty(most, masses.dtype)
    integral = np.empty(down * across * most, masses.dtype)
    cosines = np.empty(len(roles), np.float64)
    for i in range(n_images):
        n = 0
        for y in range(height):
            for x in range(width):
                word = words[i, y, x]
                if number[word] == 0:
                    distinct[n] = word
                    n += 1
                    number[word] = n
                numbers[y, x] = number[word] - 1
        padded = (n + LANES - 1) // LANES * LANES
        squares[:padded] = 0
        local[:, :padded] = 0
        for j in range(n):
            word = distinct[j]
            number[word] = 0
            squares[j] = factors[word] * factors[word]
            row = place[word]
            if row > 0:
                for role in range(n_roles):
                    local[role, j] = values[row, role]

        table = integral[: down * across * padded].reshape(down, across, padded)
        table[:] = 0
        mass = masses[i % len(masses)]
        for y in range(height):
            for x in range(width):
                table[rows[y] + 1, columns[x] + 1, numbers[y, x]] += mass[y, x]
        sums = running[:padded]
        for a in range(1, down):
            sums[:] = 0
            for b in range(1, across):
                above, here = table[a - 1, b], table[a, b]
                for j in range(padded):
                    sums[j] += here[j]
                    here[j] = above[j] + sums[j]

        region = counts[:padded]
        weight = squares[:padded]
        for r in range(len(corners)):
            y0, y1, x0, x1 = corners[r, 0], corners[r, 1], corners[r, 2], corners[r, 3]
            inner, right, below, outer = table[y0, x0], table[y0, x1], table[y1, x0], table[y1, x1]
            squared = masses.dtype.type(0)
            for j in range(padded):
                count = outer[j] - right[j] - below[j] + inner[j]
                region[j] = count
                squared += count * count * weight[j]
            norm = np.sqrt(np.float64(squared))
            for entry in range(starts[r], starts[r + 1]):
                other = local[roles[entry], :padded]
                product = masses.dtype.type(0)
                for j in range(padded):
                    product += region[j] * other[j]
                cosines[entry] = product / norm if norm > 0 else 0.0

        highest = -1.0
        for w in range(len(parts)):
            if not kept[i, w]:
                continue
            quarters_score = 0.0
            for role in range(1, parts.shape[1]):
                cosine = levels[role] * cosines[parts[w, role]]
                if maximum:
                    quarters_score = max(quarters_score, cosine)
                else:
                    quarters_score += cosine
            score = levels[0] * cosines[parts[w, 0]] + quarters_score
            if score > highest:
                highest = score
                best[i] = w
        scores[i] = highest
