"""SalGAN against Theano's arithmetic in float64 NumPy, and the authors' input and output."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_saliency_salnet import blurred, cubic
from test_saliency_weight_files import refused
from torch import nn

from blcf_utils.saliency.networks.salgan import SalGan

WIDTH = 0.05
# Channels at that width of the published 64, 128, 256 and 512, block by block.
BLOCKS = ((3, 3), (6, 6), (13, 13, 13), (26, 26, 26), (26, 26, 26))
ENCODER = [c for block in BLOCKS for c in block]
DECODER = [c for block in reversed(BLOCKS) for c in block]


def random_arrays(seed=0, dtype=np.float32):
    """What ``get_all_param_values`` lists: kernel and bias of each layer, input to output."""
    rng = np.random.default_rng(seed)
    arrays, inputs = [], 3
    for outputs in ENCODER + DECODER:
        scale = math.sqrt(2 / (9 * inputs))
        arrays.append(rng.normal(0, scale, (outputs, inputs, 3, 3)))
        arrays.append(rng.normal(0, 0.1, outputs))
        inputs = outputs
    arrays += [rng.normal(0, 0.5, (1, inputs, 1, 1)), rng.normal(0, 0.1, 1)]
    arrays[0] /= 64  # the image comes in 0..255
    return [array.astype(dtype) for array in arrays]


# ---- Lasagne's layers --------------------------------------------------------------------------


def convolution(x, weight, bias, flip_filters):
    """Theano's convolution: a true one, which flips the kernel, unless told otherwise."""
    kernel = weight.shape[2]
    padded = np.pad(x, ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    height, width = x.shape[1:]
    out = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for i in range(kernel):
        for j in range(kernel):
            row, column = (kernel - 1 - i, kernel - 1 - j) if flip_filters else (i, j)
            shifted = padded[:, row : row + height, column : column + width]
            out += np.tensordot(weight[:, :, i, j], shifted, 1)
    return out


def pooling(x):
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x.reshape(len(x), height, 2, width, 2).max(axis=(2, 4))


def theano(arrays, rgb, encoder_flips=False, decoder_flips=True):
    """The forward pass of the authors' generator for one image (3, h, w), RGB in 0..255."""
    arrays = iter([array.astype(float) for array in arrays])
    x = rgb[::-1].astype(float) - np.array([103.939, 116.779, 123.68])[:, None, None]
    for number, block in enumerate(BLOCKS):
        x = pooling(x) if number else x
        for _ in block:
            x = np.maximum(convolution(x, next(arrays), next(arrays), encoder_flips), 0)
    for number, block in enumerate(reversed(BLOCKS)):
        x = x.repeat(2, axis=1).repeat(2, axis=2) if number else x
        for _ in block:
            x = np.maximum(convolution(x, next(arrays), next(arrays), decoder_flips), 0)
    return 1 / (1 + np.exp(-convolution(x, next(arrays), next(arrays), True)))


# ---- The network -------------------------------------------------------------------------------


def test_it_has_the_published_number_of_parameters_in_54_tensors():
    with torch.device("meta"):
        parameters = list(SalGan().parameters())
        reduced = SalGan(0.1)
    assert sum(p.numel() for p in parameters) == 31_787_009
    assert len(parameters) == 54
    assert sum(p.numel() for p in parameters[:26]) == 14_714_688  # VGG-16's convolutions
    assert {m.out_channels for m in reduced.modules() if isinstance(m, nn.Conv2d)} == {
        *(6, 13, 26, 51),
        1,
    }


def test_every_convolution_has_its_activation_behind_it():
    with torch.device("meta"):
        modules = list(SalGan(0.1).layers)
    after = [type(b) for a, b in pairwise(modules) if type(a) is nn.Conv2d]
    assert after == [nn.ReLU] * 26 + [nn.Sigmoid]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("salgan") / "gen_modelWeights0090.npz"
    np.savez(path, *random_arrays())
    network = SalGan(WIDTH)
    network.load_official(path)
    return network.eval()


def prepared(rgb):
    """Input of the network for an RGB image (3, h, w) of any size, without resizing."""
    x = rgb[::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])[:, None, None]
    return torch.from_numpy(x[None])


def difference(got, wanted):
    """Largest difference before the sigmoid, relative to what there is to see."""
    got, wanted = (np.log(p / (1 - p)) for p in (got.astype(float), wanted))
    return np.abs(got - wanted).max() / wanted.std()


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16), (48, 112)])
def test_it_computes_what_theano_computes(loaded, size):
    rgb = np.random.default_rng(size[0]).integers(0, 256, (3, *size)).astype(np.float32)
    with torch.inference_mode():
        got = loaded(prepared(rgb))[0].numpy()
    wanted = theano(random_arrays(), rgb)
    assert got.shape == wanted.shape == (1, *size)
    assert difference(got, wanted) < 1e-3
    assert np.abs(got - wanted).max() < 1e-5


def test_the_comparison_notices_missing_and_superfluous_flips(loaded):
    rgb = np.random.default_rng(7).integers(0, 256, (3, 48, 64)).astype(np.float32)
    with torch.inference_mode():
        got = loaded(prepared(rgb))[0].numpy()
    arrays = random_arrays()
    assert difference(got, theano(arrays, rgb)) < 1e-3
    assert difference(got, theano(arrays, rgb, decoder_flips=False)) > 0.1
    assert difference(got, theano(arrays, rgb, encoder_flips=True)) > 0.1


