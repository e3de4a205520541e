"""Itti-Koch saliency against plain loops over the papers' formulas, and on known pop-out images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.itti_koch import IttiKochConfig, itti_koch, itti_koch_parts

BOTH = pytest.mark.parametrize("normalisation", ["local_max", "iterative"])


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Return coloured blobs of several sizes, with some noise and a dark part."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((height, width, 3))
    blobs = sum(
        size * ndimage.gaussian_filter(noise, (size, size, 0), mode="wrap") for size in (1, 3, 8)
    )
    image = np.clip(128 + 45 * blobs, 0, 255)
    image[: height // 4, : width // 4] /= 20
    return image.astype(np.uint8)


def bars(odd: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return vertical bars on grey, the one at row and column ``odd`` horizontal, and its place."""
    image = np.full((480, 640, 3), 100, np.uint8)
    place = np.zeros((480, 640), bool)
    for row in range(4):
        for column in range(6):
            y, x = 60 + 120 * row, 50 + 108 * column
            tall, wide = (6, 26) if (row, column) == odd else (26, 6)
            image[y - tall : y + tall, x - wide : x + wide] = 180
            if (row, column) == odd:
                place[y - 40 : y + 40, x - 40 : x + 40] = True
    return image, place


def disc(on, off):
    """Return a disc on an even background, and where it is."""
    y, x = np.mgrid[:300, :400]
    inside = (y - 110) ** 2 + (x - 250) ** 2 <= 25**2
    return np.where(inside[:, :, None], on, off).astype(np.uint8), inside


def linear(source: int, target: int) -> np.ndarray:
    """Return the matrix that interpolates ``source`` samples at ``target`` pixel centres."""
    matrix = np.zeros((target, source))
    for i in range(target):
        at = np.clip((i + 0.5) * source / target - 0.5, 0, source - 1)
        left = min(int(at), max(source - 2, 0))
        matrix[i, left] += 1 - (at - left)
        matrix[i, min(left + 1, source - 1)] += at - left
    return matrix


def area(source: int, target: int) -> np.ndarray:
    """Return the matrix that averages ``source`` samples over each of ``target`` intervals."""
    matrix = np.zeros((target, source))
    for i in range(target):
        low, high = i * source / target, (i + 1) * source / target
        for j in range(source):
            matrix[i, j] = max(0, min(high, j + 1) - max(low, j)) / (high - low)
    return matrix


def resize(plane, shape, kernel):
    return kernel(plane.shape[0], shape[0]) @ plane @ kernel(plane.shape[1], shape[1]).T


def opponents(image):
    """The three planes of the 1998 paper, pixel by pixel."""
    rgb = image.astype(np.float64) / 255
    intensity = rgb.mean(2)
    red_green, blue_yellow = np.zeros(intensity.shape), np.zeros(intensity.shape)
    for y, x in np.ndindex(intensity.shape):
        if intensity[y, x] > intensity.max() / 10:
            r, g, b = rgb[y, x] / intensity[y, x]
            channels = r - (g + b) / 2, g - (r + b) / 2, b - (r + g) / 2
            yellow = (r + g) / 2 - abs(r - g) / 2 - b
            red, green, blue, yellow = (max(0, value) for value in (*channels, yellow))
            red_green[y, x], blue_yellow[y, x] = red - green, blue - yellow
    return intensity, red_green, blue_yellow


