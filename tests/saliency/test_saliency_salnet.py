"""SalNet against Caffe's arithmetic in float64 NumPy, and the authors' input and output."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from test_saliency_weight_files import caffemodel, refused
from torch import nn

from blcf_utils.saliency.networks.salnet import SalNet

WIDTH = 0.08
# Name: outputs at that width, inputs, kernel.
SHAPES = {
    "conv1": (8, 3, 7),
    "conv2": (20, 8, 5),
    "conv3": (41, 20, 3),
    "conv4": (41, 41, 5),
    "conv5": (41, 41, 5),
    "conv6": (20, 41, 7),
    "conv7": (10, 20, 11),
    "conv8": (3, 10, 11),
    "conv9": (1, 3, 13),
    "deconv1": (1, 1, 8),
}


def random_weights(seed=0):
    """Weights with which every layer matters: activations about 100 into the normalisation."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, (outputs, inputs, kernel) in SHAPES.items():
        scale = np.sqrt(2 / (inputs * kernel**2)) * (200 if name == "conv1" else 1)
        weights[name] = [rng.normal(0, scale, (outputs, inputs, kernel, kernel))]
        if name != "deconv1":
            weights[name].append(rng.normal(0, 0.1, outputs))
    return {name: [blob.astype(np.float32) for blob in blobs] for name, blobs in weights.items()}


# ---- Caffe's layers ----------------------------------------------------------------------------


