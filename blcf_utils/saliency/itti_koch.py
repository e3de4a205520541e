"""Itti-Koch saliency: what differs from its surround in intensity, colour or orientation.

Itti, Koch and Niebur, "A Model of Saliency-Based Visual Attention for Rapid Scene Analysis", TPAMI
1998, up to the saliency map (no winner-take-all); the iterative normalisation is that of Itti and
Koch, "A saliency-based search mechanism for overt and covert shifts of visual attention", Vision
Research 2000. Where the papers leave a choice:

- Colour opponents are signed and a map is their difference between centre and surround, as the
  paper's text on double opponency says. Its formulas (2) and (3) exchange the surround's two
  colours; read literally, they make a red spot on green vanish and an evenly red image salient.
- Levels of the pyramids are halved about the image's centre (kernel 1 5 10 10 5 1), so that a
  coarse level lies where the fine one does and a mirrored image has the mirrored map.
- Gabor filters are a cosine under a Gaussian, 9x9, period 7 and deviation 7/3 pixels, without mean
  and of unit length. Responses keep their sign: the energy of a pair of phases makes an even sky
  salient, as it differs most from the strong edges that the coarsest levels see everywhere.
- Maps are brought to the map level before they are normalised, and sums are taken there.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numba
import numpy as np

from blcf_utils.config.saliency import IttiKochConfig
from blcf_utils.saliency.base import check_image

PARTS = ("intensity", "colour", "orientation")
ORIENTATIONS = 4
GABOR_SIDE, GABOR_PERIOD, GABOR_DEVIATION = 9, 7.0, 7 / 3
SMOOTHING = np.array([1, 4, 6, 4, 1], np.float32) / 16
# Rounding of float32 along the pyramids is near 1e-6; one grey level is 4e-3.
LEAST_CONTRAST = 1e-5
# Of a map's range: what is lower does not count as a local maximum.
LEAST_MAXIMUM = 0.1
# Itti & Koch 2000: deviation as a share of the map's longer side, and gain, of the excitation and
# of the inhibition of one axis; what is taken off everywhere, as a share of the maximum.
EXCITATION, INHIBITION = (0.02, 0.5), (0.25, 1.5)
GLOBAL_INHIBITION = 0.02


def itti_koch(image: np.ndarray, config: IttiKochConfig | None = None) -> np.ndarray:
    """Return the Itti-Koch saliency of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: settings; the defaults when None.

    Returns:
        (H, W) uint8 with maximum 255, or all zero where nothing is salient.

    Raises:
        StudyError: not such an image.
    """
    config = config or IttiKochConfig()
    parts = _conspicuity(image, config)
    # Iterative suppression is kept: a second stretch to the full range would undo it.
    normalised = _normalise(parts, config, rescale=config.normalisation == "local_max")
    weights = np.array(config.weights, np.float32)
    map_ = _resized(np.tensordot(weights, normalised, 1), image.shape[:2])
    highest = map_.max()
    if highest <= 0:
        return np.zeros(image.shape[:2], np.uint8)
    return np.rint(map_ * (255 / highest)).astype(np.uint8)


def itti_koch_parts(
    image: np.ndarray, config: IttiKochConfig | None = None
) -> dict[str, np.ndarray]:
    """Return the conspicuity maps whose normalised sum is the saliency map.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: settings; the defaults when None.

    Returns:
        (H, W) float32 maps, not negative, named intensity, colour and orientation.

    Raises:
        StudyError: not such an image.
    """
    parts = _conspicuity(image, config or IttiKochConfig())
    return {name: _resized(part, image.shape[:2]) for name, part in zip(PARTS, parts, strict=True)}


def _conspicuity(image: np.ndarray, config: IttiKochConfig) -> np.ndarray:
    """Return the three conspicuity maps (3, h, w) float32 at the map level."""
    check_image(image)
    maps = _normalise(_feature_maps(image, config), config)
    intensity = maps[:, 0].sum(0)
    colour = maps[:, 1:3].sum((0, 1))
    angles = _normalise(maps[:, 3:].sum(0), config, rescale=config.normalisation == "local_max")
    return np.stack([intensity, colour, angles.sum(0)])


def _feature_maps(image: np.ndarray, config: IttiKochConfig) -> np.ndarray:
    """Return the centre-surround differences at the map level.

    Returns:
        (pairs of levels, 7, h, w) float32: intensity, red-green, blue-yellow, orientations.
    """
    height, width = image.shape[:2]
    scale = config.longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    level = _opponents(np.ascontiguousarray(cv2.resize(image, size, interpolation=method)))
    deepest = max(config.map_level, max(config.centre_levels) + max(config.deltas))
    used = {c + d for c in config.centre_levels for d in (0, *config.deltas)}
    features, sizes = {}, []
    for number in range(deepest + 1):
        level = _halved(level) if number else level
        sizes.append((level.shape[1], level.shape[0]))
        if number in used:
            features[number] = level, _orientations(level[:, :, 0])
    width, height = sizes[config.map_level]
    maps = []
    for centre in config.centre_levels:
        method = cv2.INTER_AREA if centre < config.map_level else cv2.INTER_LINEAR
        for delta in config.deltas:
            # Two groups, as OpenCV resizes at most four channels at once.
            pair = []
            for fine, coarse in zip(features[centre], features[centre + delta], strict=True):
                difference = cv2.absdiff(fine, cv2.resize(coarse, sizes[centre]))
                at_map = cv2.resize(difference, (width, height), interpolation=method)
                pair.append(at_map.reshape(height, width, -1))
            maps.append(np.concatenate(pair, axis=2))
    return np.ascontiguousarray(np.stack(maps).transpose(0, 3, 1, 2))


def _halved(level: np.ndarray) -> np.ndarray:
    """Return the next level of a pyramid, each side half as long, rounded up."""
    smooth = cv2.sepFilter2D(level, -1, SMOOTHING, SMOOTHING, borderType=cv2.BORDER_REFLECT)
    size = (level.shape[1] + 1) // 2, (level.shape[0] + 1) // 2
    return cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=1)
def _gabor_bank() -> tuple[np.ndarray, ...]:
    """Return the filters for stripes at 0, 45, 90 and 135 degrees."""
    half = GABOR_SIDE // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * GABOR_DEVIATION**2))
    bank = []
    for angle in np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS:
        across = y * np.cos(angle) + x * np.sin(angle)
        kernel = envelope * np.cos(2 * np.pi / GABOR_PERIOD * across)
        kernel -= kernel.mean()
        bank.append((kernel / np.linalg.norm(kernel)).astype(np.float32))
    return tuple(bank)


def _orientations(intensity: np.ndarray) -> np.ndarray:
    """Return the signed responses (h, w, 4) of the Gabor filters."""
    intensity = np.ascontiguousarray(intensity)
    border = cv2.BORDER_REFLECT
    return np.dstack([cv2.filter2D(intensity, -1, k, borderType=border) for k in _gabor_bank()])


def _resized(map_: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the map at the image's (height, width)."""
    smaller = shape[0] <= map_.shape[0] and shape[1] <= map_.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    # Cubic interpolation dips below zero beside a peak.
    return np.maximum(cv2.resize(map_, shape[::-1], interpolation=method), 0)


