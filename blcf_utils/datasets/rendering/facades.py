"""Facades: walls with rows of windows, portals, columns, gables, roofs and towers.

A facade is drawn from two generators: the *style* (materials, colours, window shapes) and the
*layout* (floors, bays, portal, roof, towers). Two buildings of one style and different layouts
look alike and are different instances: the benchmark's confusing distractors.
"""

from __future__ import annotations

import numpy as np

from blcf_utils.datasets.rendering.relief import Relief, opening, rectangle
from blcf_utils.datasets.rendering.seeds import chance, pick
from blcf_utils.datasets.rendering.textures import hsv, masonry, plaster, roof_tiles

WINDOW_SHAPES = ("rect", "rect", "segment", "arch", "pointed")


class _Builder:
    def __init__(self, style: np.random.Generator, layout: np.random.Generator):
        self.style, self.layout = style, layout
        self.bays = int(layout.integers(3, 9))
        self.floors = int(layout.integers(2, 6))
        self.bay = float(layout.uniform(50, 76)) * (1.0 if self.bays < 7 else 0.85)
        self.floor = float(layout.uniform(62, 92)) * (1.0 if self.floors < 5 else 0.85)
        self.margin = 30.0
        self.wall_width = self.bays * self.bay
        self.wall_height = self.floors * self.floor + 12
        self.sky = 60 + 2.2 * self.floor
        self.rows = int(self.sky + self.wall_height)
        self.columns = int(self.wall_width + 2 * self.margin)
        self.left, self.right = self.margin, self.margin + self.wall_width
        self.top, self.foot = self.sky, float(self.rows)
        self.center = (self.left + self.right) / 2
        self.surface = Relief(self.rows, self.columns)
        self._materials()

    def _materials(self) -> None:
        # Every choice comes before any texture: how much a texture draws depends on its size, and
        # two layouts of one style must agree in all choices.
        rng = self.style
        self.shape = pick(rng, WINDOW_SHAPES)
        kind = pick(rng, ("plaster", "plaster", "brick", "ashlar", "ashlar"))
        if kind == "plaster":
            hue = pick(rng, (0.03, 0.09, 0.11, 0.13, 0.15, 0.56, 0.98)) + rng.normal(0, 0.012)
            saturation = rng.uniform(0.06, 0.45) if hue < 0.3 else rng.uniform(0.04, 0.2)
            wall = hsv(hue, saturation, rng.uniform(0.62, 0.92))
            course, ratio, variation = 1.0, 1.0, 0.0
        elif kind == "brick":
            wall = hsv(rng.uniform(0.0, 0.08), rng.uniform(0.3, 0.65), rng.uniform(0.35, 0.7))
            course, ratio, variation = rng.uniform(5, 7.5), 2.2, rng.uniform(0.06, 0.16)
        else:
            wall = hsv(rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.35), rng.uniform(0.5, 0.82))
            course, ratio, variation = (
                rng.uniform(a, b) for a, b in ((11, 18), (1.6, 2.6), (0.05, 0.13))
            )
        trim = hsv(rng.uniform(0.07, 0.14), rng.uniform(0, 0.25), rng.uniform(0.55, 0.97))
        roof = pick(rng, (hsv(0.03, 0.6, 0.5), hsv(0.6, 0.15, 0.35), hsv(0.43, 0.3, 0.55)))
        roof_course = rng.uniform(6, 10)
        self.frame = pick(rng, ((0.93, 0.92, 0.88), (0.25, 0.17, 0.1), (0.15, 0.22, 0.18)))
        self.door_color = hsv(pick(rng, (0.02, 0.07, 0.35, 0.6)), 0.55, rng.uniform(0.2, 0.5))
        self.shutter = hsv(pick(rng, (0.33, 0.45, 0.58, 0.03)), 0.45, rng.uniform(0.3, 0.6))
        self.with_shutters = chance(rng, 0.25) and self.shape == "rect"
        self.panes = (int(rng.integers(1, 4)), int(rng.integers(1, 5)))
        self.rusticated = chance(rng, 0.5)
        size = (self.rows, self.columns)
        if kind == "plaster":
            self.wall = plaster(rng, *size, wall)
        else:
            self.wall = masonry(
                rng, *size, wall, course=course, ratio=ratio, variation=variation, joint=0.08
            )
        dark = tuple(0.75 * c for c in wall)
        self.base = masonry(rng, *size, dark, course=16, joint=0.12, variation=0.08)
        self.trim = plaster(rng, *size, trim)
        self.roof = roof_tiles(rng, *size, roof, course=roof_course)

    def window(self, shape: str, cx: float, top: float, width: float, height: float) -> None:
        """Draw one window with its trim, sill, glass and glazing bars."""
        s = self.surface
        edge = max(2.0, 0.13 * width)
        if self.with_shutters:
            for side in (-1, 1):
                x = cx + side * width * 0.78
                s.paint(
                    rectangle(x - width * 0.24, top, x + width * 0.24, top + height),
                    self.shutter,
                    2,
                )
                for y in np.arange(top + 3, top + height - 2, 4):
                    s.paint(
                        rectangle(x - width * 0.2, y, x + width * 0.2, y + 1.3),
                        [0.7 * c for c in self.shutter],
                    )
        outer = opening(shape, cx, top - edge, width + 2 * edge, height + edge)
        s.paint(outer, self.trim, 2.5)
        light = self.layout.uniform(0, 1)
        glass = np.array([0.16, 0.2, 0.25]) * (0.6 + 0.9 * light)
        if light > 0.8:
            glass = np.array([0.62, 0.6, 0.52]) * self.layout.uniform(0.7, 1.1)
        s.paint(opening(shape, cx, top, width, height), np.clip(glass, 0, 1), -4)
        reflection = opening(shape, cx, top, width, height).clip(
            (cx - width / 2, top), (cx + width * 0.1, top + height * 0.6)
        )
        s.paint(reflection, np.clip(glass * 1.5, 0, 1))
        nx, ny = self.panes
        bar = max(1.1, 0.06 * width)
        for i in range(1, nx + 1):
            x = cx - width / 2 + width * i / (nx + 1)
            s.paint(
                rectangle(x - bar / 2, top + 0.12 * width, x + bar / 2, top + height),
                self.frame,
                -3,
            )
        for i in range(1, ny + 1):
            y = top + height * i / (ny + 1)
            s.paint(
                rectangle(cx - width / 2, y - bar / 2, cx + width / 2, y + bar / 2), self.frame, -3
            )
        s.paint(
            rectangle(cx - width * 0.7, top + height, cx + width * 0.7, top + height + 3.5),
            self.trim,
            5,
        )

    def band(self, y: float, thickness: float, level: float, overhang: float = 3) -> None:
        """Draw a horizontal moulding over the wall's whole width."""
        self.surface.paint(
            rectangle(self.left - overhang, y, self.right + overhang, y + thickness),
            self.trim,
            level,
        )

    def pediment(self, cx: float, y: float, width: float, height: float, level: float) -> None:
        """Draw a triangular pediment whose foot is at ``y``."""
        s = self.surface
        s.paint([[cx - width / 2, y], [cx, y - height], [cx + width / 2, y]], self.trim, level)
        inner = 0.78
        s.paint(
            [
                [cx - width / 2 * inner, y - 0.14 * height],
                [cx, y - height * 0.84],
                [cx + width / 2 * inner, y - 0.14 * height],
            ],
            self.wall,
            level - 3,
        )

    def walls(self) -> None:
        """Draw the wall, its base and the mouldings between floors."""
        s = self.surface
        s.paint(rectangle(self.left, self.top, self.right, self.foot), self.wall, 0)
        if self.rusticated:
            s.paint(
                rectangle(self.left, self.foot - self.floor, self.right, self.foot), self.base, 1
            )
        s.paint(rectangle(self.left - 2, self.foot - 10, self.right + 2, self.foot), self.base, 4)
        every = int(self.layout.integers(1, 3))
        for i in range(1, self.floors, every):
            self.band(self.foot - i * self.floor - 5, self.layout.uniform(3, 8), 4)
        self.band(self.top - 4, self.layout.uniform(7, 14), 7, overhang=6)

    def openings(self) -> None:
        """Draw windows floor by floor, pilasters or columns, and the portal."""
        rng, s = self.layout, self.surface
        pilasters = pick(rng, ("none", "none", "each", "pairs", "ends"))
        for i in range(self.bays + 1):
            wanted = pilasters == "each" or (pilasters == "pairs" and i % 2 == 0)
            if wanted or (pilasters == "ends" and i in (0, self.bays)):
                x, half = self.left + i * self.bay, self.bay * 0.075
                s.paint(rectangle(x - half, self.top + 8, x + half, self.foot - 8), self.trim, 4)
                for y in (self.top + 8, self.foot - 16):
                    s.paint(rectangle(x - half * 1.6, y, x + half * 1.6, y + 6), self.trim, 5.5)
        middle = (self.bays - 1) / 2
        special = chance(rng, 0.5)
        blind = int(rng.integers(2, 6)) if chance(rng, 0.2) else 0
        for f in range(self.floors):
            shape = self.shape if chance(rng, 0.7) else pick(rng, WINDOW_SHAPES)
            width = self.bay * rng.uniform(0.3, 0.5)
            height = self.floor * rng.uniform(0.42, 0.68)
            decoration = pick(rng, ("none", "none", "pediment", "hood", "balcony"))
            ceiling = self.foot - (f + 1) * self.floor
            for b in range(self.bays):
                central = special and abs(b - middle) < 0.6
                if f == 0 and abs(b - middle) < 0.6:
                    continue
                if blind and (b + f) % blind == 0 and not central:
                    continue
                cx = self.left + (b + 0.5) * self.bay
                y = ceiling + 0.28 * self.floor
                kind = "arch" if central else shape
                self.window(kind, cx, y, width * (1.25 if central else 1), height)
                if decoration == "pediment":
                    self.pediment(cx, y - 6, width * 1.7, width * 0.4, 5)
                elif decoration == "hood":
                    s.paint(
                        rectangle(cx - width * 0.75, y - 10, cx + width * 0.75, y - 6), self.trim, 6
                    )
                elif decoration == "balcony" and f > 0:
                    self.balcony(cx, y + height, width * 1.7)
        self.portal()

    def balcony(self, cx: float, y: float, width: float) -> None:
        """Draw a small balcony with a railing."""
        s, dark = self.surface, (0.12, 0.12, 0.13)
        s.paint(rectangle(cx - width / 2, y, cx + width / 2, y + 4), self.trim, 8)
        for x in np.arange(cx - width / 2, cx + width / 2, 4.5):
            s.paint(rectangle(x, y - 14, x + 1.2, y), dark)
        s.paint(rectangle(cx - width / 2, y - 15, cx + width / 2, y - 13), dark, 6)

    def portal(self) -> None:
        """Draw the door, with steps, and perhaps columns and a pediment before it."""
        rng, s = self.layout, self.surface
        width = self.bay * rng.uniform(0.6, 0.95)
        height = self.floor * rng.uniform(0.78, 1.0)
        shape = pick(rng, ("arch", "pointed", "rect", "segment"))
        cx, y = self.center, self.foot - height
        s.paint(opening(shape, cx, y - 5, width + 12, height + 5), self.trim, 4)
        s.paint(opening(shape, cx, y, width, height), self.door_color, -5)
        for i in range(-1, 2):
            x = cx + i * width * 0.3
            s.paint(
                rectangle(x - 1, y + 0.35 * width, x + 1, self.foot),
                [0.6 * c for c in self.door_color],
            )
        if chance(rng, 0.4):
            count, span = int(pick(rng, (2, 4, 6))), width * rng.uniform(1.5, 2.4)
            crown = y - 12
            for i in range(count):
                x = cx - span / 2 + span * i / (count - 1)
                half = width * 0.07
                for part in np.linspace(-1, 1, 5)[:-1]:  # rounding: lighter towards the middle
                    level = 9 + 3 * np.sqrt(max(0.0, 1 - (part + 0.25) ** 2))
                    s.paint(
                        rectangle(x + part * half, crown, x + (part + 0.5) * half, self.foot),
                        self.trim,
                        level,
                    )
                s.paint(rectangle(x - half * 1.6, crown, x + half * 1.6, crown + 5), self.trim, 13)
            s.paint(rectangle(cx - span * 0.58, crown - 9, cx + span * 0.58, crown), self.trim, 14)
            self.pediment(cx, crown - 9, span * 1.2, span * rng.uniform(0.18, 0.35), 13)
        for i in range(3):
            s.paint(
                rectangle(
                    cx - width * (0.75 + 0.12 * i),
                    self.foot - 8 + 3 * i,
                    cx + width * (0.75 + 0.12 * i),
                    self.foot,
                ),
                self.trim,
                8 + i,
            )

    def roofs(self) -> None:
        """Draw the roof line: tiled, gabled, stepped, balustraded or crenellated."""
        rng, s = self.layout, self.surface
        kind = pick(rng, ("hip", "hip", "gable", "stepped", "balustrade", "battlements", "attic"))
        rise = self.floor * rng.uniform(0.7, 1.5)
        left, right, top = self.left - 6, self.right + 6, self.top - 3
        if kind == "hip":
            inset = rng.uniform(0.05, 0.25) * self.wall_width
            s.paint(
                [
                    [left, top],
                    [left + inset, top - rise],
                    [right - inset, top - rise],
                    [right, top],
                ],
                self.roof,
                2,
            )
            dormers = int(pick(rng, (0, 2, 3, self.bays)))
            for i in range(dormers):
                cx = left + inset + (right - left - 2 * inset) * (i + 0.5) / dormers
                size = min(self.bay * 0.42, rise * 0.5)
                s.paint(
                    rectangle(cx - size / 2, top - rise * 0.62, cx + size / 2, top - 2),
                    self.wall,
                    5,
                )
                self.window("rect", cx, top - rise * 0.55, size * 0.5, rise * 0.35)
                self.pediment(cx, top - rise * 0.62, size * 1.3, size * 0.5, 6)
            for _ in range(int(rng.integers(0, 4))):
                x = rng.uniform(left + inset, right - inset)
                s.paint(rectangle(x - 6, top - rise - 20, x + 6, top - rise * 0.7), self.wall, 5)
        elif kind == "gable":
            s.paint([[left, top], [self.center, top - rise * 1.25], [right, top]], self.trim, 5)
            s.paint(
                [
                    [left + 14, top - 2],
                    [self.center, top - rise * 1.25 + 10],
                    [right - 14, top - 2],
                ],
                self.wall,
                1,
            )
            size = rise * 0.45
            self.window("round", self.center, top - rise * 0.75, size, size)
        elif kind == "stepped":
            steps = int(rng.integers(3, 6))
            for i in range(steps):
                inset = (right - left) / 2 * i / steps
                y = top - rise * 1.3 * (i + 1) / steps
                s.paint(rectangle(left + inset, y, right - inset, top), self.wall, 1)
                s.paint(rectangle(left + inset - 2, y - 4, right - inset + 2, y), self.trim, 4)
        else:
            low = 18.0
            s.paint(rectangle(left, top - low, right, top), self.wall, 1)
            if kind == "battlements":
                for x in np.arange(left, right - 8, 22):
                    s.paint(rectangle(x, top - low - 13, x + 12, top - low), self.wall, 1)
            else:
                s.paint(rectangle(left - 3, top - low - 4, right + 3, top - low), self.trim, 6)
                for x in np.arange(left + 6, right - 6, 9):
                    s.paint(rectangle(x, top - low + 3, x + 4, top - 3), self.trim, 4)
            if kind == "attic":
                width = self.bay * min(3, self.bays) * 0.95
                s.paint(
                    rectangle(self.center - width / 2, top - rise, self.center + width / 2, top),
                    self.wall,
                    3,
                )
                self.pediment(self.center, top - rise, width * 1.1, rise * 0.45, 6)
                self.window("round", self.center, top - rise * 0.8, rise * 0.5, rise * 0.5)

    def towers(self) -> None:
        """Draw one or two towers with a spire, a dome or battlements."""
        rng, s = self.layout, self.surface
        kind = pick(rng, ("none", "none", "center", "pair", "left"))
        if kind == "none":
            return
        half = self.bay * rng.uniform(0.38, 0.55)
        places = {
            "center": [self.center],
            "pair": [self.left + half, self.right - half],
            "left": [self.left + half],
        }[kind]
        top = self.top - self.floor * rng.uniform(0.5, 1.0)
        cap, height = pick(rng, ("spire", "dome", "flat")), self.floor * rng.uniform(0.6, 1.2)
        foot = self.foot if kind != "center" else self.top
        clock = chance(rng, 0.4)
        for cx in places:
            s.paint(rectangle(cx - half, top, cx + half, foot), self.wall, 5)
            for edge in (cx - half, cx + half - 4):
                s.paint(rectangle(edge, top, edge + 4, foot), self.trim, 6)
            s.paint(rectangle(cx - half - 3, top - 3, cx + half + 3, top + 4), self.trim, 9)
            levels = int((foot - top) / self.floor)
            for i in range(levels):
                y = top + 12 + i * self.floor
                if i == 0 and clock:
                    size = half * 1.1
                    s.paint(opening("round", cx, y, size, size), self.trim, 8)
                    s.paint(opening("round", cx, y + 2, size - 4, size - 4), (0.93, 0.9, 0.8), 7)
                    s.paint(rectangle(cx - 1, y + 5, cx + 1, y + size / 2), (0.1, 0.1, 0.1))
                    s.paint(
                        rectangle(cx, y + size / 2 - 1, cx + size * 0.3, y + size / 2 + 1),
                        (0.1, 0.1, 0.1),
                    )
                else:
                    self.window(self.shape, cx, y, half * 0.7, self.floor * 0.5)
            if cap == "spire":
                s.paint(
                    [[cx - half - 4, top - 2], [cx, top - height * 1.5], [cx + half + 4, top - 2]],
                    self.roof,
                    4,
                )
            elif cap == "dome":
                dome = opening("arch", cx, top - 2 - height * 0.8, 2 * half + 4, height * 0.8)
                s.paint(dome, self.roof, 5)
                s.paint(
                    rectangle(cx - 3, top - height * 1.05, cx + 3, top - height * 0.75),
                    self.trim,
                    6,
                )
            else:
                for x in np.arange(cx - half - 3, cx + half, 12):
                    s.paint(rectangle(x, top - 13, x + 7, top - 2), self.wall, 6)

    def build(self) -> Relief:
        """Draw everything and return the covered part."""
        self.walls()
        self.roofs()
        self.openings()
        self.towers()
        return self.surface.cropped()


def draw_facade(style: np.random.Generator, layout: np.random.Generator) -> Relief:
    """Draw a facade about 200 to 560 pixels wide, standing on the surface's last row."""
    return _Builder(style, layout).build()


def draw_side_wall(style: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return the plain side of a building of the same style, (height, width, 4) uint8 RGBA."""
    # The layout of the probe is irrelevant: only its materials are used.
    builder = _Builder(style, np.random.default_rng(0))
    side = Relief(height, width)
    wall = np.tile(builder.wall, (height // builder.rows + 1, width // builder.columns + 1, 1))
    side.albedo = np.ascontiguousarray(wall[:height, :width])
    builder.surface, side.alpha[:] = side, 1.0
    builder.trim = np.full_like(side.albedo, builder.trim.mean(axis=(0, 1)))
    step_x, step_y = 70, 88
    for x in range(step_x // 2, width - 20, step_x):
        for y in range(24, height - 60, step_y):
            builder.window(builder.shape, x, y, 22, 40)
    return side.lit(0.5, 0.7, 0.4)
