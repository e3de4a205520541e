"""Fine-tuning piece by piece: loss, networks A and B, sampler, killed and resumed training."""

import time

import numpy as np
import pytest
import torch

from blcf_utils.config.finetuning import FinetuneTrainingConfig, ProjectionConfig
from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.finetuning.descriptors import describe_inputs
from blcf_utils.finetuning.inputs import Photographs, PixelMaps, StoredMaps
from blcf_utils.finetuning.loss import triplet_loss
from blcf_utils.finetuning.networks import (
    TRUNK,
    build_network,
    load_network,
    save_network,
    split_trunk,
)
from blcf_utils.finetuning.splits import Split
from blcf_utils.finetuning.training import CHECKPOINT, CURVE, Trainer, triplets_of_step
from blcf_utils.finetuning.triplets import Candidates, Triplets, draw_triplets
from blcf_utils.finetuning.validation import Validation
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import evaluate_query

LAYER = {"name": "squeezenet1_1", "layer": "fire9"}
FROZEN = "fire7"
PROJECTION = ProjectionConfig(dimensions=64)
CONFIG = FinetuneTrainingConfig(
    frozen=FROZEN,
    inputs="pixels",
    size=32,
    batch=2,
    accumulate=2,
    steps=6,
    warmup=2,
    margin=0.5,
    learning_rate=1e-3,
    checkpoint_every=2,
    validate_every=2,
    threads=1,
    device="cpu",
    precision="float32",
)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneConfig(**LAYER, weights="random"))


@pytest.fixture(scope="module")
def triplets():
    images = np.random.default_rng(0).integers(0, 12, (7, 3)).astype(np.int32)
    return Triplets(images, np.ones((7, 2), np.float32))


@pytest.fixture
def trainer(toy, backbone, triplets):
    def make(network="B", validation=None, inputs=None, **settings):
        config = CONFIG.model_copy(update=settings)
        made = build_network(network, backbone, FROZEN, PROJECTION)
        inputs = inputs or Photographs(PixelMaps(toy, backbone, 48), config)
        frozen, _ = split_trunk(backbone, FROZEN)
        return Trainer(made, triplets, inputs, config, 3, validation, frozen=frozen)

    return make


class Scores:
    """A validation that says what it is told."""

    queries = (1,)

    def __init__(self, *scores):
        self.scores = list(scores)

    def score(self, network, device):
        return self.scores.pop(0)


def weights(network):
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def killed_at(made, step):
    """Let a trainer die in a step, between two checkpoints or not."""
    advance = made.advance

    def dies(loaded):
        if made.step == step:
            raise KeyboardInterrupt
        advance(loaded)

    made.advance = dies
    return made


def test_the_triplet_loss_by_hand():
    a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert triplet_loss(a, p, n, 0.1).item() == pytest.approx(9 - 4 + 0.1)
    assert triplet_loss(a, p, n, 0.1, "euclidean").item() == pytest.approx(3 - 2 + 0.1)
    assert triplet_loss(a, n, p, 0.1).item() == 0
    same = a.clone().requires_grad_()
    triplet_loss(same, a, a, 0.1, "euclidean").sum().backward()
    assert torch.isfinite(same.grad).all()


