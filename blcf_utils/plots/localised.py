"""Where re-ranking found the query: its windows, and boxes that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blcf_utils.config.profile import RerankingConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import read_image
from blcf_utils.plots.canvas import (
    IGNORED,
    QUERY,
    RELEVANT,
    WRONG,
    done,
    draw_box,
    frame,
    grid,
    judge,
    photograph,
    picture,
)
from blcf_utils.search.localisation import Localisation
from blcf_utils.search.query import QueryMaps
from blcf_utils.search.recipes import Found
from blcf_utils.search.windows import window_box, window_grid
from blcf_utils.words.assignment_maps import AssignmentMaps


def show_windows(
    dataset: Dataset,
    maps: AssignmentMaps,
    image: int,
    sizes: Sequence[float] = RerankingConfig().sizes,
) -> Figure:
    """Show the windows of re-ranking on an image, one panel for each of their sizes.

    A panel's title is a size as a share of the image's, height before width, and how many windows
    have it; one of them is drawn thick.
    """
    shape, size = tuple(maps.shapes[image]), tuple(maps.sizes[image])
    windows = window_grid(shape, tuple(sizes))
    sides = np.stack([windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]], axis=1)
    # The size a window was meant to have, before its edges were rounded to cells.
    shares = np.abs((sides / shape)[..., None] - np.array(sizes)).argmin(axis=2) * -1
    kinds = sorted({tuple(share) for share in shares.tolist()}, reverse=True)
    columns = len(sizes) if len(kinds) == len(sizes) ** 2 else len(kinds)
    figure, axes = grid(-(-len(kinds) // columns), columns, 1.9, 1.6)
    pixels = photograph(dataset, dataset.all_images[image])
    for ax, kind in zip(axes.flat, kinds, strict=True):
        chosen = windows[(shares == kind).all(axis=1)]
        height, width = (_side(side, sizes[-place]) for side, place in zip("HW", kind, strict=True))
        number = f"{len(chosen)} window{'s' * (len(chosen) > 1)}"
        picture(ax, pixels, f"{height} × {width}: {number}")
        for window in chosen:
            x1, y1, x2, y2 = window_box(window, shape, size)
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=QUERY, lw=0.6))
        draw_box(ax, window_box(chosen[0], shape, size))
    return done(figure)


def _side(side: str, share: float) -> str:
    """Name a share of a side: H, H/2, or 0.3 H where it is no simple part."""
    part = round(1 / share)
    if abs(part * share - 1) > 1e-9:
        return f"{share:g} {side}"
    return side if part == 1 else f"{side}/{part}"


def show_found(
    dataset: Dataset, maps: AssignmentMaps, query: Query, found: Found, top: int = 7
) -> Figure:
    """Show the first images of a re-ranked ranking with the window in which each was matched."""
    figure, axes = grid(1, top + 1, 1.6, 1.5)
    picture(axes[0, 0], photograph(dataset, query.image), "query", QUERY)
    draw_box(axes[0, 0], query.box)
    frame(axes[0, 0], QUERY, 2)
    shown = [i for i in found.ranking.images.tolist() if dataset.unit_of(i) not in query.junk]
    for rank, (ax, image) in enumerate(zip(axes[0, 1:], shown[:top], strict=False), 1):
        picture(ax, photograph(dataset, dataset.images[image]), f"{rank}", IGNORED)
        right = dataset.unit_of(image) in query.positives
        if image in found.windows:
            shape, size = tuple(maps.shapes[image]), tuple(maps.sizes[image])
            box = window_box(found.windows[image], shape, size)
            draw_box(ax, box, RELEVANT if right else WRONG)
        judge(ax, right)
    return done(figure)


def show_localisations(dataset: Dataset, localisations: Sequence[Localisation]) -> Figure:
    """Show windows (orange) beside the boxes that are known (green), with their overlap."""
    if not localisations:
        figure, axes = grid(1, 1, 4.5, 0.5)
        axes[0, 0].axis("off")
        axes[0, 0].text(0, 0.5, "no box of a relevant image is known", va="center")
        return done(figure)
    figure, axes = grid(1, len(localisations), 2.0, 1.7)
    for ax, one in zip(axes[0], localisations, strict=True):
        title = f"overlap {one.overlap:.2f} of {one.possible:.2f}"
        picture(ax, photograph(dataset, dataset.images[one.image]), title, IGNORED)
        draw_box(ax, one.truth, RELEVANT)
        draw_box(ax, one.box, WRONG)
    return done(figure)


def show_views(dataset: Dataset, query: Query, views: Sequence[QueryMaps]) -> Figure:
    """Show the query as it is and in the views of query augmentation, with its box in each."""
    figure, axes = grid(1, len(views) + 1, 2.0, 1.7)
    pixels = photograph(dataset, query.image)
    picture(axes[0, 0], pixels, "as it is", QUERY)
    draw_box(axes[0, 0], query.box)
    size = (pixels.shape[1], pixels.shape[0])
    for ax, one in zip(axes[0, 1:], views, strict=True):
        seen = read_image(query.image, exif_orientation=dataset.exif_orientation, view=one.view)
        picture(ax, seen, one.view.name, QUERY)
        if one.view.sees(query.box, size):
            draw_box(ax, one.view.box(query.box, size))
    return done(figure)