def _normalise(maps: np.ndarray, config: IttiKochConfig, rescale: bool = True) -> np.ndarray:
    """Return N(.) of each map (..., h, w): few strong peaks are promoted, many similar suppressed.

    ``rescale`` stretches each map to 0..1 first, which removes the amplitudes of its feature.
    """
    flat = np.array(maps.reshape(-1, *maps.shape[-2:]), np.float32)
    if rescale:
        low = flat.min((1, 2), keepdims=True)
        extent = flat.max((1, 2), keepdims=True) - low
        flat = np.where(extent > LEAST_CONTRAST, (flat - low) / np.maximum(extent, 1e-30), 0)
        flat = flat.astype(np.float32)
    if config.normalisation == "local_max":
        flat *= _local_maximum_factors(flat)[:, None, None]
    else:
        flat = _iterated(flat, config.iterations)
    return flat.reshape(maps.shape)


def _iterated(maps: np.ndarray, iterations: int) -> np.ndarray:
    """Return the maps (n, h, w) after competition by a difference of Gaussians (2000, eq. 2)."""
    height, width = maps.shape[1:]
    longer = max(height, width)
    for _ in range(iterations):
        change = -GLOBAL_INHIBITION * maps.max((1, 2), keepdims=True)
        for sign, (share, gain) in ((1, EXCITATION), (-1, INHIBITION)):
            rows = _gaussian_matrix(height, share * longer, gain)
            columns = _gaussian_matrix(width, share * longer, gain)
            change = change + sign * (rows @ maps @ columns.T)
        maps = np.maximum(maps + change, 0)
    return maps


