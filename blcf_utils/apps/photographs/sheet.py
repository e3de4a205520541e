"""A search on one page: the query with its box, the photographs found with theirs."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from blcf_utils.datasets.base import Box
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable
from blcf_utils.plots.canvas import QUERY, RELEVANT, done, draw_box, grid, picture

FORMATS = (".jpg", ".jpeg", ".png", ".pdf")
MOST = 200  # results, of which each takes its space and time
_COLUMNS = 4
_LONGEST = 400  # pixels of the query as it is drawn
_LETTERS = 26  # of a name in one line of a title


def check_sheet(path: Path) -> None:
    """Check that a contact sheet can be written as a kind of file.

    Raises:
        StudyError: its name ends in none of ``FORMATS``.
    """
    if path.suffix.lower() not in FORMATS:
        raise StudyError(f"{path}: expected a name that ends in {', '.join(FORMATS)}; change it")


def write_sheet(
    path: Path,
    query: tuple[Path, Box | None],
    found: Sequence[tuple[str, bytes, tuple[int, int], Box]],
) -> None:
    """Write a contact sheet.

    Args:
        path: of the picture; its suffix is one of ``FORMATS``.
        query: image and box in pixels, None for the whole image.
        found: of each result its label, a small JPEG, (width, height) of the photograph and the
            box, both in its pixels.

    Raises:
        StudyError: the file cannot be written.
    """
    figure = draw_sheet(query, found)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_sheet(query, found) -> Figure:
    """Draw a contact sheet; arguments as for :func:`write_sheet`."""
    rows = -(-(1 + len(found)) // _COLUMNS)
    figure, axes = grid(rows, _COLUMNS, 2.3, 2.2)
    for ax in axes.flat:
        ax.axis("off")
    image, box = query
    size = image_size(image, exif_orientation=True)
    pixels = read_image(image, resized_size(size, _LONGEST), exif_orientation=True)
    _draw(axes.flat[0], pixels, size, f"query\n{image.name}", box, QUERY)
    for ax, (label, jpeg, size, box) in zip(axes.flat[1:], found, strict=False):
        _draw(ax, Image.open(io.BytesIO(jpeg)), size, label, box, RELEVANT)
    return done(figure)


def _draw(ax, pixels, size: tuple[int, int], label: str, box: Box | None, colour: str) -> None:
    """Draw a small version of a photograph on axes in pixels of the photograph itself."""
    title = "\n".join(
        textwrap.shorten(line, _LETTERS, placeholder="...") if " " in line else line[-_LETTERS:]
        for line in map(printable, label.split("\n", 1))
    )
    picture(ax, pixels, title.replace("$", r"\$"), colour)  # a name is no formula
    ax.images[0].set_extent((0, size[0], size[1], 0))
    draw_box(ax, box, colour)
