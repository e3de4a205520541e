"""Views of one image: as it is, mirrored, and its centre enlarged (query augmentation, +Q_aug)."""

from __future__ import annotations

from dataclasses import dataclass

from blcf_utils.config.profile import AugmentationConfig
from blcf_utils.datasets.base import Box


@dataclass(frozen=True)
class View:
    """How an image is looked at.

    Attributes:
        flip: mirrored, left for right (after the zoom).
        zoom: enlargement of the centre; 1.5 keeps the central two thirds of each side.
    """

    flip: bool = False
    zoom: float = 1.0

    def part(self, size: tuple[int, int]) -> Box:
        """Return the part of an image of ``size`` = (width, height) that is seen, before a flip."""
        width, height = size
        margin = (1 - 1 / self.zoom) / 2
        return width * margin, height * margin, width * (1 - margin), height * (1 - margin)

    def sees(self, box: Box | None, size: tuple[int, int]) -> bool:
        """Whether anything of a box of the image is visible (None: the whole image)."""
        left, top, right, bottom = self.part(size)
        return box is None or (
            box[0] < right and box[2] > left and box[1] < bottom and box[3] > top
        )

    def box(self, box: Box | None, size: tuple[int, int]) -> Box | None:
        """Return where the visible part of a box lies in this view, which has the same ``size``."""
        if box is None or self == AS_IT_IS:
            return box
        left, top, right, bottom = self.part(size)
        x1, x2 = ((min(max(x, left), right) - left) * self.zoom for x in (box[0], box[2]))
        y1, y2 = ((min(max(y, top), bottom) - top) * self.zoom for y in (box[1], box[3]))
        return (size[0] - x2, y1, size[0] - x1, y2) if self.flip else (x1, y1, x2, y2)

    @property
    def name(self) -> str:
        """A short name for people, such as ``zoom 1.5 mirrored``."""
        parts = [f"zoom {self.zoom:g}" if self.zoom != 1 else "", "mirrored" if self.flip else ""]
        return " ".join(part for part in parts if part) or "as it is"


AS_IT_IS = View()


def augmented_views(config: AugmentationConfig) -> tuple[View, ...]:
    """Return the views that query augmentation adds to the image as it is.

    The original pipeline's four are the image, its mirror image, the zoomed centre and the mirror
    image of that.
    """
    zooms = (1.0,) if config.zoom == 1 else (1.0, config.zoom)
    flips = (False, True) if config.flip else (False,)
    views = [View(flip, zoom) for zoom in zooms for flip in flips]
    return tuple(view for view in views if view != AS_IT_IS)
