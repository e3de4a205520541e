"""What a query and an image cost, measured in the same way for every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

TOP = 100  # images of a timed answer
TIMED_QUERIES, TIMED_IMAGES = 30, 128


def median_ms(answers: Sequence[Callable[[], object]]) -> float:
    """Return the median milliseconds of the calls, after one that is not timed."""
    answers[0]()
    seconds = []
    for answer in answers:
        started = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def best_of(scores: np.ndarray, top: int = TOP) -> np.ndarray:
    """Return the numbers of the best images, best first."""
    best = np.argpartition(-scores, min(top, len(scores) - 1))[:top]
    return best[np.argsort(-scores[best], kind="stable")]