def pyramid(plane, levels):
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    result = [plane]
    for _ in range(levels):
        smooth = result[-1]
        for axis in (0, 1):
            smooth = ndimage.correlate1d(smooth, kernel, axis, mode="reflect")
        result.append(resize(smooth, [(side + 1) // 2 for side in smooth.shape], linear))
    return result


def gabor(degrees):
    kernel = np.zeros((9, 9))
    for y, x in np.ndindex(9, 9):
        along = (y - 4) * np.cos(np.radians(degrees)) + (x - 4) * np.sin(np.radians(degrees))
        bell = np.exp(-((y - 4) ** 2 + (x - 4) ** 2) / (2 * (7 / 3) ** 2))
        kernel[y, x] = bell * np.cos(2 * np.pi * along / 7)
    kernel -= kernel.mean()
    return kernel / np.sqrt((kernel**2).sum())


def stretch(plane):
    extent = plane.max() - plane.min()
    return (plane - plane.min()) / extent if extent > 1e-5 else np.zeros(plane.shape)


def by_local_maxima(plane, first):
    plane = stretch(plane)
    maxima = []
    for y, x in np.ndindex(plane.shape):
        around = plane[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if plane[y, x] > 0.1 and plane[y, x] == around.max():
            maxima.append(plane[y, x])
    others = sorted(maxima)[:-1]
    return plane * (1 - (np.mean(others) if others else 0)) ** 2


def by_iteration(plane, first):
    plane = stretch(plane) if first else plane
    longer = max(plane.shape)
    for _ in range(3):
        change = np.full(plane.shape, -0.02 * plane.max())
        for share, gain, sign in ((0.02, 0.5, 1), (0.25, 1.5, -1)):
            steps = np.arange(-longer, longer + 1)
            kernel = np.exp(-((steps / (share * longer)) ** 2) / 2)
            kernel[kernel < 0.01] = 0
            smooth = plane
            for axis in (0, 1):
                whole = ndimage.correlate1d(np.ones(plane.shape), kernel, axis, mode="constant")
                smooth = ndimage.correlate1d(smooth, kernel, axis, mode="constant") / whole
            change = change + sign * gain**2 * smooth
        plane = np.maximum(plane + change, 0)
    return plane


def reference(image, normalise):
    """The whole model at the image's size: the three conspicuity maps and their sum, level 4."""
    intensity, red_green, blue_yellow = opponents(image)
    pyramids = [pyramid(plane, 8) for plane in (intensity, red_green, blue_yellow)]
    for degrees in (0, 45, 90, 135):
        filtered = [ndimage.correlate(p, gabor(degrees), mode="reflect") for p in pyramids[0]]
        pyramids.append(filtered)
    shape = pyramids[0][4].shape
    sums = []
    for levels in pyramids:
        total = np.zeros(shape)
        for c in (2, 3, 4):
            for s in (c + 3, c + 4):
                difference = np.abs(levels[c] - resize(levels[s], levels[c].shape, linear))
                total += normalise(resize(difference, shape, area), True)
        sums.append(total)
    intensity, colour = sums[0], sums[1] + sums[2]
    orientation = sum(normalise(total, False) for total in sums[3:])
    parts = intensity, colour, orientation
    return parts, sum(normalise(part, False) for part in parts)


@pytest.mark.parametrize(
    ("normalisation", "operator"), [("local_max", by_local_maxima), ("iterative", by_iteration)]
)
@pytest.mark.parametrize("size", [(120, 160), (160, 111), (41, 160)])
def test_model_equals_the_formulas_in_plain_loops(normalisation, operator, size):
    image = scene(*size, seed=4)
    parts, total = reference(image, operator)
    config = IttiKochConfig(normalisation=normalisation, longest_side=160)
    found = itti_koch_parts(image, config)
    for (name, ours), theirs in zip(found.items(), parts, strict=True):
        expected = cv2.resize(theirs, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0)
        assert expected.max() > 0.01, name
        np.testing.assert_allclose(ours, expected, atol=1e-3 * expected.max(), err_msg=name)
    expected = cv2.resize(total, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0)
    difference = np.abs(itti_koch(image, config) - 255 * expected / expected.max())
    assert difference.max() <= 1


@BOTH
@pytest.mark.parametrize(
    ("on", "off"),
    [
        ((220, 30, 30), (30, 160, 40)),
        ((30, 160, 40), (220, 30, 30)),
        ((30, 60, 230), (190, 180, 9)),
    ],
)
def test_a_disc_of_the_opponent_colour_is_the_most_salient(normalisation, on, off):
    image, inside = disc(on, off)
    config = IttiKochConfig(normalisation=normalisation)
    found = itti_koch(image, config)
    assert found.shape == image.shape[:2]
    assert found.dtype == np.uint8
    assert found.max() == 255
    assert inside[np.unravel_index(found.argmax(), found.shape)]
    assert found[inside].mean() > 4 * found[~inside].mean()
    colour = itti_koch_parts(image, config)["colour"]
    assert inside[np.unravel_index(colour.argmax(), colour.shape)]


@BOTH
@pytest.mark.parametrize("odd", [(1, 2), (2, 4)])
def test_the_bar_of_another_orientation_pops_out(normalisation, odd):
    image, place = bars(odd)
    found = itti_koch_parts(image, IttiKochConfig(normalisation=normalisation))
    assert place[np.unravel_index(found["orientation"].argmax(), place.shape)]
    assert found["colour"].max() == 0


@BOTH
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (3, 177, 90), (200, 0, 0)])
def test_a_constant_image_has_no_saliency(normalisation, colour):
    image = np.full((50, 70, 3), colour, np.uint8)
    assert itti_koch(image, IttiKochConfig(normalisation=normalisation)).max() == 0


@pytest.mark.parametrize(("value", "hue"), [(76, False), (77, True)])
def test_pixels_below_a_tenth_of_the_maximum_have_no_hue(value, hue):
    image, _ = disc((value, 0, 0), (0, value, 0))
    image[:40] = 255  # of which a tenth is 25.5, three times that 76.5
    config = IttiKochConfig(longest_side=400)  # not resized: no blends of white and colours
    assert (itti_koch_parts(image, config)["colour"].max() > 0) == hue


@BOTH
@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_has_the_mirrored_map(normalisation, axis):
    image = scene(203, 150, seed=1)
    config = IttiKochConfig(normalisation=normalisation)
    there = itti_koch(image, config)
    back = np.flip(itti_koch(np.flip(image, axis), config), axis)
    assert np.abs(there.astype(int) - back).max() <= 2


@BOTH
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 500), (500, 3), (1, 2000), (900, 1200)])
def test_any_size_gives_a_map_of_that_size(normalisation, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    config = IttiKochConfig(normalisation=normalisation)
    found = itti_koch(image, config)
    assert found.shape == size
    assert found.dtype == np.uint8
    assert found.max() == (255 if size != (1, 1) else 0)
    parts = itti_koch_parts(image, config)
    assert list(parts) == ["intensity", "colour", "orientation"]
    assert all(part.shape == size and part.dtype == np.float32 for part in parts.values())


def test_grey_images_have_no_colour_saliency():
    grey = scene(120, 160, seed=2)[:, :, :1].repeat(3, axis=2)
    parts = itti_koch_parts(grey)
    assert parts["colour"].max() == 0
    assert parts["intensity"].max() > 0
    assert itti_koch(grey).max() == 255


def test_same_bytes_twice_and_in_threads():
    images = [scene(60 + 7 * i, 80, seed=i) for i in range(6)]
    alone = [itti_koch(image).tobytes() for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [found.tobytes() for found in pool.map(itti_koch, images)]
    assert alone == together
    assert len(set(alone)) == 6


def test_weights_choose_the_features():
    image, place = bars((1, 2))
    image[330:390, 500:560] = (200, 40, 40)
    only_colour = itti_koch(image, IttiKochConfig(weights=(0, 1, 0)))
    y, x = np.unravel_index(only_colour.argmax(), place.shape)
    assert 330 <= y < 390
    assert 500 <= x < 560
    only_orientation = itti_koch(image, IttiKochConfig(weights=(0, 0, 1)))
    assert (only_orientation != only_colour).any()


def test_other_levels_can_be_chosen():
    image = scene(120, 160, seed=6)
    fine = IttiKochConfig(centre_levels=(1, 2), deltas=(2,), map_level=2, longest_side=320)
    assert itti_koch(image, fine).max() == 255
    # The map level may be finer than every centre, and coarser than every surround.
    for level in (0, 6):
        odd = IttiKochConfig(centre_levels=(2,), deltas=(1,), map_level=level, longest_side=320)
        assert itti_koch(image, odd).max() == 255


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"normalisation": "max"}, "normalisation"),
        ({"longest_side": 10}, "longest_side"),
        ({"centre_levels": ()}, "centre_levels"),
        ({"centre_levels": (7,)}, "centre_levels"),
        ({"deltas": (0,)}, "deltas"),
        ({"iterations": 0}, "iterations"),
        ({"weights": (1, -1, 1)}, "weights"),
        ({"weights": (0, 0, 0)}, "weights: all zero"),
        ({"levels": 3}, "levels"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValidationError, match=said):
        IttiKochConfig(**settings)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
@pytest.mark.parametrize("function", [itti_koch, itti_koch_parts])
def test_other_arrays_than_rgb_images_are_refused(function, image):
    with pytest.raises(StudyError, match=r"image: expected RGB pixels .* found \("):
        function(image)
