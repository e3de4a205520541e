"""A deterministic renderer of instance-search benchmarks with exact ground truth."""

from blcf_utils.datasets.rendering.benchmark import BENCHMARKS, RECIPE_VERSION, render_benchmark

__all__ = ["BENCHMARKS", "RECIPE_VERSION", "render_benchmark"]
