"""Boolean map saliency against a flood of every map on its own, and on images of known answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.bms import BmsConfig, attention, bms, feature_channels

EIGHT = np.ones((3, 3))


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Return coloured blobs of several sizes on a gradient, with some noise."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((height, width, 3))
    blobs = sum(
        size * ndimage.gaussian_filter(noise, (size, size, 0), mode="wrap") for size in (1, 3, 8)
    )
    blobs += np.linspace(0, 1, width)[None, :, None]
    return np.clip(128 + 45 * blobs, 0, 255).astype(np.uint8)


def disc(size=(300, 400), centre=(110, 250), radius=30, on=(220, 30, 30), off=(30, 160, 40)):
    """Return a disc on an even background, and where it is."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return np.where(inside[:, :, None], on, off).astype(np.uint8), inside


def surrounded(part: np.ndarray) -> np.ndarray:
    """Return the 8-connected components of ``part`` that do not touch the border."""
    labels, _ = ndimage.label(part, EIGHT)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return part & ~np.isin(labels, edge)


def dilated(part: np.ndarray, times: int) -> np.ndarray:
    return ndimage.binary_dilation(part, EIGHT, iterations=times) if times else part


def unit(part: np.ndarray) -> np.ndarray:
    return part / max(np.linalg.norm(part), 1e-300)


def reference_attention(channels, delta, times, version) -> np.ndarray:
    """Threshold, label, drop, dilate, normalise and add: map by map, as the papers say."""
    total = np.zeros(channels[0].shape)
    for channel in channels:
        threshold = int(channel.min())
        while threshold < channel.max():
            above = channel > threshold
            if version == "tpami":
                for part in (above, ~above):
                    total += unit(dilated(surrounded(part), times))
            else:
                for polarity in (above, ~above):
                    # Outside the image nothing is set while dilating, everything while eroding.
                    wide = ndimage.binary_dilation(polarity, EIGHT, iterations=2)
                    closed = ndimage.binary_erosion(wide, EIGHT, iterations=2, border_value=1)
                    both = surrounded(closed) | surrounded(~closed)
                    total += unit(dilated(both, times))
            threshold += delta
    return total


def reference_channels(image) -> list[np.ndarray]:
    """Whiten with every factor of the authors' formula, strongest axis first."""
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2Lab).reshape(-1, 3).astype(np.float64)
    covariance = np.cov(lab.T, bias=True) + 50 * np.eye(3)
    axes, variances, _ = np.linalg.svd(covariance)
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(3)])
    white = lab @ (axes / np.sqrt(variances))
    channels = []
    for values in white.T:
        stretched = np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)
        median = ndimage.median_filter(stretched.reshape(image.shape[:2]), 3, mode="nearest")
        channels.append(median)
    return channels


