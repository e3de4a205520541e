"""SAM-VGG and SAM-ResNet against the arithmetic of Keras 1.1 and Theano, in NumPy.

The test writes weight files as Keras wrote them and computes the networks in float64 with true
convolutions, padded poolings and Theano's upsampling kernel, from the authors' definitions.
"""

import numpy as np
import pytest
import torch
from test_saliency_keras1 import write_keras1
from torch import nn

from blcf_utils.ground.errors import StudyError
from blcf_utils.saliency.networks.sam import LearningPrior, bilinear_upsampling
from blcf_utils.saliency.networks.sam_resnet import SamResNet
from blcf_utils.saliency.networks.sam_vgg import SamVgg, TheanoSamePool

SHARE = 16  # the files of these tests have a sixteenth of the published channels
HIDDEN = 512 // SHARE
NETWORKS = {"vgg": SamVgg, "resnet": SamResNet}
# Odd sizes after two reductions, so that flooring and ceiling differ.
HEIGHT, WIDTH = 44, 60


class KerasModel:
    """Layers in the order in which the authors' code makes them, with random weights."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.inbound = {}
        self.weights = {}

    def add(self, name, *inbound, **arrays):
        self.inbound[name] = inbound
        self.weights[name] = [
            (f"{name}_{key}", array.astype(np.float32)) for key, array in arrays.items()
        ]
        return name

    def normal(self, *shape, scale=1.0):
        return scale * self.random.standard_normal(shape)

    def kernel(self, outputs, inputs, size, gain=2.0):
        return self.normal(outputs, inputs, size, size, scale=(gain / inputs / size**2) ** 0.5)

    def conv(self, name, inbound, outputs, inputs, size):
        kernel = self.kernel(outputs, inputs, size)
        return self.add(name, inbound, W=kernel, b=self.normal(outputs, scale=0.1))

    def norm(self, name, inbound, count, gain=0.45):
        return self.add(
            name,
            inbound,
            gamma=gain * self.random.uniform(0.5, 1.5, count),
            beta=self.normal(count, scale=0.2),
            running_mean=self.normal(count, scale=0.3),
            running_std=self.random.uniform(0.02, 1, count),
        )

    def layers(self, output):
        """The layers as ``Container`` orders them: by depth, then as met from the output."""
        depths, met, seen = {}, {}, set()

        def walk(name, depth):
            depths[name] = depth = max(depth, depths.get(name, 0))
            met.setdefault(name, len(met))
            seen.add((name, depth))
            for source in self.inbound[name]:
                if (source, depth + 1) not in seen:
                    walk(source, depth + 1)

        walk(output, 0)
        ordered = sorted(depths, key=lambda name: (-depths[name], met[name]))
        return [(name, self.weights[name]) for name in ordered]


def add_head(model, features, first_number):
    """The layers after the backbone; Keras numbers the convolutions of the LSTM too."""
    n = HIDDEN
    lstm, bias = {}, 0.3
    number = first_number
    for name in ("W_a", "U_a", "V_a", "W_i", "U_i", "W_f", "U_f", "W_c", "U_c", "W_o", "U_o"):
        if name == "V_a":
            lstm[f"convolution2d_{number}_W"] = model.kernel(1, n, 3, gain=4)
        else:
            # The attended input is some fiftieth of the features.
            gain = 2000 if name.startswith("W") and name != "W_a" else 1
            lstm[f"convolution2d_{number}_W"] = model.kernel(n, n, 3, gain)
            lstm[f"convolution2d_{number}_b"] = model.normal(n, scale=bias)
        number += 1
    prior = model.random.uniform
    x = model.add("repeat", features)
    x = model.add("attentiveconvlstm_1", x, **lstm)
    maps = model.add("input_2")
    for number_of_prior in (1, 2):
        means, deviations = prior(0.2, 0.8, 32), prior(0.05, 1, 32)
        p = model.add(
            f"learningprior_{number_of_prior}", maps, W=np.concatenate([means, deviations])
        )
        x = model.add(f"merge_{number_of_prior}", x, p)
        x = model.conv(f"atrousconvolution2d_{number_of_prior}", x, n, n + 16, 5)
    name = f"convolution2d_{number}"
    x = model.add(name, x, W=model.kernel(1, n, 1), b=np.array([0.5]))
    return model.layers(model.add("upsampling", x))


def vgg_layers(seed=0):
    model = KerasModel(seed)
    x, inputs = model.add("input_1"), 3
    for block, (count, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for number in range(1, count + 1):
            x = model.conv(f"block{block}_conv{number}", x, outputs // SHARE, inputs, 3)
            inputs = outputs // SHARE
    return add_head(model, x, 1)


def resnet_layers(seed=0):
    model = KerasModel(seed)
    x = model.conv("conv1", model.add("input_1"), 64 // SHARE, 3, 7)
    x = model.add("activation_1", model.norm("bn_conv1", x, 64 // SHARE))
    inputs = 64 // SHARE
    for stage, blocks, inner in (
        (2, "abc", 64),
        (3, "abcd", 128),
        (4, "abcdef", 256),
        (5, "abc", 512),
    ):
        inner, outputs = inner // SHARE, 4 * inner // SHARE
        for block in blocks:
            conv, norm = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
            y = model.norm(f"{norm}2a", model.conv(f"{conv}2a", x, inner, inputs, 1), inner)
            y = model.conv(f"{conv}2b", model.add(f"{norm}2a_relu", y), inner, inner, 3)
            y = model.add(f"{norm}2b_relu", model.norm(f"{norm}2b", y, inner))
            y = model.conv(f"{conv}2c", y, outputs, inner, 1)
            y = model.norm(f"{norm}2c", y, outputs, gain=0.15)
            shortcut = x
            if block == "a":
                shortcut = model.conv(f"{conv}1", x, outputs, inputs, 1)
                shortcut = model.norm(f"{norm}1", shortcut, outputs)
            x = model.add(f"sum{stage}{block}", y, shortcut)
            inputs = outputs
    x = model.conv("convolution2d_1", x, HIDDEN, inputs, 3)
    return add_head(model, x, 2)


LAYERS = {"vgg": vgg_layers, "resnet": resnet_layers}


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def theano_conv(x, arrays, pad, stride=1, dilation=1):
    """True convolution of (C, H, W): kernel element (0, 0) meets the window's last pixel."""
    kernel = arrays[0].astype(np.float64)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    size = kernel.shape[2]
    span = (size - 1) * dilation
    rows, columns = ((side - span - 1) // stride + 1 for side in x.shape[1:])
    out = np.zeros((len(kernel), rows, columns))
    for u in range(size):
        for v in range(size):
            top, left = span - u * dilation, span - v * dilation
            pixels = x[:, top:, left:][:, : (rows - 1) * stride + 1, : (columns - 1) * stride + 1]
            out += np.tensordot(kernel[:, :, u, v], pixels[:, ::stride, ::stride], 1)
    return out + (arrays[1].astype(np.float64)[:, None, None] if len(arrays) > 1 else 0)


def keras_pool(x, size, stride, same):
    """Theano's ``pool_2d(ignore_border=True)``; 'same' pads both sides, then crops the end."""
    height, width = x.shape[1:]
    pad = (size - 2 if size % 2 else size - 1) if same else 0
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:])
    out = np.array(
        [
            [
                x[:, r * stride : r * stride + size, c * stride : c * stride + size].max((1, 2))
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    ).transpose(2, 0, 1)
    return out[:, : -(-height // stride), : -(-width // stride)] if same else out


def keras_norm(x, arrays, epsilon=1e-5):
    gamma, beta, mean, variance = (array.astype(np.float64)[:, None, None] for array in arrays)
    return (x - mean) * (gamma / np.sqrt(variance + epsilon)) + beta


def attentive_lstm(x, arrays):
    W_a, U_a = arrays[0:2], arrays[2:4]
    V_a = arrays[4:5]
    (W_i, U_i), (W_f, U_f), (W_c, U_c), (W_o, U_o) = (
        (arrays[at : at + 2], arrays[at + 2 : at + 4]) for at in (5, 9, 13, 17)
    )
    h, c = np.zeros_like(x), np.zeros_like(x)
    for _ in range(4):
        e = theano_conv(np.tanh(theano_conv(h, W_a, 1) + theano_conv(x, U_a, 1)), V_a, 1)
        e = np.exp(e - e.max())
        xt = x * (e / e.sum())
        i = sigmoid(theano_conv(xt, W_i, 1) + theano_conv(h, U_i, 1))
        f = sigmoid(theano_conv(xt, W_f, 1) + theano_conv(h, U_f, 1))
        o = sigmoid(theano_conv(xt, W_o, 1) + theano_conv(h, U_o, 1))
        c = f * c + i * np.tanh(theano_conv(xt, W_c, 1) + theano_conv(h, U_c, 1))
        h = o * np.tanh(c)
    return h


def prior_maps(arrays, height, width):
    """The authors' formula, with the factor that the division by the maximum cancels."""
    mu_x, mu_y, sigma_x, sigma_y = arrays[0].astype(np.float64).reshape(4, 16)
    mu_x, mu_y = np.clip(mu_x, 0.25, 0.75), np.clip(mu_y, 0.35, 0.65)
    sigma_x, sigma_y = np.clip(sigma_x, 0.1, 0.9), np.clip(sigma_y, 0.2, 0.8)
    e = height / width
    maps = []
    for mx, my, sx, sy in zip(mu_x, mu_y, sigma_x, sigma_y, strict=True):
        x = np.tile(np.linspace(0, 1, width), (height, 1))
        y = np.tile(np.linspace((1 - e) / 2, (1 - e) / 2 + e, height)[:, None], (1, width))
        g = np.exp(-((x - mx) ** 2 / (2 * sx**2 + 1e-7) + (y - my) ** 2 / (2 * sy**2 + 1e-7)))
        g *= 1 / (2 * np.pi * sx * sy + 1e-7)
        maps.append(g / g.max())
    return np.array(maps)


def theano_upsampling(x):
    """``bilinear_upsampling`` of (h, w) by 16: a transposed convolution with a triangle."""
    ratio = 16
    triangle = np.concatenate([np.arange(1, ratio + 1), np.arange(ratio - 1, 0, -1)]) / ratio
    pad = 2 * ratio - (ratio - 1) // 2 - 1
    for _ in range(2):
        edged = np.concatenate([x[:1], x, x[-1:]])
        full = np.zeros((ratio * (len(edged) - 1) + len(triangle), x.shape[1]))
        for place, row in enumerate(edged):
            full[ratio * place : ratio * place + len(triangle)] += np.outer(triangle, row)
        x = full[pad : pad + ratio * len(x)].T
    return x


def vgg_features(x, weights):
    dilation = 1
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        dilation = 2 if block == 5 else 1
        for number in range(1, count + 1):
            arrays = weights[f"block{block}_conv{number}"]
            x = relu(theano_conv(x, arrays, dilation, dilation=dilation))
        if block < 5:
            x = keras_pool(x, 2, 1 if block == 4 else 2, same=block > 2)
    return x


def resnet_features(x, weights):
    x = relu(keras_norm(theano_conv(x, weights["conv1"], 3, stride=2), weights["bn_conv1"]))
    x = keras_pool(x, 3, 2, same=True)
    for stage, blocks, dilation in ((2, "abc", 1), (3, "abcd", 1), (4, "abcdef", 2), (5, "abc", 4)):
        for block in blocks:

            def both(x, branch, prefix=f"{stage}{block}_branch", **options):
                y = theano_conv(x, weights[f"res{prefix}{branch}"], **options)
                return keras_norm(y, weights[f"bn{prefix}{branch}"])

            stride = 2 if (stage, block) == (3, "a") else 1
            y = relu(both(x, "2a", pad=0, stride=stride))
            y = relu(both(y, "2b", pad=dilation, dilation=dilation))
            y = both(y, "2c", pad=0)
            x = relu(y + (both(x, "1", pad=0, stride=stride) if block == "a" else x))
    return relu(theano_conv(x, weights["convolution2d_1"], 1))


def reference(network, image, layers):
    """Raw saliency of an image (3, H, W) under a file's layers."""
    weights = {name: [array for _, array in arrays] for name, arrays in layers}
    x = {"vgg": vgg_features, "resnet": resnet_features}[network](image, weights)
    x = attentive_lstm(x, weights["attentiveconvlstm_1"])
    for number in (1, 2):
        prior = prior_maps(weights[f"learningprior_{number}"], *x.shape[1:])
        arrays = weights[f"atrousconvolution2d_{number}"]
        x = relu(theano_conv(np.concatenate([x, prior]), arrays, 8, dilation=4))
    last = {"vgg": "convolution2d_12", "resnet": "convolution2d_13"}[network]
    return theano_upsampling(relu(theano_conv(x, weights[last], 0))[0])


def some_image(seed=3):
    return np.random.default_rng(seed).standard_normal((3, HEIGHT, WIDTH)).astype(np.float32)


def raw_saliency(model, image):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(image)[None])[0, 0].numpy()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_official_weights_give_what_keras_and_theano_compute(tmp_path, network, nested):
    layers = LAYERS[network](seed=int(nested))
    write_keras1(tmp_path / "weights.pkl", layers, nested)
    with torch.device("meta"):
        model = NETWORKS[network](1 / SHARE)
    model.load_official(tmp_path / "weights.pkl")
    image = some_image()
    expected = reference(network, image.astype(np.float64), layers)
    assert expected.shape == (96, 128)
    # Neither dead nor flat: everything above was worth comparing.
    assert (expected > 0).mean() > 0.3
    assert expected.std() > 0.05 * expected.max()
    np.testing.assert_allclose(raw_saliency(model, image), expected, atol=2e-5 * expected.max())


def test_the_shortcut_comes_beside_2c_in_keras_order():
    names = [name for name, arrays in resnet_layers() if arrays]
    at = names.index("res3a_branch2c")
    assert names[at - 1 : at + 5] == [
        "bn3a_branch2b",
        "res3a_branch2c",
        "res3a_branch1",
        "bn3a_branch2c",
        "bn3a_branch1",
        "res3b_branch2a",
    ]
    backbone = [layer.name for layer in SamResNet(0.02).backbone_layers()]
    assert backbone[:-1] == names[: names.index("convolution2d_1")]


@pytest.mark.parametrize("change", ["renamed", "reordered"])
@pytest.mark.parametrize("network", NETWORKS)
def test_layers_are_found_by_order_without_their_names_and_by_name_without_their_order(
    tmp_path, network, change
):
    layers = [layer for layer in LAYERS[network]() if layer[1]]
    if change == "renamed":
        changed = [(f"layer_{number}", arrays) for number, (_, arrays) in enumerate(layers)]
    else:
        backbone = [layer for layer in layers if layer[0][:3] in ("res", "bn2", "bn3", "blo")]
        others = [layer for layer in layers if layer[0] not in dict(backbone)]
        changed = others + backbone[::-1]
    states = []
    for name, content in (("whole", layers), ("changed", changed)):
        write_keras1(tmp_path / name, content, nested=False)
        model = NETWORKS[network](1 / SHARE)
        model.load_official(tmp_path / name)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(("network", "count"), [(SamVgg, 51_835_841), (SamResNet, 70_093_441)])
def test_published_numbers_of_parameters(network, count):
    with torch.device("meta"):
        model = network()
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    statistics = [buffer.numel() for name, buffer in model.named_buffers() if "running" in name]
    assert sum(statistics) == (53_120 if network is SamResNet else 0)


@pytest.mark.parametrize("network", NETWORKS.values())
def test_any_width_and_size_trains(network):
    model = network(0.02)
    model.out[0].bias.data.fill_(1)
    nn.init.normal_(model.lstm.v_a.weight)
    maps = model(torch.randn(2, 3, 40, 72))
    assert maps.shape == (2, 1, 80, 144)
    maps.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("network", NETWORKS.values())
def test_an_image_s_map_does_not_depend_on_its_batch(network):
    torch.manual_seed(0)
    model = network(0.05).eval()
    model.out[0].bias.data.fill_(1)
    nn.init.normal_(model.lstm.v_a.weight)
    images = torch.randn(3, 3, 48, 64)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_weights_of_another_network_or_width(tmp_path):
    path = tmp_path / "weights.pkl"
    write_keras1(path, vgg_layers(), nested=True)
    with pytest.raises(
        StudyError, match="expected 113 layers with weights for SamResNet, found 19"
    ):
        SamResNet(1 / SHARE).load_official(path)
    with pytest.raises(StudyError, match=r"\(6, 3, 3, 3\).* in layer block1_conv1, found \(4, 3"):
        SamVgg(0.1).load_official(path)


def test_wrong_arrays_are_named_by_their_layer(tmp_path):
    path = tmp_path / "weights.pkl"
    for change, message in (
        (lambda arrays: arrays.pop(7), "in layer attentiveconvlstm_1, found"),
        (lambda arrays: arrays[4][1].fill(np.nan), "finite numbers in layer attentiveconvlstm_1"),
    ):
        layers = vgg_layers()
        change(dict(layers)["attentiveconvlstm_1"])
        write_keras1(path, layers, nested=False)
        model = SamVgg(1 / SHARE)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(StudyError, match=message):
            model.load_official(path)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_page_under_the_file_s_name(tmp_path):
    path = tmp_path / "sam-vgg_salicon_weights.pkl"
    path.write_text("<html>Not Found</html>")
    with pytest.raises(StudyError, match="found a web page"):
        SamVgg(0.02).load_official(path)


def test_windows_of_theano_s_same_pooling_start_outside():
    maps = torch.arange(15.0).view(1, 1, 3, 5)
    # Rows {-1, 0}, {1, 2}; columns {-1, 0}, {1, 2}, {3, 4}.
    assert TheanoSamePool(2)(maps)[0, 0].tolist() == [[0, 2, 4], [10, 12, 14]]
    # Every place and its neighbours above and on the left: the place itself is the largest.
    assert torch.equal(TheanoSamePool(1)(maps), maps)
    assert TheanoSamePool(1)(maps.flip(3))[0, 0, 0].tolist() == [4, 4, 3, 2, 1]


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (2, 1)])
def test_upsampling_is_theano_s(shape):
    maps = np.random.default_rng(0).random(shape)
    enlarged = bilinear_upsampling(torch.from_numpy(maps)[None, None])[0, 0]
    np.testing.assert_allclose(enlarged.numpy(), theano_upsampling(maps), atol=1e-12)


def test_upsampling_of_a_step():
    enlarged = bilinear_upsampling(torch.tensor([[[[0.0, 16.0]]]]))[0, 0, 0]
    assert enlarged.tolist() == [0.0] * 8 + list(range(1, 16)) + [16.0] * 9


def test_priors_follow_the_grid_and_are_clipped():
    prior = LearningPrior()
    values = np.repeat(np.array([0.0, 0.5, 2.0, 0.0], np.float32), 16)  # mu_x .25, sigmas .9, .2
    with torch.no_grad():
        prior.weight.copy_(torch.from_numpy(values))
        maps = prior(3, 5)[0].numpy()
    assert maps.shape == (16, 3, 5)
    # Columns 0, .25, ... ; rows .2, .5, .8 as the grid's height is .6 of its width.
    across = np.exp(-((np.arange(5) / 4 - 0.25) ** 2) / (2 * 0.81))
    down = np.exp(-(np.array([-0.3, 0, 0.3]) ** 2) / (2 * 0.04))
    np.testing.assert_allclose(maps, np.tile(np.outer(down, across), (16, 1, 1)), atol=1e-5)


MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)[:, None, None]


