"""Feature extraction: right values in the right place, whatever the batches, damage or kills."""

import errno
import logging
import signal
import struct
import subprocess
import sys
import textwrap
from dataclasses import replace

import cv2
import h5py
import numpy as np
import processes
import pytest
import torch
from PIL import Image

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import resized_size
from blcf_utils.features import extraction as features_module
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.forward import (
    forward_images,
    resolve_device,
    resolve_precision,
)
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.rows import normalise_rows, sample_rows
from blcf_utils.features.stored import DONE, Features, lay_out
from blcf_utils.ground.artefacts import Artefact, ArtefactStore
from blcf_utils.ground.errors import StudyError


def folder_of(paths, n_queries=0):
    """A dataset of these files; the last ``n_queries`` are query images outside the database."""
    n = len(paths) - n_queries
    queries = tuple(Query(p.name, p, None, (0,)) for p in paths[n:])
    return Dataset("set", paths[0].parent, tuple(paths[:n]), queries)


def photograph(path, width=80, height=60, seed=0, **options):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return path


def reference_map(path, config):
    """One image's map by a short independent pipeline."""
    image = Image.open(path).convert("RGB")
    scale = config.longest_side / max(image.size)
    image = image.resize([round(s * scale) for s in image.size], Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        return load_backbone(config.backbone).module(pixels)[0].numpy()


def close(found, expected):
    # float16 keeps 11 bits
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_maps_are_the_network_s_of_the_resized_image(toy, toy_stages, tiny_network):
    features = toy_stages.features
    assert (len(features), features.n_database, features.channels) == (19, 18, 128)
    assert features.skipped == ()
    for i, path in enumerate(toy.all_images):
        expected = reference_map(path, tiny_network)
        found = features.map(i)
        assert found.shape == expected.shape
        assert tuple(features.shapes[i]) == expected.shape[1:]
        assert tuple(features.sizes[i]) == Image.open(path).size
        close(found, expected)
    rows = features.descriptors(3)
    np.testing.assert_array_equal(rows[features.shapes[3][1] + 2], features.map(3)[:, 1, 2])


def test_a_network_sees_plainly_resized_images_where_that_is_asked_for(toy, tiny_network, store):
    plain = tiny_network.model_copy(update={"longest_side": 40, "resize": "plain"})
    features, device = extract_features(toy, plain, store), torch.device("cpu")
    for i, path in enumerate(toy.all_images):
        photo = np.asarray(Image.open(path).convert("RGB"))
        seen = cv2.resize(photo, resized_size(photo.shape[1::-1], 40))
        rows = forward_images(load_backbone(plain.backbone), seen[None], device)[0]
        close(features.descriptors(i), rows.astype(np.float32))


def test_batching_changes_nothing_but_rounding(toy, toy_stages, tiny_network, store):
    single = extract_features(toy, tiny_network.model_copy(update={"batch_size": 1}), store)
    assert single.key == toy_stages.features.key  # so the artefact is shared, in another store
    np.testing.assert_array_equal(single.offsets, toy_stages.features.offsets)
    for i in range(len(single)):
        close(single.map(i), toy_stages.features.map(i))


def test_a_second_extraction_is_found(toy, toy_stages, tiny_network):
    again = extract_features(toy, tiny_network, ArtefactStore(toy_stages.store.root))
    assert again.artefact.reused


def test_database_rows_are_every_database_descriptor_once(toy_stages):
    features = toy_stages.features
    rows = features.database_rows()
    assert len(rows) == features.shapes[:18].prod(axis=1).sum()
    assert (np.diff(rows) > 0).all()
    whole = np.concatenate([features.descriptors(i) for i in range(18)])
    for chunk in (7, 100_000):
        np.testing.assert_array_equal(np.concatenate(list(features.stream(rows, chunk))), whole)
    some = sample_rows(rows, 40, seed=3)
    assert len(some) == 40
    assert (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, sample_rows(rows, 40, seed=3))
    assert not np.array_equal(some, sample_rows(rows, 40, seed=4))
    place = np.searchsorted(rows, some)
    np.testing.assert_array_equal(np.concatenate(list(features.stream(some, 9))), whole[place])


def test_every_finite_float16_is_read_as_what_it_is(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    bits[bits & 0x7C00 == 0x7C00] = 0  # infinite or no number; extraction stores neither
    with h5py.File(tmp_path / "features.h5", "w") as file:
        sizes = shapes = np.array([[256, 1]])
        lay_out(file, sizes, shapes, np.array([DONE]), 1, 256)
        file["descriptors"][:] = bits.view(np.float16).reshape(256, 256)
    (tmp_path / "skipped.json").write_text("[]")
    features = Features(Artefact("features", "bits", "key", tmp_path, False, 0.0))
    values = np.array(struct.unpack(f"<{2**16}e", bits.tobytes()), np.float32)
    np.testing.assert_array_equal(features.descriptors(0).ravel(), values)
    streamed = np.concatenate(list(features.stream(np.array([0, 1, 5, 255]))))
    np.testing.assert_array_equal(streamed, values.reshape(256, 256)[[0, 1, 5, 255]])


def test_normalised_rows_have_unit_length_and_zero_stays():
    rows = np.array([[3, 4], [0, 0], [1e-3, 0]], np.float32)
    np.testing.assert_allclose(normalise_rows(rows), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from blcf_utils.features import extraction as features
    from blcf_utils.ground import artefacts
    from blcf_utils.config.profile import BackboneConfig, FeatureConfig
    from blcf_utils.datasets import load_dataset
    root, cache, where, after = sys.argv[1:]
    owner = {"_write": features._Extraction, "replace": os}[where]
    original, calls = getattr(owner, where), []
    def killing(*arguments, **options):
        calls.append(1)
        if len(calls) > int(after):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(owner, where, killing)
    network = BackboneConfig(name="squeezenet1_1", layer="fire3", weights="random")
    config = FeatureConfig(backbone=network, longest_side=96, batch_size=4, device="cpu")
    features.extract_features(
        load_dataset("toy", root=root), config, artefacts.ArtefactStore(cache)
    )
"""


@pytest.mark.parametrize(
    ("where", "after"), [("replace", 0), ("_write", 10), ("_write", 25), ("replace", 1)]
)
def test_a_killed_extraction_resumes_to_the_same_bytes(
    toy, toy_root, toy_stages, tiny_network, store, where, after
):
    arguments = [str(toy_root / "toy"), str(store.root), where, str(after)]
    assert processes.run(KILLED, *arguments) == -signal.SIGKILL
    resumed = extract_features(toy, tiny_network, store)
    assert not resumed.artefact.reused
    uninterrupted = toy_stages.features.artefact
    assert resumed.key == uninterrupted.key
    names = sorted(p.name for p in uninterrupted.folder.iterdir())
    assert sorted(p.name for p in resumed.artefact.folder.iterdir()) == names
    same = [(a / "features.h5").read_bytes() for a in (resumed.artefact, uninterrupted)]
    assert same[0] == same[1]


def test_resuming_forwards_only_what_is_missing(toy, tiny_network, store, monkeypatch):
    class Stop(Exception):
        pass

    backbone = load_backbone(tiny_network.backbone)
    forwarded = []

    def count(_module, inputs):
        if not len(inputs[0]):  # asked for a shape
            return
        if len(forwarded) == 3:
            forwarded.append(0)
            raise Stop
        forwarded.append(len(inputs[0]))

    backbone.module.register_forward_pre_hook(count)
    monkeypatch.setattr(features_module, "pool_threads", lambda: 1)  # none is under way at the stop
    with pytest.raises(Stop):
        extract_features(toy, tiny_network, store, backbone)
    assert forwarded == [4, 4, 4, 0]
    extract_features(toy, tiny_network, store, backbone)
    assert sum(forwarded) == 19


@pytest.fixture
def mixed(tmp_path):
    """Six photographs; two are broken: no header, and a whole header with half the data."""
    paths = [photograph(tmp_path / f"{k}.jpg", seed=k) for k in range(6)]
    paths[1].write_bytes(b"not an image")
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[: len(content) // 2])
    return paths


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_broken_image_stops_the_extraction_by_name(
    mixed, tiny_network, store, monkeypatch, on_gpu
):
    monkeypatch.setattr(features_module._Extraction, "on_gpu", on_gpu)
    with pytest.raises(StudyError, match=r"1\.jpg: expected an image that decodes"):
        extract_features(folder_of(mixed), tiny_network, store)
    photograph(mixed[1], seed=1)
    with pytest.raises(StudyError, match=r"3\.jpg: expected an image .*truncated"):
        extract_features(folder_of(mixed), tiny_network, store)


def test_broken_images_can_be_left_out_and_that_is_said(mixed, tiny_network, store, caplog):
    config = tiny_network.model_copy(update={"on_corrupt": "skip"})
    with caplog.at_level(logging.WARNING, "blcf"):
        features = extract_features(folder_of(mixed), config, store)
    assert "2 unreadable images left out: 1.jpg, 3.jpg" in caplog.text
    assert features.skipped == ("1.jpg", "3.jpg")
    counts = features.shapes.prod(axis=1)
    assert (counts == 0).tolist() == [False, True, False, True, False, False]
    assert len(features.database_rows()) == counts.sum()
    for i in (0, 2, 4, 5):
        close(features.map(i), reference_map(mixed[i], tiny_network))
    assert features.map(3).shape == (128, 0, 0)


def test_when_no_image_decodes_nothing_is_extracted(tmp_path, tiny_network, store):
    (tmp_path / "a.jpg").write_bytes(b"no")
    config = tiny_network.model_copy(update={"on_corrupt": "skip"})
    with pytest.raises(StudyError, match="none of its 1 images decodes"):
        extract_features(folder_of([tmp_path / "a.jpg"]), config, store)


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_a_missing_image_is_named(tmp_path, tiny_network, store, on_corrupt):
    dataset = folder_of([photograph(tmp_path / "a.jpg"), tmp_path / "gone.jpg"])
    config = tiny_network.model_copy(update={"on_corrupt": on_corrupt})
    with pytest.raises(StudyError, match=r"gone\.jpg: no such file"):
        extract_features(dataset, config, store)


def test_all_kinds_of_images_in_one_folder(tmp_path, tiny_network, store):
    paths = [
        photograph(tmp_path / "landscape.jpg", 90, 50),
        photograph(tmp_path / "portrait.jpg", 50, 90),
        photograph(tmp_path / "square.webp", 64, 64),
        photograph(tmp_path / "tiny.png", 3, 2),
        photograph(tmp_path / "strip.png", 200, 40),
    ]
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png")):
        Image.open(paths[0]).convert(mode).save(tmp_path / f"{mode}.{suffix}")
        paths.append(tmp_path / f"{mode}.{suffix}")
    features = extract_features(folder_of(paths, n_queries=2), tiny_network, store)
    assert features.n_database == 7
    for i, path in enumerate(paths):
        close(features.map(i), reference_map(path, tiny_network))
    assert features.shapes[3][1] > features.shapes[3][0]  # enlarged, aspect kept


def test_an_image_too_narrow_for_the_network_is_named(tmp_path, tiny_network, store):
    path = photograph(tmp_path / "line.png", 400, 2)
    with pytest.raises(StudyError, match=r"line\.png: 400x2 pixels become 96x1, too narrow"):
        extract_features(folder_of([path]), tiny_network, store)


def test_orientation_follows_the_dataset(tmp_path, tiny_network, store):
    exif = Image.Exif()
    exif[0x0112] = 8
    stored = folder_of([photograph(tmp_path / "a.png", 80, 40, exif=exif)])
    turned = replace(stored, exif_orientation=True)
    lying, upright = (extract_features(d, tiny_network, store) for d in (stored, turned))
    assert lying.key != upright.key
    assert lying.sizes.tolist() == [[80, 40]]
    assert upright.sizes.tolist() == [[40, 80]]
    assert lying.shapes[0].tolist() == upright.shapes[0][::-1].tolist()
    Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png")
    close(upright.map(0), reference_map(tmp_path / "b.png", tiny_network))


def test_the_key_follows_what_determines_the_maps(toy, toy_stages, tiny_network, tmp_path):
    store, key = toy_stages.store, toy_stages.features.key
    network = tiny_network.backbone
    for change in (
        {"longest_side": 64},
        {"resize": "plain"},
        {"precision": "bfloat16"},
        {"backbone": network.model_copy(update={"seed": 1})},
        {"backbone": network.model_copy(update={"layer": "fire2"})},
    ):
        other = extract_features(toy, tiny_network.model_copy(update=change), store)
        assert other.key != key
        assert not other.artefact.reused
    fewer = replace(toy, images=toy.images[:-1])
    assert extract_features(fewer, tiny_network, store).key != key


def test_what_is_forwarded_ahead_beside_a_gpu_is_stored_alike(
    toy, tiny_network, store, tmp_path, monkeypatch
):
    config = tiny_network.model_copy(update={"batch_size": 3})
    usual = extract_features(toy, config, ArtefactStore(tmp_path / "usual"))
    monkeypatch.setattr(features_module._Extraction, "on_gpu", True)
    monkeypatch.setattr(features_module, "usable_cores", lambda: 5)
    ahead = extract_features(toy, config, store)
    assert not ahead.artefact.reused
    for i in range(len(usual)):
        np.testing.assert_array_equal(ahead.map(i), usual.map(i))


def test_bfloat16_is_near(toy, toy_stages, tiny_network, store):
    rough = extract_features(toy, tiny_network.model_copy(update={"precision": "bfloat16"}), store)
    for i in range(len(rough)):
        exact, found = toy_stages.features.map(i), rough.map(i)
        assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
        assert np.abs(found - exact).max() > 0


def test_float32_is_not_rounded_to_tf32(tiny_network):
    backbone, cudnn, seen = load_backbone(tiny_network.backbone), torch.backends.cudnn, []
    backbone.module.register_forward_hook(
        lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic))
    )
    before = cudnn.allow_tf32, cudnn.deterministic
    forward_images(backbone, np.zeros((1, 64, 64, 3), np.uint8), torch.device("cpu"))
    assert seen == [(False, True)]
    assert (cudnn.allow_tf32, cudnn.deterministic) == before


def test_values_beyond_float16_name_the_image(tmp_path, tiny_network, store):
    paths = [photograph(tmp_path / f"{k}.png", seed=k) for k in range(3)]
    backbone = load_backbone(tiny_network.backbone)
    batch = []

    def overflow(_module, _inputs, output):
        if len(output):  # else asked for a shape
            batch.append(len(output))
            output[1] *= 1e6

    backbone.module.register_forward_hook(overflow)
    with pytest.raises(StudyError, match=r"1\.png: feature values exceed float16"):
        extract_features(folder_of(paths), tiny_network, store, backbone)
    assert batch == [3]


def test_a_full_disk_is_an_error_that_says_so(toy, tiny_network, store, monkeypatch):
    original = features_module._Extraction._write

    def full(self, position, values):
        if values.ndim == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, position, values)

    with monkeypatch.context() as patch:
        patch.setattr(features_module._Extraction, "_write", full)
        with pytest.raises(StudyError, match="the disk is full"):
            extract_features(toy, tiny_network, store)
    assert len(extract_features(toy, tiny_network, store)) == 19


MEMORY = """
    import resource, sys
    from pathlib import Path
    from blcf_utils.features import extraction as features
    from blcf_utils.ground import artefacts
    from blcf_utils.config.profile import BackboneConfig, FeatureConfig
    from blcf_utils.datasets.base import Dataset
    folder, cache = map(Path, sys.argv[1:3])
    network = BackboneConfig(name="squeezenet1_1", layer="conv1", weights="random")
    config = FeatureConfig(backbone=network, longest_side=256, batch_size=2, device="cpu")
    peaks = []
    for n in (8, int(sys.argv[3])):
        images = tuple(folder / f"{k}.jpg" for k in range(n))
        dataset = Dataset(f"set{n}", folder, images, ())
        features.extract_features(dataset, config, artefacts.ArtefactStore(cache))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_images(tmp_path, store):
    n = 120
    for k in range(n):
        photograph(tmp_path / f"{k}.jpg", 64, 64, seed=k)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path), str(store.root), str(n)],
        capture_output=True,
        text=True,
        check=True,
    )
    stored = max(p.stat().st_size for p in store.root.glob("features/*/features.h5")) / 2**20
    assert stored > 200
    assert int(done.stdout) < 0.25 * stored


def test_devices_are_checked():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(StudyError, match=r"features\.device: expected auto, .* found 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(StudyError, match="asks for a GPU and there is none"):
            resolve_device("cuda:0")


def test_auto_is_bfloat16_only_where_a_gpu_multiplies_it(monkeypatch):
    gpu = torch.device("cuda")
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: native or including_emulation,
        )
        expected = "bfloat16" if native else "float32"
        assert resolve_precision(FeatureConfig(), gpu) == expected
    assert resolve_precision(FeatureConfig(), torch.device("cpu")) == "float32"
    assert resolve_precision(FeatureConfig(precision="bfloat16"), gpu) == "bfloat16"
