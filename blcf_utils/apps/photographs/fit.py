"""Whether the words of an index still fit the photographs of its folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.manifest import Manifest
from blcf_utils.apps.photographs.shards import read_column, shard_path
from blcf_utils.apps.photographs.words import (
    are_enough,
    is_own,
    stored_words,
    words_taught_by,
)

# Words are old when a folder has so many times the photographs that it had when they were new,
# or would teach so many times as many words ...
TIMES_PHOTOGRAPHS, TIMES_WORDS = 10, 1.5
# ... or when its photographs lie so many times as far from their words as they did then.
TIMES_DISTANCE = 1.25


def misfit(home: Path, manifest: Manifest, sample: int) -> str:
    """Return why words should be learned again, and the command; "" where they still fit.

    Args:
        home, manifest: of the index. How far photographs are from words that are new is entered.
        sample: how many photographs teach words.
    """
    words, profile = stored_words(home), manifest.profile
    places = [manifest.contents[digest] for digest in manifest.searched.values()]
    photographs, distance = len(places), float(np.mean(_column(home, places, "distance")))
    if not manifest.learned:
        manifest.learned = [photographs, distance]
        manifest.save(home)
    first, near = manifest.learned
    # Positions of a feature map, of which an assignment map has several each.
    positions = np.prod(_column(home, places, "shape"), axis=1) / profile.encoding.interpolate**2
    descriptors = positions.mean() * min(photographs, sample)
    now = words_taught_by(descriptors, profile)
    number = len(np.load(words / "centroids.npy", mmap_mode="r"))
    why = ""
    if not is_own(words):
        if are_enough(descriptors, profile):
            why = f"its words were learned elsewhere; {photographs:,} photographs can teach some"
    elif now >= TIMES_WORDS * number:
        why = f"its {number:,} words are of few photographs; it can teach {now:,} now"
    elif photographs >= TIMES_PHOTOGRAPHS * first:
        why = f"it had {first:,} photographs when it taught its words, and has {photographs:,} now"
    elif distance > TIMES_DISTANCE * near:
        why = f"its words are {distance:.2f} away on average, {near:.2f} when they were new"
    command = shlex.join(["blcf", "index", manifest.folder, "--anew"])
    return why and f"{manifest.folder}: {why}; run {command} to learn words again"


def _column(home: Path, places: Iterable[tuple[str, int]], column: str) -> np.ndarray:
    """Return a column of photographs, given as shard and place in it; one row each."""
    read = lru_cache(None)(read_column)
    return np.stack([read(shard_path(home, shard), column)[place] for shard, place in places])
