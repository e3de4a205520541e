"""Boolean map saliency (BMS): a pixel is salient where thresholded maps surround it.

Zhang and Sclaroff, "Exploit Surroundedness for Saliency Detection: A Boolean Map Approach", TPAMI
2016, and its forerunner "Saliency Detection: A Boolean Map Approach", ICCV 2013. Each colour
channel f is thresholded at many levels t; what a threshold's map cuts off from the image border is
surrounded; the surrounded regions are dilated, divided by their L2 norm and added up.

No map is flooded on its own. A pixel of {f > t} is cut off from the border exactly if t >= B, where
B, the best of all paths to the border, is the greyscale reconstruction of f from its border; so
two floods of the channel say for every pixel at which thresholds it is surrounded. These become the
bits of a word, one bit a map, and a single pass of OR dilates all maps at once.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np

from blcf_utils.config.saliency import BmsConfig
from blcf_utils.saliency.base import check_image

ICCV_CLOSING = 5
LARGEST_BLUR = 51
# Rotated Lab is exact to 1e-4; a channel that varies by less holds rounding and no picture.
LEAST_RANGE = 1e-3
WORD_MAPS = 32


def bms(image: np.ndarray, config: BmsConfig | None = None) -> np.ndarray:
    """Return the Boolean map saliency of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: settings; the defaults when None.

    Returns:
        (H, W) uint8; all zero where nothing is surrounded. As in the authors' code the sum is
        stretched to 255 before the final blur and not again after it, so the maximum is lower.

    Raises:
        StudyError: not such an image.
    """
    config = config or BmsConfig()
    check_image(image)
    total = attention(feature_channels(image, config), config)
    map_ = _stretched(total)
    map_ = _dilated(map_, max(1, config.scaled(config.kappa)))
    sigma = config.scaled(config.sigma)
    if sigma > 0:
        side = min(4 * sigma + 1, LARGEST_BLUR)
        map_ = cv2.GaussianBlur(map_, (side, side), sigma)
    return cv2.resize(map_, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def feature_channels(image: np.ndarray, config: BmsConfig) -> list[np.ndarray]:
    """Return the three channels (h, w) uint8 that are thresholded, the longer side ``max_dim``.

    The authors whiten with (C + 50 I)^(-1/2). Its regulariser leaves the eigenvectors of the
    covariance C as they are, and its division by standard deviations is undone when each channel is
    stretched to 0..255: a rotation to the principal axes remains. An axis points where its largest
    component is positive (theirs is whatever the decomposition returns).
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    size = max(1, config.max_dim * width // longer), max(1, config.max_dim * height // longer)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if config.version == "iccv":
        small = cv2.GaussianBlur(small, (3, 3), 1)
    code = cv2.COLOR_BGR2Lab if config.lab == "authors" else cv2.COLOR_RGB2Lab
    lab = cv2.cvtColor(small, code)
    if config.version == "iccv":
        return list(cv2.split(lab))
    if config.whitening:
        # Sums of whole numbers: exact in float64, hence the same on any machine.
        pixels = lab.reshape(-1, 3).astype(np.float64)
        mean = pixels.mean(0)
        _, axes = np.linalg.eigh(pixels.T @ pixels / len(pixels) - np.outer(mean, mean))
        largest = np.abs(axes).argmax(0)
        axes = axes * np.sign(axes[largest, np.arange(3)])
        lab = cv2.transform(lab.astype(np.float32), axes.T)
    return [cv2.medianBlur(_stretched(channel, LEAST_RANGE), 3) for channel in cv2.split(lab)]


def attention(channels: list[np.ndarray], config: BmsConfig) -> np.ndarray:
    """Return the sum (h, w) float64 of the normalised attention maps of all thresholds.

    TPAMI: surrounded regions above and below a threshold are two maps, dilated and normalised each.
    ICCV: they are one map, and both polarities are closed (5 pixels) first. Closing all maps
    {f > t} is closing f; closing {f <= t} is opening f.
    """
    total = np.zeros(channels[0].shape)
    radius = (max(1, config.scaled(config.omega)) - 1) // 2
    for channel in channels:
        low, high = int(channel.min()), int(channel.max())
        count = -(-(high - low) // config.delta)
        if count == 0:
            continue
        # Of a grey level: how many thresholds low, low + delta, ... lie below it.
        below = np.clip(-(-(np.arange(256) - low) // config.delta), 0, count).astype(np.uint8)
        if config.version == "tpami":
            levels = below[channel]
            least, most = _surrounded(levels, count)
            _add_maps(least, levels, levels, most, count, radius, total)
        else:
            closing = cv2.getStructuringElement(cv2.MORPH_RECT, (ICCV_CLOSING, ICCV_CLOSING))
            closed = cv2.morphologyEx(channel, cv2.MORPH_CLOSE, closing)
            opened = cv2.morphologyEx(channel, cv2.MORPH_OPEN, closing)
            bounds = (*_surrounded(below[closed], count), *_surrounded(below[opened], count))
            _add_maps(*bounds, count, radius, total)
    return total


def _surrounded(levels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds (h, w) uint8: a pixel is surrounded in the maps k with first <= k < second.

    ``levels`` says in how many maps, 0 to ``count``, a pixel is set.
    """
    inverted = (count - levels).astype(np.uint8)
    return _reconstruct(levels, count), count - _reconstruct(inverted, count)


def _stretched(values: np.ndarray, least_range: float = 0.0) -> np.ndarray:
    """Return the values stretched to 0..255 and rounded; zeros if they vary no more than that."""
    low, high, _, _ = cv2.minMaxLoc(values)
    if high - low <= least_range:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) * (255.0 / (high - low))).astype(np.uint8)


def _dilated(map_: np.ndarray, width: int) -> np.ndarray:
    """Return the maximum of each pixel's square, of ``width`` or, if even, one less."""
    side = 2 * ((width - 1) // 2) + 1
    return cv2.dilate(map_, cv2.getStructuringElement(cv2.MORPH_RECT, (side, side)))


@numba.njit(cache=True, nogil=True)
def _reconstruct(levels, top):
    """Return the greyscale reconstruction of ``levels`` (h, w) uint8 from the image border.

    The value of a pixel is the largest v for which a path of 8-neighbours, all of level v or more,
    leads to the border. Levels are flooded from ``top`` downwards; every pixel is queued once, in a
    list of its value (Meyer's flood with one list a level).
    """
    height, width = levels.shape
    stride = width + 2
    level = np.zeros((height + 2) * stride, np.uint8)
    # Pixels not yet reached are -1; the frame around the image counts as reached.
    reached = np.zeros((height + 2) * stride, np.int16)
    following = np.empty((height + 2) * stride, np.int32)
    first = np.full(top + 1, -1, np.int32)
    for y in range(height):
        start = (y + 1) * stride + 1
        for x in range(width):
            pixel = start + x
            value = levels[y, x]
            level[pixel] = value
            if y == 0 or y == height - 1 or x == 0 or x == width - 1:
                reached[pixel] = value
                following[pixel] = first[value]
                first[value] = pixel
            else:
                reached[pixel] = -1
    for current in range(top, -1, -1):
        while first[current] >= 0:
            pixel = np.int64(first[current])
            first[current] = following[pixel]
            for row in (pixel - stride, pixel, pixel + stride):
                for neighbour in range(row - 1, row + 2):
                    if reached[neighbour] < 0:
                        value = min(current, np.int64(level[neighbour]))
                        reached[neighbour] = value
                        following[neighbour] = first[value]
                        first[value] = neighbour
    result = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            result[y, x] = reached[(y + 1) * stride + 1 + x]
    return result


@numba.njit(cache=True, nogil=True)
def _add_maps(first_a, last_a, first_b, last_b, count, radius, total):
    """Add two stacks of binary maps, each map dilated and divided by its L2 norm.

    Args:
        first_a, last_a: (h, w) uint8; map k of the first stack is set where
            ``first_a <= k < last_a``.
        first_b, last_b: the same for the second stack.
        count: how many maps a stack has.
        radius: of the dilation by a square, in pixels.
        total: (h, w) float64, added to.
    """
    height, width = total.shape
    side = 2 * radius + 1
    words = np.empty((height + 2 * radius, width + 2 * radius), np.uint64)
    ones = np.empty(256, np.uint64)
    counts = np.empty((8, 256), np.int64)
    sums = np.empty((8, 256), np.float64)
    for start in range(0, count, WORD_MAPS):
        for value in range(256):
            bits = min(max(value - start, 0), WORD_MAPS)
            ones[value] = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
        words[:] = 0
        for y in range(height):
            for x in range(width):
                a = ones[first_a[y, x]] ^ ones[last_a[y, x]]
                b = ones[first_b[y, x]] ^ ones[last_b[y, x]]
                words[y + radius, x + radius] = a | (b << np.uint64(WORD_MAPS))
        _or_window(words, side)
        counts[:] = 0
        for y in range(height):
            for x in range(width):
                word = words[y, x]
                if word != 0:
                    for byte in range(8):
                        counts[byte, (word >> np.uint64(8 * byte)) & np.uint64(255)] += 1
        for byte in range(8):
            sums[byte] = 0
            for bit in range(8):
                pixels = 0
                for value in range(256):
                    if (value >> bit) & 1:
                        pixels += counts[byte, value]
                if pixels:
                    for value in range(256):
                        if (value >> bit) & 1:
                            sums[byte, value] += 1 / np.sqrt(pixels)
        for y in range(height):
            for x in range(width):
                word = words[y, x]
                if word != 0:
                    value = 0.0
                    for byte in range(8):
                        value += sums[byte, (word >> np.uint64(8 * byte)) & np.uint64(255)]
                    total[y, x] += value


@numba.njit(cache=True, nogil=True)
def _or_window(words, side):
    """Replace each word by the OR of the ``side`` x ``side`` words from it to the right and down.

    Windows are doubled until they are as wide as asked for: the last step overlaps.
    """
    height, width = words.shape
    done = 1
    while done < side:
        step = min(done, side - done)
        for y in range(height):
            for x in range(width - step):
                words[y, x] |= words[y, x + step]
        for y in range(height - step):
            for x in range(width):
                words[y, x] |= words[y + step, x]
        done += step