def test_only_the_kernels_of_the_decoder_are_flipped(loaded):
    for number, (name, value) in enumerate(loaded.named_parameters()):
        wanted = random_arrays()[number]
        if 26 <= number <= 51 and wanted.ndim == 4:
            assert name.startswith("layers.uconv")
            wanted = wanted[:, :, ::-1, ::-1]
        np.testing.assert_array_equal(value.detach().numpy(), wanted)


def test_a_whole_image_goes_the_authors_way(loaded):
    image = np.random.default_rng(3).integers(0, 256, (192, 256, 3), np.uint8)
    with torch.inference_mode():
        got = loaded(loaded.prepare(image))[0].numpy()
    wanted = theano(random_arrays(), image.transpose(2, 0, 1))
    assert difference(got, wanted) < 1e-3


def test_double_precision_files_load_into_a_network_without_memory(tmp_path, loaded):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, *random_arrays(dtype=np.float64))
    with torch.device("meta"):
        network = SalGan(WIDTH)
    network.load_official(path)
    for name, value in loaded.state_dict().items():
        assert network.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(network.state_dict()[name], value)


def test_weights_of_other_networks_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    good = random_arrays()

    def complaint(arrays, width=WIDTH):
        np.savez(path, *arrays)
        return refused(SalGan(width).load_official, path)

    assert "expected the 54 arrays of SalGAN's generator, found 26" in complaint(good[:26])
    assert "found 55" in complaint([*good, np.zeros(1)])
    swapped = list(good)
    swapped[8], swapped[10] = good[10], good[8]
    assert "expected arr_8 of shape (13, 6, 3, 3) (SalGAN's conv3_1.weight)" in complaint(swapped)
    columns = list(good)
    columns[52] = good[52].reshape(1, 3)
    assert "arr_52" in complaint(columns)
    assert "arr_0 of shape (6, 3, 3, 3)" in complaint(good, 0.1)
    np.savez(path, *good)
    SalGan(WIDTH).load_official(path)  # and nothing else was wrong with it


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, *random_arrays())
    whole = path.read_bytes()
    network = SalGan(WIDTH)
    for length in {*range(0, len(whole), len(whole) // 20), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(network.load_official, path)


# ---- The authors' input and output arithmetic ----------------------------------------------------


def test_an_image_is_squashed_to_the_means_of_areas():
    rng = np.random.default_rng(0)
    # Areas of 4 x 2 pixels with a whole mean, which bilinear interpolation (middle rows) misses.
    means = rng.integers(40, 220, (192, 256, 3))
    offsets = np.array([[20, -7], [-25, -9], [-14, -2], [30, 7]])
    image = (means[:, None, :, None] + offsets[None, :, None, :, None]).reshape(768, 512, 3)
    got = SalGan(WIDTH).prepare(image.astype(np.uint8)).numpy()
    assert got.shape == (1, 3, 192, 256)
    assert got.dtype == np.float32
    wanted = means[:, :, ::-1] - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(got[0], wanted.transpose(2, 0, 1), atol=1e-5)


def test_means_of_areas_are_rounded_to_whole_levels():
    image = np.zeros((384, 512, 3), np.uint8)
    image[::2, ::2] = 3  # mean 0.75
    got = SalGan(WIDTH).prepare(image).numpy()
    np.testing.assert_allclose(got[0, 0], 1 - 103.939, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (192, 256), (700, 1000)])
def test_any_image_gives_a_map_of_its_size(loaded, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    with torch.inference_mode():
        output = loaded(loaded.prepare(image))[0, 0].numpy()
    saliency = loaded.finish(output, *size)
    assert saliency.shape == size
    assert saliency.dtype == np.uint8


def test_saliency_is_truncated_to_whole_levels_before_it_is_enlarged():
    finish = SalGan(WIDTH).finish
    assert (finish(np.full((4, 4), 0.5, np.float32), 4, 4) == 127).all()  # 127.5
    output = np.zeros((4, 8), np.float32)
    output[:, 4:] = 0.999 / 255  # cubic interpolation would exceed 1 behind the edge
    assert (finish(output, 16, 32) == 0).all()


@pytest.mark.parametrize("size", [(20, 28), (47, 31), (12, 90), (61, 64)])
def test_maps_are_enlarged_and_blurred_but_not_stretched(size):
    output = np.random.default_rng(2).uniform(0, 0.6, (20, 28)).astype(np.float32)
    got = SalGan(WIDTH).finish(output, *size)
    levels = np.floor(output.astype(float) * 255)
    enlarged = np.rint(np.clip(cubic(20, size[0]) @ levels @ cubic(28, size[1]).T, 0, 255))
    assert np.abs(got - blurred(enlarged)).max() <= 1.5  # two roundings in fixed point
    assert got.max() < 160


@pytest.mark.parametrize(("value", "level"), [(0, 0), (1, 255), (0.2, 51)])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 9)])
def test_degenerate_outputs_give_flat_maps(value, level, size):
    for shape in ((4, 4), (1, 1), (3, 8)):
        output = np.full(shape, value, np.float32)
        np.testing.assert_array_equal(SalGan(WIDTH).finish(output, *size), np.full(size, level))
        np.testing.assert_array_equal(output, np.float32(value))  # and is left as it was
