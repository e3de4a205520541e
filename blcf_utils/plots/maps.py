"""Feature maps, assignment maps and visual words, drawn over the images they come from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import read_image, resized_size
from blcf_utils.features.networks.backbones import Backbone
from blcf_utils.features.networks.receptive_field import pixel_influence, reach
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.plots.canvas import (
    EIGHT,
    QUERY,
    RELEVANT,
    SERIES,
    done,
    draw_box,
    draw_heat,
    frame,
    grid,
    photograph,
    picture,
)
from blcf_utils.search.boxes import query_cells
from blcf_utils.words.assignment_maps import AssignmentMaps, interpolate_map


def _read(dataset: Dataset, image: int) -> np.ndarray:
    return photograph(dataset, dataset.all_images[image])


def _over(ax, pixels: np.ndarray, values: np.ndarray, title: str, **options) -> None:
    """Draw ``values`` (h, w) or (h, w, 3) stretched over a greyed image."""
    picture(ax, pixels.mean(axis=2), title)
    ax.images[0].set_cmap("gray")
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    ax.imshow(values, extent=extent, interpolation="nearest", alpha=0.65, **options)


def show_channels(dataset: Dataset, features: Features, image: int, channels: int = 5) -> Figure:
    """Show an image beside its most active channels: each a picture of where it fired."""
    feature_map, pixels = features.map(image), _read(dataset, image)
    strongest = np.argsort(-feature_map.max(axis=(1, 2)), kind="stable")[:channels]
    figure, axes = grid(1, channels + 1, 1.75, 1.6)
    height, width = feature_map.shape[1:]
    picture(axes[0, 0], pixels, f"{width} x {height} positions")
    _draw_grid(axes[0, 0], pixels.shape, (height, width))
    for ax, channel in zip(axes[0, 1:], strongest, strict=True):
        _over(ax, pixels, feature_map[channel], f"channel {channel}", cmap="magma")
    return done(figure)


def _draw_grid(ax, pixels_shape, shape) -> None:
    height, width = pixels_shape[:2]
    for x in np.linspace(0, width, shape[1] + 1):
        ax.axvline(x, color="white", linewidth=0.4, alpha=0.7)
    for y in np.linspace(0, height, shape[0] + 1):
        ax.axhline(y, color="white", linewidth=0.4, alpha=0.7)


def show_receptive_field(
    dataset: Dataset, backbone: Backbone, image: int, longest_side: int
) -> Figure:
    """Show what the descriptor in the middle of a map sees of the image.

    Left its own cell of the grid, right how much each pixel moves it, with the squares around it
    that hold half and nine tenths of that.

    Args:
        dataset, image: which image.
        backbone: the network.
        longest_side: to which images are resized, pixels.
    """
    path, whole = dataset.all_images[image], _read(dataset, image)
    size = resized_size(whole.shape[1::-1], longest_side)
    pixels = read_image(path, size, exif_orientation=dataset.exif_orientation)
    rows, columns = backbone.output_shape(*pixels.shape[:2])[1:]
    row, column = rows // 2, columns // 2
    down, across = pixels.shape[0] / rows, pixels.shape[1] / columns
    y, x = (row + 0.5) * down, (column + 0.5) * across
    influence = pixel_influence(backbone, pixels, (row, column))
    figure, axes = grid(1, 2, 3.3, 2.7)
    picture(axes[0, 0], pixels, f"one of {columns} × {rows} cells")
    _draw_grid(axes[0, 0], pixels.shape, (rows, columns))
    sides = [reach(influence, (y, x), share) for share in (0.5, 0.9)]
    smooth = cv2.GaussianBlur(influence, (0, 0), sigmaX=across / 2)
    title = f"half within {sides[0]} × {sides[0]} pixels, 90 % within {sides[1]} × {sides[1]}"
    draw_heat(axes[0, 1], pixels, smooth, title)
    for side, colour in zip(sides, (RELEVANT, SERIES[1]), strict=True):
        draw_box(axes[0, 1], (x - side / 2, y - side / 2, x + side / 2, y + side / 2), colour)
    for ax in axes[0]:
        draw_box(ax, (x - across / 2, y - down / 2, x + across / 2, y + down / 2))
        ax.set(xlim=(0, pixels.shape[1]), ylim=(pixels.shape[0], 0))
    return done(figure)


def show_interpolation(features: Features, image: int, factor: int = 2) -> Figure:
    """Show one channel before and after bilinear interpolation."""
    feature_map = features.map(image)
    channel = int(feature_map.max(axis=(1, 2)).argmax())
    enlarged = interpolate_map(feature_map, factor)
    figure, axes = grid(1, 2, 2.6, 2.1)
    for ax, values in zip(axes[0], (feature_map[channel], enlarged[channel]), strict=True):
        height, width = values.shape
        picture(ax, values, f"{width} x {height} = {width * height} descriptors")
        ax.images[0].set_cmap("magma")
    return done(figure)


def show_similarity(
    dataset: Dataset, features: Features, query: Query, images: Sequence[int], transform=None
) -> Figure:
    """Show where other images resemble the descriptor at the centre of the query's box.

    Args:
        dataset, features: the images and their maps.
        query: its box's centre is the probe.
        images: numbers of the images to compare with.
        transform: applied to descriptors before the cosine (a whitening's ``apply``); plain L2
            normalisation when None.
    """
    transform = transform or normalise_rows
    source = dataset.image_index[query.image]
    height, width = features.shapes[source]
    cells = np.argwhere(query_cells(query, features.sizes[source], (height, width), "ls"))
    y, x = cells[len(cells) // 2] if len(cells) < 3 else np.round(cells.mean(axis=0)).astype(int)
    probe = transform(features.descriptors(source))[y * width + x]
    figure, axes = grid(1, len(images) + 1, 1.9, 1.7)
    pixels = _read(dataset, source)
    picture(axes[0, 0], pixels, "one descriptor", QUERY)
    draw_box(axes[0, 0], query.box)
    step = pixels.shape[1] / width, pixels.shape[0] / height
    axes[0, 0].plot((x + 0.5) * step[0], (y + 0.5) * step[1], "o", color=QUERY, markersize=8)
    for ax, image in zip(axes[0, 1:], images, strict=True):
        cosine = (transform(features.descriptors(image)) @ probe).reshape(features.shapes[image])
        _over(ax, _read(dataset, image), cosine, f"best {cosine.max():.2f}", vmin=0, cmap="magma")
    return done(figure)


def word_colours(words: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return the RGB colours of words, (...,) to (..., 3): up to eight in colour, the others grey.

    The eight colours are told apart by colour-blind readers too (Okabe and Ito). Greys differ a
    little from word to word, so that the borders between words are seen.
    """
    words = words.astype(np.int64)
    grey = 0.78 + 0.14 * (words * 0.61803398875 % 1.0)  # golden ratio: neighbouring numbers differ
    colours = np.repeat(grey[..., None], 3, axis=-1)
    for word, colour in zip(chosen, EIGHT, strict=False):
        colours[words == word] = to_rgb(colour)
    return colours


def counting_words(
    dataset: Dataset, maps: AssignmentMaps, query: Query, most: int = len(EIGHT)
) -> list[int]:
    """Return the words that add most to the cosines of a query's box with its right images.

    Largest part first; words are counted without weights. Where no image is known to be right, the
    query's own takes its place.
    """
    words, cells = asked_words(dataset, maps, query)
    asked = np.bincount(words[cells], minlength=maps.words).astype(float)
    added = np.zeros(maps.words)
    right = [dataset.image_of(unit) for unit in query.positives]
    for image in right or [dataset.image_index[query.image]]:
        counts = np.bincount(maps.map(image).ravel(), minlength=maps.words)
        added += asked * counts / max(np.linalg.norm(counts), 1e-12)
    order = np.argsort(-added, kind="stable")[:most]
    return order[added[order] > 0].tolist()


def asked_words(
    dataset: Dataset, maps: AssignmentMaps, query: Query
) -> tuple[np.ndarray, np.ndarray]:
    """Return a query's assignment map (h, w), and which of its cells lie in the box."""
    image = dataset.image_index[query.image]
    words = maps.map(image)
    return words, query_cells(query, maps.sizes[image], words.shape, "ls")


def show_assignment_maps(
    dataset: Dataset, maps: AssignmentMaps, query: Query, images: Sequence[int]
) -> Figure:
    """Show a query and images above their assignment maps, ``counting_words`` in colour."""
    chosen = counting_words(dataset, maps, query)
    shown = [dataset.image_index[query.image], *images]
    figure, axes = grid(2, len(shown), 2.1, 1.75)
    for column, image in zip(axes.T, shown, strict=True):
        words = maps.map(image)
        picture(column[0], _read(dataset, image))
        picture(column[1], word_colours(words, chosen), f"{len(np.unique(words))} words")
    axes[0, 0].set_title("query", color=QUERY)
    draw_box(axes[0, 0], query.box)
    _draw_cells_box(axes[1, 0], asked_words(dataset, maps, query)[1])
    return done(figure)


def _draw_cells_box(ax, cells: np.ndarray) -> None:
    """Draw the box of chosen cells (h, w) over an assignment map."""
    (y0, x0), (y1, x1) = np.argwhere(cells).min(axis=0), np.argwhere(cells).max(axis=0) + 1
    draw_box(ax, (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5))


def show_word_patches(
    dataset: Dataset, maps: AssignmentMaps, words: Sequence[int], patches: int = 8, side: int = 72
) -> Figure:
    """Show, per visual word, patches of different images at positions assigned to it.

    Args:
        dataset, maps: the images and their assignment maps.
        words: which words, one row each.
        patches: how many images per word, spread over the database.
        side: patch side in pixels of the stored image.
    """
    figure, axes = grid(len(words), patches, 1.15, 1.25)
    for line, word in zip(axes, words, strict=True):
        found = draw_word_patches(line, dataset, maps, word, side)
        line[0].set_title(f"word {word}: in {found} images", loc="left")
    return done(figure)


def draw_word_patches(
    line: Sequence[Axes], dataset: Dataset, maps: AssignmentMaps, word: int, side: int = 72
) -> int:
    """Draw patches of a word on a row of axes, each of another image; return how many hold it."""
    found = [i for i in range(maps.n_database) if (maps.map(i) == word).any()]
    chosen = found[:: max(1, len(found) // len(line))][: len(line)]
    for ax in line:
        ax.axis("off")
    for ax, image in zip(line, chosen, strict=False):
        cells = maps.map(image)
        picture(ax, patch_at(dataset, image, np.argwhere(cells == word)[0], cells.shape, side))
    return len(found)


def patch_at(
    dataset: Dataset, image: int, cell: tuple[int, int], shape: tuple[int, int], side: int = 72
) -> np.ndarray:
    """Return the square of an image around a cell (y, x) of a map of ``shape``, RGB."""
    pixels = _read(dataset, image)
    centre_y = int((cell[0] + 0.5) * pixels.shape[0] / shape[0])
    centre_x = int((cell[1] + 0.5) * pixels.shape[1] / shape[1])
    half = side // 2
    padded = np.pad(pixels, ((half, half), (half, half), (0, 0)), mode="edge")
    return padded[centre_y : centre_y + side, centre_x : centre_x + side]


def common_words(dataset: Dataset, maps: AssignmentMaps, most: int, least: int = 8) -> list[int]:
    """Return words that tend to lie in the boxes of queries: parts of things, not sky or ground.

    Args:
        dataset, maps: the images, the boxes and the assignment maps.
        most: how many words.
        least: how many images must hold a word.
    """
    held, boxed = np.zeros(maps.words), np.zeros(maps.words)
    for image in range(maps.n_database):
        held[np.unique(maps.map(image))] += 1
    for query in dataset.queries:
        image = dataset.image_index[query.image]
        words = maps.map(image)
        boxed[np.unique(words[query_cells(query, maps.sizes[image], words.shape, "ls")])] += 1
    share = np.where(held >= min(least, held.max()), boxed / np.maximum(held, 1), -1)
    return np.argsort(-share, kind="stable")[:most].tolist()


def show_box_words(dataset: Dataset, maps: AssignmentMaps, query: Query) -> Figure:
    """Show a query, its assignment map (GS) and the words that its box keeps (LS)."""
    words, cells = asked_words(dataset, maps, query)
    inside, colours = words[cells], word_colours(words, counting_words(dataset, maps, query))
    figure, axes = grid(1, 3, 2.6, 2.2)
    picture(axes[0, 0], photograph(dataset, query.image), query.id, QUERY)
    draw_box(axes[0, 0], query.box)
    picture(axes[0, 1], colours, f"GS: {words.size} positions, {len(np.unique(words))} words")
    picture(
        axes[0, 2],
        np.where(cells[..., None], colours, 1),
        f"LS: {inside.size} positions, {len(np.unique(inside))} words",
    )
    for ax in axes[0, 1:]:
        _draw_cells_box(ax, cells)
    return done(figure)


def show_matching_words(
    dataset: Dataset, maps: AssignmentMaps, query: Query, images: Sequence[int]
) -> Figure:
    """Show the words that images share with the query's box, ``counting_words`` in colour."""
    words, cells = asked_words(dataset, maps, query)
    wanted, chosen = np.unique(words[cells]), counting_words(dataset, maps, query)
    figure, axes = grid(1, len(images) + 1, 2.0, 1.8)
    source = dataset.image_index[query.image]
    for ax, image in zip(axes[0], [source, *images], strict=True):
        cells, pixels = maps.map(image), _read(dataset, image)
        shared = np.isin(cells, wanted)
        picture(ax, (pixels * 0.35 + 160).clip(0, 255).astype(np.uint8))
        seen = np.isin(cells, chosen)
        opaque = np.where(seen, 1.0, np.where(shared, 0.5, 0.0))
        over = np.dstack([np.where(seen[..., None], word_colours(cells, chosen), 0.55), opaque])
        extent = (0, pixels.shape[1], pixels.shape[0], 0)
        ax.imshow(over, extent=extent, interpolation="nearest")
        ax.set_title(f"{len(np.unique(cells[shared]))} of {len(wanted)} words")
    axes[0, 0].set_title(f"query: {len(wanted)} words", color=QUERY)
    draw_box(axes[0, 0], query.box)
    frame(axes[0, 0], QUERY, 2)
    return done(figure)