def convolution(x, weight, bias):
    pad = weight.shape[2] // 2
    windows = sliding_window_view(
        np.pad(x, ((0, 0), (pad, pad), (pad, pad))), weight.shape[2:], (1, 2)
    )
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def normalisation(x, size=5, alpha=1e-4, beta=0.75, k=1.0):
    out = np.empty_like(x)
    for c in range(len(x)):
        near = x[max(0, c - size // 2) : c + size // 2 + 1]
        out[c] = x[c] / (k + alpha / size * (near**2).sum(axis=0)) ** beta
    return out


def pooling(x, rounding=math.ceil, kernel=3, stride=2):
    height, width = (rounding((side - kernel) / stride) + 1 for side in x.shape[1:])
    out = np.empty((len(x), height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * stride, min(i * stride + kernel, x.shape[1]))
            columns = slice(j * stride, min(j * stride + kernel, x.shape[2]))
            out[:, i, j] = x[:, rows, columns].max(axis=(1, 2))
    return out


def deconvolution(x, weight, stride=4, pad=2):
    """Every input spreads its multiple of the kernel over the output."""
    kernel = weight.shape[2]
    height, width = (stride * (side - 1) + kernel for side in x.shape[1:])
    out = np.zeros((weight.shape[1], height, width))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            spread = np.einsum("c,cokl->okl", x[:, i, j], weight)
            out[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel] += spread
    return out[:, pad:-pad, pad:-pad]


def caffe(weights, x, rounding=math.ceil, normalise=normalisation):
    """The forward pass of the authors' deploy.prototxt for one image (3, h, w)."""
    weights = {name: [blob.astype(float) for blob in blobs] for name, blobs in weights.items()}
    x = x.astype(float)
    for number in range(1, 10):
        x = convolution(x, *weights[f"conv{number}"])
        if number < 9:
            x = np.maximum(x, 0)
        if number == 1:
            x = normalise(x)
        if number <= 2:
            x = pooling(x, rounding)
    return deconvolution(x, *weights["deconv1"])


# ---- The network -------------------------------------------------------------------------------


def test_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in SalNet().parameters()) == 25_806_209
        reduced = SalNet(0.1)
    assert sum(p.numel() for p in reduced.parameters()) < 270_000
    assert [m.out_channels for m in reduced.modules() if isinstance(m, nn.Conv2d)] == [
        *(10, 26, 51, 51, 51, 26, 13, 3),
        1,
    ]


def test_every_hidden_convolution_has_its_activation_behind_it():
    with torch.device("meta"):
        modules = list(SalNet(0.1).layers)
    after = [type(b) for a, b in pairwise(modules) if type(a) is nn.Conv2d]
    assert after == [nn.ReLU] * 8 + [nn.ConvTranspose2d]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("salnet") / "deep_net_model.caffemodel"
    path.write_bytes(caffemodel(random_weights()))
    network = SalNet(WIDTH)
    network.load_official(path)
    return network.eval()


def predicted(network, x):
    with torch.inference_mode():
        return network(torch.from_numpy(x[None].astype(np.float32)))[0].numpy()


def close(got, wanted):
    return np.abs(got - wanted).max() < 2e-5 * np.abs(wanted).max()


SIZES = [(4, 4), (16, 21), (37, 50), (41, 33), (48, 64), (5, 70)]


@pytest.mark.parametrize("size", SIZES)
def test_it_computes_what_caffe_computes(loaded, size):
    x = np.random.default_rng(sum(size)).normal(size=(3, *size)).astype(np.float32)
    wanted = caffe(random_weights(), x)
    got = predicted(loaded, x)
    assert got.shape == wanted.shape
    assert close(got, wanted)
    assert not close(caffe(random_weights(), np.zeros_like(x)), wanted)  # the image matters


def test_the_comparison_notices_floor_pooling_and_other_normalisations(loaded):
    x = np.random.default_rng(0).normal(size=(3, 48, 64)).astype(np.float32)
    weights, got = random_weights(), predicted(loaded, x)
    assert close(got, caffe(weights, x))
    floored = caffe(weights, x, math.floor)
    assert got.shape == (1, 48, 64)
    assert floored.shape == (1, 44, 60)
    for wrong in (
        lambda x: x,
        lambda x: normalisation(x, size=3),
        lambda x: normalisation(x, alpha=5e-4),
        lambda x: normalisation(x, beta=0.5),
    ):
        assert not close(got, caffe(weights, x, normalise=wrong))


@pytest.mark.parametrize("style", ["unpacked", "double", "legacy", "legacy unpacked"])
def test_the_weights_of_every_layout_are_the_same(tmp_path, loaded, style):
    path = tmp_path / "net.caffemodel"
    # A trained file also has layers without weights, and any order.
    layers = {"data": [], **dict(reversed(random_weights().items())), "loss": []}
    path.write_bytes(caffemodel(layers, style))
    with torch.device("meta"):
        network = SalNet(WIDTH)
    network.load_official(path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_models_of_other_networks_are_refused(tmp_path, loaded):
    path = tmp_path / "net.caffemodel"
    good = random_weights()

    def complaint(**changes):
        kept = {name: blobs for name, blobs in {**good, **changes}.items() if blobs is not None}
        path.write_bytes(caffemodel(kept))
        return refused(SalNet(WIDTH).load_official, path)

    assert "conv4 has blobs 41x41x5x5 and 41, found none" in complaint(conv4=None)
    assert "conv4 has blobs 41x41x5x5 and 41, found 41x41x5x5;" in complaint(
        conv4=good["conv4"][:1]
    )
    assert "conv9" in complaint(conv9=[good["conv9"][0][:, :, 1:, 1:], good["conv9"][1]])
    assert "deconv1 has blobs 1x1x8x8, found 1x1x8x8 and 1" in complaint(
        deconv1=[good["deconv1"][0], np.zeros(1)]
    )
    transposed = good["conv3"][0].transpose(1, 0, 2, 3)
    assert "found 20x41x3x3" in complaint(conv3=[transposed, good["conv3"][1]])
    path.write_bytes(caffemodel(good))
    refused(SalNet(0.1).load_official, path)  # another width
    network = SalNet(WIDTH)
    network.load_official(path)  # and nothing else was wrong with it


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "net.caffemodel"
    good = random_weights()
    whole = caffemodel(good)
    names = list(good)
    between = [len(caffemodel({n: good[n] for n in names[:i]})) for i in range(len(names))]
    network = SalNet(WIDTH)
    for length in {*between, *range(0, len(whole), len(whole) // 20), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(network.load_official, path)


# ---- The authors' input and output arithmetic ----------------------------------------------------


def test_an_image_that_fits_is_only_centred_and_scaled():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    image[2, 3] = (118, 110, 100)  # the mean, in RGB
    image[4, 5] = (255, 0, 100)
    prepared = SalNet(WIDTH).prepare(image).numpy()
    assert prepared.shape == (1, 3, 6, 9)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared[0, :, 2, 3], 0)
    np.testing.assert_allclose(prepared[0, :, 4, 5], [0, -110 / 127.5, 137 / 127.5], rtol=1e-6)
    centred = image[:, :, ::-1].astype(float) - [100, 110, 118]
    np.testing.assert_allclose(prepared[0], centred.transpose(2, 0, 1) / 127.5, atol=1e-6)


def test_a_large_image_is_shrunk_bilinearly_in_floating_point():
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    prepared = SalNet(WIDTH).prepare(image).numpy()
    # Halved, an output pixel lies in the middle of four, whose mean need not be a whole number.
    means = image[:, :, ::-1].reshape(240, 2, 320, 2, 3).mean(axis=(1, 3))
    wanted = (means - [100, 110, 118]) / 127.5
    np.testing.assert_allclose(prepared[0], wanted.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((500, 1000), (160, 320)),
        ((1000, 500), (320, 160)),
        ((321, 321), (320, 320)),
        ((333, 777), (137, 320)),
        ((320, 100), (320, 100)),
        ((1, 1), (4, 4)),
        ((2, 1000), (4, 320)),
        ((1000, 3), (320, 4)),
        ((4, 4), (4, 4)),
    ],
)
def test_any_image_fits_and_gives_a_map_of_its_size(loaded, size, wanted):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    prepared = loaded.prepare(image)
    assert prepared.shape == (1, 3, *wanted)
    with torch.inference_mode():
        output = loaded(prepared)[0, 0].numpy()
    saliency = loaded.finish(output, *size)
    assert saliency.shape == size
    assert saliency.dtype == np.uint8


def cubic(inputs, outputs):
    """The matrix of OpenCV's cubic interpolation (coefficient -0.75, border repeated)."""
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        place = (row + 0.5) * inputs / outputs - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            d = abs(place - tap)
            if d <= 1:
                weight = 1.25 * d**3 - 2.25 * d**2 + 1
            else:
                weight = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[row, min(max(tap, 0), inputs - 1)] += weight
    return matrix


# What OpenCV takes for a Gaussian of five taps when no sigma is given.
GAUSSIAN = np.array([1, 4, 6, 4, 1]) / 16


def blurred(image):
    windows = sliding_window_view(np.pad(image, 2, mode="reflect"), (5, 5))
    return np.einsum("hwij,i,j->hw", windows, GAUSSIAN, GAUSSIAN)


@pytest.mark.parametrize("size", [(20, 28), (47, 31), (12, 90), (61, 64)])
def test_maps_are_clipped_enlarged_blurred_clipped_and_stretched(size):
    output = np.random.default_rng(2).normal(-0.6, 0.8, (20, 28)).astype(np.float32)
    got = SalNet(WIDTH).finish(output, *size)
    values = np.clip(output.astype(float) * 128 + 127, 0, 255)
    values = np.clip(blurred(cubic(20, size[0]) @ values @ cubic(28, size[1]).T), 0, 255)
    wanted = values / values.max() * 255
    assert got.max() == 255
    # Truncated: never above, and less than one below, but for the last bits of float32.
    assert np.all(got <= wanted + 1e-3)
    assert np.all(got > wanted - 1 - 1e-3)


def test_a_single_salient_pixel_becomes_a_gaussian_of_height_255():
    output = np.full((9, 9), -7, np.float32)
    output[4, 4] = 7
    got = SalNet(WIDTH).finish(output, 9, 9)
    # 255 times 1/6, 4/6 and 1 along the row, 4/6 * 4/6 across; 42.5 is truncated.
    assert got[4].tolist() == [0, 0, 42, 170, 255, 170, 42, 0, 0]
    assert got[3, 3] == 113


@pytest.mark.parametrize(("value", "level"), [(-1, 0), (-100, 0), (-0.9, 255), (0, 255), (50, 255)])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 9)])
def test_degenerate_outputs_give_flat_maps(value, level, size):
    finish = SalNet(WIDTH).finish
    for shape in ((4, 4), (1, 1), (3, 8)):
        output = np.full(shape, value, np.float32)
        with np.errstate(all="raise"):
            saliency = finish(output, *size)
        assert saliency.shape == size
        # Truncation makes 254 of what rounding errors leave just below the maximum.
        assert set(np.unique(saliency)) <= {level, max(0, level - 1)}
        np.testing.assert_array_equal(output, np.float32(value))  # and is left as it was