def test_network_a_is_the_sum_of_the_whole_trunk(backbone):
    pixels = torch.randn(2, 3, 64, 48)
    frozen, _ = split_trunk(backbone, FROZEN)
    network = build_network("A", backbone, FROZEN, PROJECTION)
    sums = backbone.module(pixels).sum((2, 3))
    expected = sums / sums.norm(dim=1, keepdim=True)
    torch.testing.assert_close(network(frozen(pixels)), expected, atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_a_linear_projection_keeps_cosines_and_a_local_rectified_one_does_not(backbone):
    maps = torch.rand(6, backbone.channels, 4, 5) ** 3
    plain = build_network("A", backbone, FROZEN, PROJECTION).pool(maps)
    cosines = {}
    for place, relu in (("pooled", False), ("local", False), ("local", True)):
        config = ProjectionConfig(dimensions=20_000, place=place, relu=relu)
        vectors = build_network("B", backbone, FROZEN, config).pool(maps)
        assert vectors.shape == (6, 20_000)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
        cosines[place, relu] = vectors @ vectors.T
    assert (cosines["pooled", False] - plain @ plain.T).abs().max() < 0.03
    assert (cosines["local", True] - cosines["local", False]).abs().max() > 0.005


def test_what_is_saved_is_a_backbone_and_the_same_network(backbone, tmp_path):
    network = build_network("B", backbone, FROZEN, PROJECTION)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    save_network(network, backbone, tmp_path)
    again = load_network("B", backbone, FROZEN, PROJECTION, tmp_path)
    assert equal(weights(network), weights(again))
    loaded = load_backbone(BackboneConfig(**LAYER, weights=str(tmp_path / TRUNK)))
    frozen, _ = split_trunk(backbone, FROZEN)
    pixels = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(loaded.module(pixels), network.trunk(frozen(pixels)))
    assert (loaded.mean, loaded.std) == (backbone.mean, backbone.std)
    assert loaded.weights_digest != backbone.weights_digest


def test_the_normalisation_of_tuned_weights_travels_with_them(backbone, tmp_path):
    from dataclasses import replace

    other = replace(backbone, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    save_network(build_network("A", other, FROZEN, PROJECTION), other, tmp_path)
    loaded = load_backbone(BackboneConfig(**LAYER, weights=str(tmp_path / TRUNK)))
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_each_epoch_visits_every_triplet_once():
    steps = [triplets_of_step(k, triplets=7, batch=3, seed=1) for k in range(14)]
    order = np.concatenate(steps)
    for epoch in order.reshape(6, 7):
        assert sorted(epoch) == list(range(7))
    assert order[:7].tolist() != order[7:14].tolist()


def test_draws_are_seeded_and_of_one_ranking():
    some = [
        Candidates(0, np.array([1, 2]), np.array([5])),
        Candidates(3, np.array([4]), np.array([6, 7])),
    ]
    rows = draw_triplets(some, 50, seed=2)
    np.testing.assert_array_equal(rows, draw_triplets(some, 50, seed=2))
    assert not np.array_equal(rows, draw_triplets(some, 50, seed=3))
    found = {tuple(row) for row in rows.tolist()}
    assert found == {(0, 1, 5), (0, 2, 5), (3, 4, 6), (3, 4, 7)}


@pytest.mark.parametrize("network", ["A", "B"])
def test_killed_and_resumed_training_ends_with_the_same_weights(trainer, tmp_path, network):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    one = trainer(network, Scores(0.1, 0.2, 0.3, 0.25))
    before = weights(one.network)
    assert one.run(whole)
    after = weights(one.network)
    assert not any(torch.equal(before[key], after[key]) for key in before)
    assert not trainer(network, Scores(0.1, 0.2)).run(parts, stop_after=3)
    two = trainer(network, Scores(0.3, 0.25))
    assert two.run(parts)
    assert equal(weights(two.network), after)
    assert (whole / CURVE).read_bytes() == (parts / CURVE).read_bytes()


def test_killed_between_checkpoints_it_goes_on_from_the_last_one(trainer, tmp_path):
    one = trainer("A", Scores(0.1, 0.2, 0.3, 0.25), checkpoint_every=4)
    one.run(tmp_path / "whole")
    killed = killed_at(trainer("A", Scores(0.1, 0.2, 0.3), checkpoint_every=4), 5)
    with pytest.raises(KeyboardInterrupt):
        killed.run(tmp_path / "parts")
    # How often it is written down may change on the way; the fifth step is done again.
    two = trainer("A", Scores(0.25), checkpoint_every=1)
    assert two.run(tmp_path / "parts")
    assert equal(weights(two.network), weights(one.network))
    curves = [(tmp_path / name / CURVE).read_bytes() for name in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_the_best_validation_is_kept_and_patience_stops(trainer, tmp_path):
    one = trainer("A", Scores(0.9, 0.3, 0.2, 0.1), patience=1)
    assert one.run(tmp_path)
    assert one.step == 4  # 0.2 at step 4 is no gain over 0.3 at step 2
    two = trainer("A", steps=6, keep="last")
    (tmp_path / "two").mkdir()
    two.run(tmp_path / "two", stop_after=2)
    assert equal(weights(two.network), weights(one.network))
    curve = (tmp_path / CURVE).read_text().splitlines()
    assert [line.split(",")[-1] for line in curve[1:]] == ["0.9", "", "0.3", "", "0.2"]


def test_patience_counts_on_after_being_killed(trainer, tmp_path):
    settings = {"patience": 2, "steps": 12, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):  # 0.2 and 0.1: one validation without a gain
        killed_at(trainer("A", Scores(0.0, 0.2, 0.1), **settings), 5).run(tmp_path)
    two = trainer("A", Scores(0.15), **settings)
    assert two.run(tmp_path)
    assert (two.step, two.stopped) == (6, True)
    # Killed once more before its weights are written, it neither trains on nor validates.
    three = trainer("A", Scores(), **settings)
    assert three.run(tmp_path)
    assert three.step == 6
    assert equal(weights(three.network), weights(two.network))
    best = trainer("A", steps=12, keep="last")
    best.run(tmp_path / "best", stop_after=2)
    assert equal(weights(two.network), weights(best.network))


def test_a_new_projection_learns_faster_than_the_trunk(trainer):
    one = trainer("B", projection_rate=7.0)
    one.advance(one.loaded())
    trunk, projection = (group["lr"] for group in one.optimizer.param_groups)
    assert trunk == CONFIG.learning_rate / 2 == one.history[0][3]
    assert projection == pytest.approx(7 * trunk)


def test_batch_statistics_stay_those_of_the_weights(toy, triplets):
    resnet = load_backbone(BackboneConfig(name="resnet18", layer="layer2", weights="random"))
    frozen, _ = split_trunk(resnet, "layer1")
    network = build_network("A", resnet, "layer1", PROJECTION)
    inputs = Photographs(PixelMaps(toy, resnet, 48), CONFIG)
    one = Trainer(network, triplets, inputs, CONFIG, 3, frozen=frozen)
    before = {**weights(network), **{f"frozen {k}": v for k, v in weights(frozen).items()}}
    one.advance(one.loaded())
    after = {**weights(network), **{f"frozen {k}": v for k, v in weights(frozen).items()}}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {name for name, _ in network.named_parameters()}
    assert any("running_mean" in key for key in before)


def test_accumulated_batches_are_one_larger_batch(trainer, toy, backbone, tmp_path):
    pixels = PixelMaps(toy, backbone, 48)

    class Still:
        def load(self, images, seed):
            return [torch.from_numpy(pixels.map(i)[:, :32, :32].copy()) for i in images]

    still = {"inputs": Still(), "optimizer": "sgd", "steps": 3}
    one, two = trainer("A", **still), trainer("A", batch=4, accumulate=1, **still)
    before = weights(one.network)
    for made, name in ((one, "one"), (two, "two")):
        (tmp_path / name).mkdir()
        made.run(tmp_path / name)
    for key, value in weights(one.network).items():
        moved = (value - before[key]).abs().max()
        assert (value - weights(two.network)[key]).abs().max() < 1e-3 * moved


class Poisoned:
    """Inputs that are not numbers."""

    def load(self, images, seed):
        return [torch.full((3, 32, 32), float("nan")) for _ in images]


@pytest.mark.parametrize("what", ["loss", "gradient", "length of the weights after it"])
def test_what_is_not_finite_leaves_the_checkpoint_alone(trainer, tmp_path, what):
    each = {"checkpoint_every": 1}
    trainer(**each).run(tmp_path, stop_after=2)
    files = [tmp_path / name for name in (CHECKPOINT, CURVE)]
    kept = [path.read_bytes() for path in files]
    broken = trainer(**each, inputs=Poisoned() if what == "loss" else None)
    first = next(broken.network.trunk.parameters())
    if what == "gradient":
        first.register_hook(lambda gradient: gradient * float("inf"))
    elif what.startswith("length"):
        broken.optimizer.step = lambda: first.data.fill_(1e30)  # its square is no float32
    message = rf"the {what} of step 2 is (nan|inf); lower .*learning_rate \(the last checkpoint"
    with pytest.raises(StudyError, match=message):
        broken.run(tmp_path)
    assert [path.read_bytes() for path in files] == kept
    assert trainer(**each).run(tmp_path)


def test_the_curve_can_be_read_while_it_trains(trainer, tmp_path):
    one = trainer("A", checkpoint_every=2)
    one.run(tmp_path / "whole")
    whole = (tmp_path / "whole" / CURVE).read_text().splitlines()
    two = trainer("A", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        killed_at(two, 5).run(tmp_path / "killed")
    assert (tmp_path / "killed" / CURVE).read_text().splitlines() == whole[:5]


def test_patience_without_held_out_queries_is_said(trainer, caplog):
    trainer("A", patience=2)
    assert "no query is held out" in caplog.text
    caplog.clear()
    trainer("A", Scores(0.1), patience=2)
    trainer("A")
    assert not caplog.text


@pytest.mark.parametrize("network", ["A", "B"])
def test_only_the_trunk_computes_in_the_short_type(trainer, network):
    seen, makers = {}, {kind: trainer(network, precision=kind) for kind in ("float32", "bfloat16")}
    for kind, made in makers.items():
        before = weights(made.network)
        layer = next(m for m in made.network.trunk.modules() if isinstance(m, torch.nn.Conv2d))
        layer.register_forward_hook(lambda *at, kind=kind: seen.update({kind: at[2].dtype}))
        made.advance(made.loaded())
        assert all(value.dtype == torch.float32 for value in weights(made.network).values())
        assert not equal(before, weights(made.network))
    assert seen == {"float32": torch.float32, "bfloat16": torch.bfloat16}
    losses = [made.history[0][1] for made in makers.values()]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    # Unit vectors, not their 8 bits.
    maps = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = makers["bfloat16"].describer(maps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)


def test_a_checkpoint_of_other_settings_is_refused(trainer, tmp_path):
    trainer().run(tmp_path, stop_after=2)
    with pytest.raises(StudyError, match="interrupted training had other settings"):
        trainer(margin=0.4).run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK not a checkpoint", None])
def test_a_damaged_checkpoint_says_what_to_do(trainer, tmp_path, content):
    trainer("A").run(tmp_path, stop_after=2)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(StudyError, match=r"checkpoint.pt: expected the checkpoint.*delete it"):
        trainer("A").run(tmp_path)


def test_inputs_follow_their_seed(toy, backbone):
    inputs = Photographs(PixelMaps(toy, backbone, 48), CONFIG)
    first, again, other = (inputs.load([0, 1], seed) for seed in (5, 5, 6))
    assert all(x.shape == (3, 32, 32) for x in first)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    still = CONFIG.model_copy(update={"crop": 1.0, "flip": False, "colour": 0.0})
    calm = Photographs(PixelMaps(toy, backbone, 48), still)
    middle = float(calm.load([0], 1)[0].mean())
    assert middle == pytest.approx(float(PixelMaps(toy, backbone, 48).map(0).mean()), abs=0.5)


def test_batches_come_in_their_order_however_many_are_loaded_ahead(trainer, monkeypatch):
    class Slow:
        """The seeds of batches; the first one takes longest."""

        def load(self, images, seed):
            time.sleep(0.2 if seed == 3 * 1_000_003 else 0)
            return [seed, *images]

    orders = []
    for ahead in (2, 8):
        monkeypatch.setattr("blcf_utils.finetuning.training._AHEAD", ahead)
        orders.append(list(trainer("A", inputs=Slow()).loaded()))
    assert orders[0] == orders[1]
    assert [row[0] for row in orders[0]] == [3 * 1_000_003 + k for k in range(12)]


@pytest.fixture(scope="module")
def every_layer(backbone):
    return build_network("A", backbone, "", PROJECTION).requires_grad_(False)


def test_inputs_of_different_shapes_keep_their_order(every_layer):
    shapes = [(48, 32), (32, 48), (48, 32), (40, 40), (32, 48)]
    inputs = [torch.randn(3, *shape) for shape in shapes]
    found = describe_inputs(every_layer, inputs, torch.device("cpu"), torch.float32)
    alone = torch.cat([every_layer(one[None]) for one in inputs])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_held_out_queries_are_scored_among_their_images_and_a_sample(toy, backbone, every_layer):
    pixels = PixelMaps(toy, backbone, 48)
    split = Split(0, ("q0", "outside"), ("q2", "q3"), np.array([3, 4, 5, 12, 13, 14, 15]))
    made = Validation.of(toy, pixels, split, others=4, seed=1)
    assert [query.id for query in made.queries] == ["q2", "q3"]
    images = made.images.tolist()
    assert set(range(6, 12)) < set(images)
    assert len(set(images) & set(split.images.tolist())) == 4 == len(images) - 6
    again = Validation.of(toy, pixels, split, others=4, seed=1).images
    assert again.tolist() == images
    everyone = Validation.of(toy, pixels, split, others=99, seed=1).images
    assert everyone.tolist() == sorted({*range(6, 12), *split.images.tolist()})

    def described(image):
        return every_layer(torch.from_numpy(pixels.map(image))[None])[0].numpy()

    expected = []
    for query in made.queries:
        asked = described(toy.image_index[query.image])
        order = sorted(images, key=lambda i, asked=asked: -float(asked @ described(i)))
        expected.append(evaluate_query(toy, query, np.array(order)))
    assert made.score(every_layer, torch.device("cpu")) == pytest.approx(np.mean(expected))
    assert 0 < np.mean(expected) < 1  # or any order of images would do


class OneImage:
    """An image, and its maps, whose every value says where it is."""

    def __init__(self, side=32):
        self.values = np.arange(side * side, dtype=np.float32).reshape(1, side, side)

    def pixels(self, image):
        return np.repeat((self.values[0] / 8 + 64).astype(np.uint8)[:, :, None], 3, 2)

    def normalised(self, pixels):
        return pixels * 255

    def map(self, image):
        return self.values


@pytest.mark.parametrize("kind", ["pixels", "maps"])
def test_every_second_image_is_mirrored(kind):
    one = OneImage()
    plain = one.pixels(0).transpose(2, 0, 1) if kind == "pixels" else one.map(0)
    for flip, sides in ((True, 2), (False, 1)):
        config = CONFIG.model_copy(update={"crop": 1.0, "colour": 0.0, "flip": flip})
        inputs = Photographs(one, config) if kind == "pixels" else StoredMaps(one, config)
        mirrored = 0
        for seed in range(20):
            for found in inputs.load([0, 0], seed):
                ways = [np.allclose(found, way, atol=1e-3) for way in (plain, plain[:, :, ::-1])]
                assert any(ways)
                mirrored += ways[1]
        assert (8 < mirrored < 32) == (sides == 2)


def test_light_and_contrast_change_as_much_as_the_setting_says():
    one = OneImage()
    plain = one.pixels(0)[:, :, 0].astype(float).ravel()
    config = CONFIG.model_copy(update={"crop": 1.0, "colour": 0.2, "flip": False})
    gains, lights = [], []
    for seed in range(60):
        (found,) = Photographs(one, config).load([0], seed)
        slope, _ = np.polyfit(plain, found[0].numpy().ravel(), 1)
        lights.append(float(found[0].mean()) / plain.mean())
        gains.append(slope / lights[-1])
    for values in (gains, lights):
        assert 1 / 1.2 - 1e-2 < min(values) < 0.9
        assert 1.1 < max(values) < 1.2 + 1e-2


def test_crops_of_one_call_keep_one_share_and_are_windows():
    config = CONFIG.model_copy(update={"crop": 0.5, "flip": False})
    sides, places = set(), set()
    for seed in range(30):
        found = StoredMaps(OneImage(), config).load([0, 0], seed)
        assert found[0].shape == found[1].shape
        side = found[0].shape[1]
        sides.add(side)
        for one in found:
            top, left = divmod(int(one[0, 0, 0]), 32)
            places.add((top, left))
            window = OneImage().values[:, top : top + side, left : left + side]
            np.testing.assert_array_equal(one, window)
    assert min(sides) >= 16
    assert max(sides) > 28
    assert len(sides) > 8
    assert len(places) > 30


def test_an_unknown_layer_or_the_last_one_cannot_be_frozen(backbone):
    with pytest.raises(StudyError, match="unknown layer of squeezenet1_1 'conv9'"):
        split_trunk(backbone, "conv9")
    with pytest.raises(StudyError, match="expected a layer before fire9"):
        split_trunk(backbone, "fire9")
