"""A knob of the features: what lies near a position's descriptor, by layer and dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from blcf_utils.apps.explorer.subject import neighbouring_layer
from blcf_utils.apps.knobs.knob import Knob, canvas
from blcf_utils.datasets.base import Query
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.plots.canvas import QUERY, RELEVANT, WRONG, frame, photograph, picture
from blcf_utils.plots.maps import patch_at
from blcf_utils.search.looking import other_images, positive_images
from blcf_utils.study.pipeline import Pipeline

RAW = 0  # dimensions: descriptors as they come, L2-normalised only
_IMAGES = 100  # that are searched


def neighbours(bench: Pipeline, query: Query, layers: Sequence[str] = ()) -> Knob:
    """Return the nearest descriptors, each of another image, of a clicked position.

    A hundred images are searched: those of the query's instance first, then others.

    Args:
        bench: the dataset's pipeline.
        query: whose image is clicked on, at first in the middle of its box.
        layers: further layers of the backbone; the one beside the profile's when empty.
    """
    dataset, own = bench.dataset, bench.profile.features.backbone.layer
    right = positive_images(dataset, query, _IMAGES // 4)
    images = [*right, *other_images(dataset, query, _IMAGES - len(right))]
    source = dataset.image_index[query.image]
    pixels = photograph(dataset, query.image)
    benches = {
        layer: bench if layer == own else bench.changed({"features.backbone.layer": layer})
        for layer in dict.fromkeys((own, *(layers or [neighbouring_layer(bench)])))
    }

    @lru_cache(maxsize=2 * len(benches))
    def described(layer: str, raw: bool) -> list[np.ndarray]:
        of = benches[layer]
        apply = normalise_rows if raw else of.whitening.apply
        return [apply(of.features.descriptors(i)) for i in (source, *images)]

    def draw(axes, layer: str, dimensions: int, point: Sequence[float]) -> str:
        features = benches[layer].features
        probe, *others = described(layer, dimensions == RAW)
        at = row_at(features, source, point)
        found = nearest(probe[at], others, dimensions)
        picture(axes[0], pixels, "position", QUERY)
        axes[0].plot(*point, "o", color=QUERY, markeredgecolor="white")
        for ax, (k, row, cosine) in zip(axes[1:], found, strict=False):
            spot = np.unravel_index(row, features.shapes[images[k]])
            picture(ax, patch_at(dataset, images[k], spot, features.shapes[images[k]]))
            ax.set_title(f"{cosine:.2f}")
            frame(ax, RELEVANT if images[k] in right else WRONG, 3)
        share = np.mean([k < len(right) for k, _, _ in found[: len(axes) - 1]])
        space = "as they come" if dimensions == RAW else "whitened"
        return f"{layer}, {space}: {share:.0%} of them in images of the instance"

    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = query.box or (0, 0, width, height)
    middle = [round((x1 + x2) / 2), round((y1 + y2) / 2)]
    clicked = canvas(dataset, query.image, point=middle, hint="Click a position.")
    most = bench.whitening.dimensions
    offered = [RAW, *(few for few in (2, 8, 32) if few < most), most]
    frames = [(own, most), (own, RAW), (own, offered[1]), (list(benches)[-1], most)]
    frames = [{"layer": one, "dimensions": d, "point": middle} for one, d in frames]
    panels = 10, 1.15, 1.2
    return Knob(draw, panels, frames, layer=list(benches), dimensions=offered, point=clicked)


def row_at(features: Features, image: int, point: Sequence[float]) -> int:
    """Return the row of the descriptor at a point (x, y) in pixels of an image."""
    (height, width), size = features.shapes[image], features.sizes[image]
    y = min(int(point[1] / size[1] * height), height - 1)
    x = min(int(point[0] / size[0] * width), width - 1)
    return int(y * width + x)


def nearest(
    probe: np.ndarray, images: Sequence[np.ndarray], dimensions: int
) -> list[tuple[int, int, float]]:
    """Return the nearest descriptor of each image, nearest first: (image, row, cosine).

    Args:
        probe: (D,).
        images: descriptors (n, D) of each, whitened ones with their largest variances first.
        dimensions: how many of them count; all for ``RAW``.
    """
    kept = slice(dimensions or None)
    found, asked = [], normalise_rows(probe[None, kept])[0]
    for k, rows in enumerate(images):
        cosines = normalise_rows(rows[:, kept]) @ asked
        found.append((k, int(cosines.argmax()), float(cosines.max())))
    return sorted(found, key=lambda one: -one[2])
