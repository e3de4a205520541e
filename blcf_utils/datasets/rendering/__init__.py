"""A deterministic renderer of instance-search benchmarks with exact ground truth."""

from blcf_utils.datasets.rendering.benchmark import BENCHMARKS, RECIPE_VERSION, render_benchmark
from blcf_utils.datasets.rendering.pretraining_set import PretrainingSet, render_pretraining_set

__all__ = [
    "BENCHMARKS",
    "RECIPE_VERSION",
    "PretrainingSet",
    "render_benchmark",
    "render_pretraining_set",
]
