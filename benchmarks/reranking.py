"""Spatial re-ranking of one query's first images against sliding windows written with NumPy.

Words follow a Zipf-Mandelbrot law and lie in patches: they are drawn for the positions of a
feature map, a third of them as their left neighbour, and enlarged twice with borders that stray
by a cell. The query is a box of the first image with a sixth of the positions.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np
from search import EXPONENT, OFFSET
from side_by_side import fastest, interleave, machine, median, report, speed_ratio

from blcf_utils.config.profile import RerankingConfig
from blcf_utils.search.query import Ranking
from blcf_utils.search.reranking import RegionQuery, region_query, rerank
from blcf_utils.search.windows import quarters, window_grid

NUMPY = ("np.unique", "np.bincount")


@dataclass(frozen=True)
class Maps:
    """Assignment maps in memory."""

    stack: np.ndarray
    words: int

    @property
    def shapes(self) -> np.ndarray:
        return np.full((len(self.stack), 2), self.stack.shape[1:])

    @property
    def sizes(self) -> np.ndarray:
        return self.shapes[:, ::-1] * 8

    def map(self, image: int) -> np.ndarray:
        return self.stack[image]


def patchy_maps(number: int, words: int, height: int, width: int, seed: int) -> Maps:
    """Return ``number`` maps of ``2 height`` x ``2 width`` cells."""
    rng = np.random.default_rng(seed)
    law = np.cumsum(1.0 / (np.arange(words) + OFFSET) ** EXPONENT)
    drawn = np.searchsorted(law, rng.random((number, height, width)) * law[-1])
    drawn = drawn.clip(max=words - 1).astype(np.uint16)
    drawn = np.where(rng.random(drawn.shape) < 1 / 3, np.roll(drawn, 1, axis=2), drawn)
    large = drawn.repeat(2, axis=1).repeat(2, axis=2)
    for axis in (1, 2):
        large = np.where(rng.random(large.shape) < 0.1, np.roll(large, 1, axis=axis), large)
    return Maps(large, words)


def kept_windows(shape, query: RegionQuery, config: RerankingConfig) -> np.ndarray:
    """Return the windows whose aspect ratio resembles the query's (cells are square here)."""
    grid = window_grid(shape, config.sizes)
    aspects = (grid[:, 3] - grid[:, 2]) / (grid[:, 1] - grid[:, 0]) / query.aspect
    return grid[np.minimum(aspects, 1 / aspects) >= config.aspect]


def dense_queries(query: RegionQuery, words: int) -> np.ndarray:
    """Return the whole query and its quarters as dense histograms, (5, K)."""
    dense = np.zeros((5, words))
    for row, (region, values) in zip(dense, (query.whole, *query.quarters), strict=True):
        row[region] = values
    return dense


def slide(histogram_cosine, images, maps: Maps, query: RegionQuery, config: RerankingConfig):
    """Return the best score of each image: a loop over images, windows and their regions.

    Args:
        histogram_cosine: function from an image's map to a function from (region of the map,
            number of the query's region) to their cosine.
    """
    shape = maps.stack.shape[1:]
    kept, dense = kept_windows(shape, query, config), dense_queries(query, maps.words)
    share = np.array([1, 2 / 4, 2 / 4, 2 / 4, 2 / 4]) / 3  # levels 1/2 and 1, of a sum of 1.5
    scores = np.zeros(len(images))
    for i, image in enumerate(images):
        cosine = histogram_cosine(maps.map(image), dense)
        for window in kept:
            score = 0.0
            for role, (y0, y1, x0, x1) in enumerate([window, *quarters(window)]):
                score += share[role] * cosine(slice(y0, y1), slice(x0, x1), role)
            scores[i] = max(scores[i], score)
    return scores


def by_unique(words: np.ndarray, dense: np.ndarray):
    """Count a region's words by sorting them."""

    def cosine(rows, columns, role):
        found, counts = np.unique(words[rows, columns], return_counts=True)
        return counts @ dense[role, found] / max(np.sqrt(counts @ counts), 1e-12)

    return cosine


def by_bincount(words: np.ndarray, dense: np.ndarray):
    """Count a region's words among those of the image, which are numbered first."""
    distinct, local = np.unique(words, return_inverse=True)
    local, dense = local.reshape(words.shape), dense[:, distinct]

    def cosine(rows, columns, role):
        counts = np.bincount(local[rows, columns].ravel(), minlength=len(distinct))
        return counts @ dense[role] / max(np.sqrt(counts @ counts), 1e-12)

    return cosine


def compare(options) -> tuple[list[dict], bool]:
    """Time re-ranking of the first images by all ways."""
    maps = patchy_maps(options.images, options.words, options.height, options.width, seed=0)
    cells = np.zeros(maps.stack.shape[1:], bool)
    height, width = cells.shape
    cells[height // 4 : height * 2 // 3, width // 3 : width * 3 // 4] = True
    query = region_query([(maps.map(0), cells)], maps.sizes[0])
    config = RerankingConfig(images=options.images)
    images = np.arange(options.images)
    ranking = Ranking(images, np.linspace(1, 0.5, len(images), dtype=np.float32))
    loops = {
        name: partial(slide, count, images, maps, query, config)
        for name, count in zip(NUMPY, (by_unique, by_bincount), strict=True)
    }
    found = rerank(ranking, query, maps, config).ranking
    ours = np.zeros(len(images))
    ours[found.images] = found.scores
    agree = all(np.allclose(ours, loop(), rtol=0, atol=1e-5) for loop in loops.values())
    calls = {"rerank": partial(rerank, ranking, query, maps, config), **loops}
    seconds = interleave(calls, options.repeats)
    row = {
        "images": len(images),
        "map": f"{height}x{width}",
        "words/image": float(np.mean([len(np.unique(words)) for words in maps.stack])),
        "windows": len(window_grid(cells.shape, config.sizes)),
    }
    row |= {f"{name} (ms)": 1e3 * median(times) for name, times in seconds.items()}
    row["speed / fastest NumPy"] = speed_ratio(seconds, "rerank", fastest(seconds, NUMPY))
    return [row], agree


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="how many are re-ranked")
    parser.add_argument("--words", type=int, default=25_000, help="K")
    parser.add_argument("--height", type=int, default=21, help="of the feature map, not doubled")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    start = machine()
    rows, agree = compare(options)
    report("reranking", rows, agree, start, **vars(options))


if __name__ == "__main__":
    main()
