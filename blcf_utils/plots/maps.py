"""Feature maps, assignment maps and visual words, drawn over the images they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.plots.canvas import QUERY, done, draw_box, frame, grid, photograph, picture
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


def word_colours(words: np.ndarray) -> np.ndarray:
    """Return an RGB colour per word, the same in every picture: (...,) to (..., 3)."""
    words = words.astype(np.int64)
    hue = (words * 0.61803398875) % 1.0  # golden ratio: neighbouring numbers look different
    saturation = 0.55 + 0.45 * ((words * 7) % 5) / 4
    return hsv_to_rgb(np.stack([hue, saturation, np.full(hue.shape, 0.95)], axis=-1))


def show_assignment_maps(dataset: Dataset, maps: AssignmentMaps, images: Sequence[int]) -> Figure:
    """Show images above their assignment maps; one colour is one visual word."""
    figure, axes = grid(2, len(images), 2.1, 1.75)
    for column, image in zip(axes.T, images, strict=True):
        words = maps.map(image)
        picture(column[0], _read(dataset, image))
        picture(column[1], word_colours(words), f"{len(np.unique(words))} words")
    return done(figure)


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
    image = dataset.image_index[query.image]
    words, pixels = maps.map(image), _read(dataset, image)
    cells = query_cells(query, maps.sizes[image], words.shape, "ls")
    colours = word_colours(words)
    figure, axes = grid(1, 3, 2.6, 2.2)
    picture(axes[0, 0], pixels, query.id, QUERY)
    draw_box(axes[0, 0], query.box)
    picture(axes[0, 1], colours, f"GS: {words.size} positions, {len(np.unique(words))} words")
    inside = words[cells]
    picture(
        axes[0, 2],
        np.where(cells[..., None], colours, 1),
        f"LS: {inside.size} positions, {len(np.unique(inside))} words",
    )
    return done(figure)


def show_matching_words(
    dataset: Dataset, maps: AssignmentMaps, query: Query, images: Sequence[int]
) -> Figure:
    """Show the words that images share with the query's box, in the words' colours."""
    source = dataset.image_index[query.image]
    words = maps.map(source)
    wanted = np.unique(words[query_cells(query, maps.sizes[source], words.shape, "ls")])
    figure, axes = grid(1, len(images) + 1, 2.0, 1.8)
    for ax, image in zip(axes[0], [source, *images], strict=True):
        cells, pixels = maps.map(image), _read(dataset, image)
        shared = np.isin(cells, wanted)
        picture(ax, (pixels * 0.35 + 160).clip(0, 255).astype(np.uint8))
        step_x, step_y = pixels.shape[1] / cells.shape[1], pixels.shape[0] / cells.shape[0]
        for y, x in np.argwhere(shared):
            colour = word_colours(cells[y, x])
            corner = (x * step_x, y * step_y)
            ax.add_patch(Rectangle(corner, step_x, step_y, color=colour, linewidth=0))
        ax.set_title(f"{len(np.unique(cells[shared]))} of {len(wanted)} words")
    axes[0, 0].set_title(f"query: {len(wanted)} words", color=QUERY)
    draw_box(axes[0, 0], query.box)
    frame(axes[0, 0], QUERY, 2)
    return done(figure)