@lru_cache(maxsize=256)
def _gaussian_matrix(side: int, deviation: float, gain: float) -> np.ndarray:
    """Return the (side, side) matrix that smooths along one axis; each row sums to ``gain``.

    Rows are renormalised, so that the image border does not look like a dark surround. Tails below
    1 % of the peak are cut off.
    """
    distance = np.subtract.outer(np.arange(side), np.arange(side)) / deviation
    kernel = np.exp(-(distance**2) / 2)
    kernel[kernel < 0.01] = 0
    return (gain * kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _opponents(image):
    """Return intensity, red-green and blue-yellow (h, w, 3) float32 of an RGB image of uint8.

    Colours are divided by intensity where it exceeds a tenth of the image's maximum; darker pixels
    have no hue.
    """
    height, width = image.shape[:2]
    result = np.zeros((height, width, 3), np.float32)
    brightest = 0
    for y in range(height):
        for x in range(width):
            total = np.int32(image[y, x, 0]) + np.int32(image[y, x, 1]) + np.int32(image[y, x, 2])
            brightest = max(brightest, total)
            result[y, x, 0] = total / np.float32(765)
    for y in range(height):
        for x in range(width):
            r, g, b = np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2])
            total = r + g + b
            if 10 * total > brightest:
                red = max(0, 2 * r - g - b)
                green = max(0, 2 * g - r - b)
                blue = max(0, 2 * b - r - g)
                yellow = max(0, r + g - abs(r - g) - 2 * b)
                # Twice the paper's channels, so that they are whole, over three times intensity.
                scale = np.float32(1.5) / total
                result[y, x, 1] = (red - green) * scale
                result[y, x, 2] = (blue - yellow) * scale
    return result


@numba.njit(cache=True, nogil=True)
def _local_maximum_factors(maps):
    """Return (1 - m)^2 of each map (n, h, w) in 0..1: m is the mean of all maxima but the highest.

    A local maximum is above a tenth and not below any of its 8 neighbours; of equal neighbours only
    the first in reading order counts. A map without a second one has the factor 1.
    """
    number, height, width = maps.shape
    factors = np.ones(number, np.float32)
    for n in range(number):
        highest, total, count = 0.0, 0.0, 0
        for y in range(height):
            for x in range(width):
                value = maps[n, y, x]
                if value <= LEAST_MAXIMUM:
                    continue
                top = True
                for v in range(max(0, y - 1), min(height, y + 2)):
                    for u in range(max(0, x - 1), min(width, x + 2)):
                        earlier = v < y or (v == y and u < x)
                        if maps[n, v, u] > value or (earlier and maps[n, v, u] == value):
                            top = False
                if top:
                    highest = max(highest, np.float64(value))
                    total += value
                    count += 1
        if count > 1:
            factors[n] = (1 - (total - highest) / (count - 1)) ** 2
    return factors
