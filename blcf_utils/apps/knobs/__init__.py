"""Knobs of the chapters: what one setting does, live in a notebook and as frames in a report."""

from blcf_utils.apps.knobs.descriptors import neighbours
from blcf_utils.apps.knobs.mining import mining
from blcf_utils.apps.knobs.pooling import gem, rmac
from blcf_utils.apps.knobs.searching import box, centre_prior, expansion, fusion
from blcf_utils.apps.knobs.words import words

__all__ = [
    "box",
    "centre_prior",
    "expansion",
    "fusion",
    "gem",
    "mining",
    "neighbours",
    "rmac",
    "words",
]
