"""SIFT keypoints, and the matches of two images that agree on a homography."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure

from blcf_utils.config.profile import VerificationConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.plots.canvas import (
    IGNORED,
    QUERY,
    RELEVANT,
    WRONG,
    done,
    draw_box,
    frame,
    grid,
    photograph,
    picture,
)
from blcf_utils.search.sift.keypoints import SiftFeatures, query_keypoints
from blcf_utils.search.sift.verification import local_features, match_images


def show_keypoints(dataset: Dataset, features: SiftFeatures, queries: Sequence[Query]) -> Figure:
    """Show the SIFT keypoints of query images at their sizes, those in the box in colour."""
    figure, axes = grid(1, len(queries), 2.6, 2.3)
    for ax, query in zip(axes[0], queries, strict=True):
        keypoints = features.keypoints(dataset.image_index[query.image])
        inside = query_keypoints(dataset, query, features, "ls")
        title = f"{inside.sum()} of {len(keypoints)} keypoints"
        picture(ax, photograph(dataset, query.image), title, QUERY)
        for chosen, colour in ((~inside, "white"), (inside, QUERY)):
            sizes = keypoints[chosen, 2]
            circles = EllipseCollection(
                sizes,
                sizes,
                np.zeros_like(sizes),
                units="xy",
                offsets=keypoints[chosen, :2],
                offset_transform=ax.transData,
                facecolors="none",
                edgecolors=colour,
                linewidths=0.7,
            )
            ax.add_collection(circles)
        draw_box(ax, query.box)
    return done(figure)


def show_matches(
    dataset: Dataset,
    features: SiftFeatures,
    query: Query,
    images: Sequence[int],
    config: VerificationConfig,
) -> Figure:
    """Show the matches of a query's box with images; those that fit one homography in green."""
    source = photograph(dataset, query.image)
    inside = query_keypoints(dataset, query, features, "ls")
    asked = local_features(features, dataset.image_index[query.image], inside)
    figure, axes = grid(1, len(images), 3.4, 2.4)
    for ax, image in zip(axes[0], images, strict=True):
        target = photograph(dataset, dataset.all_images[image])
        matches = match_images(asked, local_features(features, image), config)
        height, gap = max(len(source), len(target)), 12
        both = np.full((height, source.shape[1] + gap + target.shape[1], 3), 255, np.uint8)
        both[: len(source), : source.shape[1]] = source
        both[: len(target), source.shape[1] + gap :] = target
        picture(ax, both, f"{matches.count} of {len(matches.inliers)} matches agree", IGNORED)
        shifted = matches.points_b + np.array((source.shape[1] + gap, 0))
        lines = np.stack([matches.points_a, shifted], axis=1)
        for agree, colour, width in ((False, WRONG, 0.4), (True, RELEVANT, 0.9)):
            chosen = lines[matches.inliers == agree]
            ax.add_collection(LineCollection(chosen, colors=colour, linewidths=width))
        draw_box(ax, query.box)
        frame(ax, IGNORED, 1)
    return done(figure)