def test_input_is_bgr_in_a_black_canvas_minus_the_mean():
    image = np.full((120, 80, 3), (10, 20, 30), np.uint8)  # 160 of the 320 columns
    prepared = SamVgg(0.02).prepare(image)
    assert prepared.shape == (1, 3, 240, 320)
    assert prepared.dtype == torch.float32
    inside = np.array([30, 20, 10], np.float32)[:, None, None] - MEAN_BGR
    expected = np.broadcast_to(-MEAN_BGR, (3, 240, 320)).copy()
    expected[:, :, 80:240] = inside
    np.testing.assert_allclose(prepared[0].numpy(), expected, atol=1e-4)


def test_input_of_a_wide_image_is_centred_by_rows():
    image = np.full((101, 320, 3), 255, np.uint8)
    seen = SamVgg(0.02).prepare(image)[0, 0] > 0
    assert torch.equal(seen.all(1).nonzero()[:, 0], torch.arange(69, 170))  # (240 - 101) // 2
    assert not seen.all(1).logical_xor(seen.any(1)).any()


def test_an_image_of_the_canvas_s_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    prepared = SamVgg(0.02).prepare(image)[0].numpy() + MEAN_BGR
    np.testing.assert_allclose(prepared, image[..., ::-1].transpose(2, 0, 1), atol=1e-4)