@pytest.mark.parametrize("version", ["tpami", "iccv"])
@pytest.mark.parametrize("delta", [1, 8, 24, 255])
@pytest.mark.parametrize("omega", [1, 7])
def test_attention_equals_flooding_every_map_on_its_own(version, delta, omega):
    channels = list(cv2.split(scene(41, 60, seed=delta)))
    config = BmsConfig(version=version, delta=delta, omega=omega)
    found = attention(channels, config)
    expected = reference_attention(channels, delta, (omega - 1) // 2, version)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", ["tpami", "iccv"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 9), (3, 3), (5, 4), (30, 7)])
def test_attention_of_noise_in_small_images(version, shape):
    channels = [np.random.default_rng(7).integers(0, 256, shape, np.uint8)]
    found = attention(channels, BmsConfig(version=version, omega=3))
    expected = reference_attention(channels, 8, 1, version)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_nested_rings_are_followed_inwards():
    rings = np.zeros((21, 21), np.uint8)
    for i, grey in enumerate((0, 200, 50, 255, 100, 10)):
        rings[2 * i : 21 - 2 * i, 2 * i : 21 - 2 * i] = grey
    for version in ("tpami", "iccv"):
        found = attention([rings], BmsConfig(version=version, omega=1))
        expected = reference_attention([rings], 8, 0, version)
        assert expected[10, 10] > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_channels_are_the_authors_whitened_lab():
    image = scene(80, 100, seed=3)
    found = feature_channels(image, BmsConfig(max_dim=100))[::-1]
    for ours, theirs in zip(found, reference_channels(image), strict=True):
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
        assert (ours.min(), ours.max()) != (0, 0)


def test_whole_model_equals_the_reference():
    image = scene(90, 120, seed=5)
    config = BmsConfig(max_dim=120, omega=23, kappa=30, sigma=10)
    assert [config.scaled(v) for v in (23, 30, 10)] == [7, 9, 3]
    total = reference_attention(reference_channels(image), 8, 3, "tpami")
    stretched = np.rint(255 * (total - total.min()) / np.ptp(total))
    wide = ndimage.maximum_filter(stretched, 9)
    blurred = ndimage.gaussian_filter(wide, 3, radius=6, mode="mirror")
    found = bms(image, config)
    # A grey level of a channel that rounds the other way moves few maps.
    difference = np.abs(found - blurred)
    assert difference.max() < 8
    assert difference.mean() < 1
    assert np.corrcoef(found.ravel(), blurred.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("config", [{}, {"version": "iccv"}, {"whitening": False}])
def test_a_disc_is_the_most_salient(config):
    image, inside = disc()
    found = bms(image, BmsConfig(**config))
    assert found.shape == image.shape[:2]
    assert found.dtype == np.uint8
    assert inside[np.unravel_index(found.argmax(), found.shape)]
    assert found[inside].mean() > 20 * found[~inside].mean()


def test_what_touches_the_border_is_not_surrounded():
    image, _ = disc(centre=(20, 250), radius=40)
    assert bms(image).max() == 0


@pytest.mark.parametrize("version", ["tpami", "iccv"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (3, 177, 90)])
def test_a_constant_image_has_no_saliency(version, colour):
    image = np.full((50, 70, 3), colour, np.uint8)
    assert bms(image, BmsConfig(version=version)).max() == 0


@pytest.mark.parametrize("version", ["tpami", "iccv"])
def test_a_mirrored_image_has_the_mirrored_map(version):
    image = scene(150, 200, seed=1)
    config = BmsConfig(version=version)
    there, back = bms(image, config), bms(image[:, ::-1], config)[:, ::-1]
    assert np.abs(there.astype(int) - back).max() <= 3


@pytest.mark.parametrize("version", ["tpami", "iccv"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 500), (500, 3), (1, 2000), (333, 250)])
def test_any_size_gives_a_map_of_that_size(version, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = bms(image, BmsConfig(version=version))
    assert found.shape == size
    assert found.dtype == np.uint8


def test_the_longer_side_becomes_max_dim():
    for size, expected in (((300, 400), (60, 80)), ((400, 300), (80, 60)), ((40, 41), (78, 80))):
        image = np.zeros((*size, 3), np.uint8)
        assert feature_channels(image, BmsConfig(max_dim=80))[0].shape == expected


def test_grey_images_have_one_varying_channel_and_their_disc():
    image, inside = disc(on=(200, 200, 200), off=(90, 90, 90))
    channels = feature_channels(image, BmsConfig())
    assert [int(np.ptp(channel)) for channel in channels] == [0, 0, 255]
    found = bms(image)
    assert inside[np.unravel_index(found.argmax(), found.shape)]


def test_same_bytes_twice_and_in_threads():
    images = [scene(60 + 7 * i, 80, seed=i) for i in range(6)]
    alone = [bms(image).tobytes() for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [found.tobytes() for found in pool.map(bms, images)]
    assert alone == together
    assert len(set(alone)) == 6


def test_the_authors_lab_exchanges_red_and_blue():
    image = scene(60, 80, seed=2)
    theirs = bms(image, BmsConfig(lab="authors"))
    assert (theirs == bms(image[:, :, ::-1], BmsConfig(lab="correct"))).all()
    assert (theirs != bms(image, BmsConfig(lab="correct"))).any()


def test_a_version_brings_its_constants_unless_they_are_given():
    assert BmsConfig().document() == {
        "version": "tpami",
        "delta": 8,
        "max_dim": 400,
        "omega": 7,
        "kappa": 9,
        "sigma": 9,
        "whitening": True,
        "lab": "authors",
    }
    iccv = BmsConfig(version="iccv", sigma=5)
    assert (iccv.max_dim, iccv.omega, iccv.kappa, iccv.sigma) == (600, 7, 23, 5)
    assert iccv.whitening is False
    assert BmsConfig(**iccv.document()) == iccv


def test_widths_scale_with_the_image_as_in_the_authors_wrapper():
    fast = BmsConfig(delta=24, max_dim=300)
    assert [fast.scaled(value) for value in (7, 9)] == [5, 7]
    assert BmsConfig(version="iccv").scaled(23) == 23


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"delta": 0}, "delta"),
        ({"max_dim": 8}, "max_dim"),
        ({"sigma": -1}, "sigma"),
        ({"lab": "rgb"}, "lab"),
        ({"version": "2016"}, "version"),
        ({"step": 8}, "step"),
        ({"version": "iccv", "whitening": True}, "whitening belongs to version: tpami"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValidationError, match=said):
        BmsConfig(**settings)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_than_rgb_images_are_refused(image):
    with pytest.raises(StudyError, match=r"image: expected RGB pixels .* found \("):
        bms(image)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_dim": 16},
        {"max_dim": 28},
        {"omega": 1, "max_dim": 100},
        {"kappa": 1, "max_dim": 100},
        {"version": "iccv", "omega": 1, "max_dim": 299},
    ],
)
def test_widths_that_vanish_at_a_small_size_are_one_pixel(settings):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    found = bms(image, BmsConfig(**settings))
    assert found.shape == (60, 80)
    assert found.any()
