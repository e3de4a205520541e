"""Random generators named by what they draw, so that no drawing depends on another's order."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*name: str | int) -> np.random.Generator:
    """Return the generator that belongs to ``name``, whoever asks and whenever.

    Args:
        name: what is drawn, such as ``(seed, "mini-objects", "image", 17)``.
    """
    text = "\x1f".join(str(part) for part in name)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], dtype="<u4"))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with the given probability."""
    return bool(rng.random() < probability)


def pick(rng: np.random.Generator, items):
    """Return one of ``items``."""
    return items[int(rng.integers(len(items)))]