def test_finish_crops_the_canvas_s_borders_off():
    output = np.zeros((480, 640), np.float32)
    output[:, :160] = 5.0  # borders of an upright image: columns 160 to 480 are the image
    output[:, 160:320] = 1.0
    finished = SamVgg(0.02).finish(output, 480, 320)
    assert finished.shape == (480, 320)
    assert finished.dtype == np.uint8
    # A blurred step down the middle and nothing of the border, which is five times as salient.
    step = np.repeat([1.0, 0.0], 160)
    places = np.arange(-28, 29)
    gaussian = np.exp(-(places**2) / (2 * 49))
    profile = np.convolve(np.pad(step, 28, "edge"), gaussian / gaussian.sum(), "valid")
    assert np.abs(finished - np.floor(255 * profile)).max() <= 1
    assert (finished == finished[0]).all()


def test_finish_enlarges_to_the_image():
    output = np.zeros((480, 640), np.float32)
    output[240:, 320:] = 3.0
    finished = SamVgg(0.02).finish(output, 900, 1200).astype(int)
    assert finished.max() == 255
    assert finished[:400].max() == 0
    assert finished[500:, 650:].min() == 255
    assert abs(finished[800, 599] + finished[800, 600] - 255) <= 2


def test_finish_scales_to_255_and_keeps_ratios():
    output = np.full((480, 640), 0.004, np.float32)
    output[:, 320:] = 0.002
    finished = SamVgg(0.02).finish(output, 240, 320)
    assert (finished[:, :100] == 255).all()
    assert (finished[:, 220:] == 127).all()  # truncated, as the authors' conversion does


def test_a_dead_output_gives_zeros():
    model = SamVgg(0.02)
    assert not model.finish(np.zeros((480, 640), np.float32), 30, 20).any()
    output = np.zeros((480, 640), np.float32)
    output[:, :50] = 1.0  # alive on the border only
    finished = model.finish(output, 300, 200)
    assert finished.shape == (300, 200)
    assert not finished.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 40_000), (40_000, 3)])
def test_extreme_images(shape):
    model = SamVgg(0.02)
    image = np.full((*shape, 3), 200, np.uint8)
    prepared = model.prepare(image)
    assert prepared.shape == (1, 3, 240, 320)
    assert prepared[0, 0].max() > 0
    finished = model.finish(np.ones((480, 640), np.float32), *shape)
    assert finished.shape == shape
    assert finished.min() >= 254
