"""What a GPU gives the study, beside bare loops on it, and whether it gives what a CPU gives.

    python benchmarks/gpu.py            # a GPU; minutes, no data needed
    python benchmarks/gpu.py --tiny     # the same code at small sizes, on whatever there is

Four sections: VGG-16 conv5_1 images a second in float32 and bfloat16, one iteration of k-means and
the assignment of 3 million descriptors to 25,000 words, steps of fine-tuning, and the equality of
every path with the CPU's on small inputs. A section that fails says why, the others go on, and the
exit code is 1. float32 is float32 throughout, without TF32.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from extraction import batches_of, extracted, forward_all, same_maps
from finetuning import compare as compare_training
from pictures import as_dataset, picture_paths
from side_by_side import fastest, interleave, machine, median, report, speed_ratio

from blcf_utils.config.finetuning import FinetuneTrainingConfig, ProjectionConfig
from blcf_utils.config.profile import BackboneConfig, FeatureConfig
from blcf_utils.datasets.base import Dataset, Query
from blcf_utils.datasets.images import image_size, read_image, resized_size
from blcf_utils.features.continued import continue_features
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.forward import exact_convolutions, forward_images, resolve_device
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.finetuning.descriptors import describe_dataset
from blcf_utils.finetuning.inputs import Photographs, PixelMaps
from blcf_utils.finetuning.networks import build_network, split_trunk
from blcf_utils.finetuning.training import Trainer
from blcf_utils.finetuning.triplets import Triplets
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.saliency.models import predictor
from blcf_utils.saliency.networks.networks import NETWORKS
from blcf_utils.words.assignment import ExactSearcher, TorchSearcher, assignment_quality
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.kmeans import CHUNK, fit_kmeans, write_descriptors

VGG16 = BackboneConfig(name="vgg16", layer="conv5_1", weights="random")
FROZEN = "pool3"
TINY = {
    "images": 3,
    "batch_sizes": [2],
    "longest_side": 64,
    "descriptors": 900,
    "words": 40,
    "dimensions": 16,
    "triplets": 1,
    "steps": 1,
    "repeats": 1,
    "width": 0.02,
}
Rows = list[dict]


def row(what: str, candidate: str, value: float, unit: str, ratio: float | None = None) -> dict:
    """Return a row of the table; ``ratio`` is how many times faster than the bare loop it is."""
    return {"what": what, "candidate": candidate, "value": value, "unit": unit, "/ bare": ratio}


@cache
def vgg16() -> Backbone:
    """Return the network with random weights, on the CPU; whoever moves it moves it back."""
    return load_backbone(VGG16)


def waited(device: torch.device, call: Callable[[], object]) -> Callable[[], None]:
    """Return a call that ends when the GPU has done all of it."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


# Extraction -------------------------------------------------------------------------------------


def extraction(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[Rows, list[str]]]:
    """Yield rows for each precision and batch size: extraction, its forward pass, bare loops."""
    device = resolve_device(given.device)
    paths = picture_paths(None, scratch / "pictures", given.images)
    for size in given.batch_sizes:
        for precision in ("float32", "bfloat16"):
            config = FeatureConfig(
                backbone=VGG16,
                longest_side=given.longest_side,
                batch_size=size,
                device=given.device,
                precision=precision,
            )
            yield compare_extraction(paths, config, device, given.repeats)


def compare_extraction(paths, config: FeatureConfig, device, repeats: int):
    """Return the rows of one precision and batch size, and what is wrong."""
    backbone, dtype = vgg16(), getattr(torch, config.precision)
    batches, order = batches_of(paths, backbone, config)
    batches = [batch.to(device, dtype) for batch in batches]
    lasting = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    bare = copy.deepcopy(backbone.module).to(device, dtype)
    bare_lasting = copy.deepcopy(bare).to(memory_format=torch.channels_last)
    size = resized_size(image_size(paths[0]), config.longest_side)
    pixels = np.stack([read_image(path, size, resize=config.resize) for path in paths])
    pixels = np.split(pixels, range(config.batch_size, len(paths), config.batch_size))
    tolerance = 1e-3 if dtype == torch.float32 else 4e-2
    with extracted(paths, config, backbone) as features, exact_convolutions():
        agree = same_maps(features, bare, batches, order, tolerance)

    def extract() -> None:
        with extracted(paths, config, backbone):
            pass

    # extraction brings the network back to the CPU when it ends; this copy stays on the GPU
    resident = replace(backbone, module=copy.deepcopy(backbone.module), _folded=None)

    def loop(module, ready) -> Callable[[], None]:
        def run() -> None:
            with exact_convolutions():
                forward_all(module, ready)

        return waited(device, run)

    candidates = {
        "extraction": extract,
        "forward_images": lambda: [forward_images(resident, p, device, dtype) for p in pixels],
        "bare loop": loop(bare, batches),
        "bare loop, channels last": loop(bare_lasting, lasting),
    }
    seconds = interleave(candidates, repeats)
    yardstick = fastest(seconds, list(candidates)[2:])
    what = f"VGG-16 conv5_1, {config.precision}, batches of {config.batch_size}"
    rows = [
        row(what, n, len(paths) / median(s), "images/s", speed_ratio(seconds, n, yardstick))
        for n, s in seconds.items()
    ]
    return rows, [] if agree else [f"{what}: stored maps are not the bare loop's"]


# Words ------------------------------------------------------------------------------------------


def words(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[Rows, list[str]]]:
    """Yield rows of one iteration of k-means, from memory and from a file, and of assignment."""
    device, number, count = resolve_device(given.device), given.descriptors, given.words
    name = torch_name(device)
    data = unit_rows(number, given.dimensions, count, device)
    start = data[:: number // count][:count].copy()
    codebook = Codebook(start, np.zeros(0), 0)
    step = max(1, 32_000_000 // count)
    stored = write_descriptors(
        scratch / "rows.f32",
        data.shape,
        lambda first: (data[i : i + CHUNK] for i in range(first, number, CHUNK)),
    )
    on_device = torch.from_numpy(data).to(device)
    centroids = torch.from_numpy(start).to(device)
    bias = -0.5 * centroids.square().sum(1)
    found: dict[str, np.ndarray] = {}

    @torch.inference_mode()
    def bare_words() -> torch.Tensor:
        parts = (torch.addmm(bias, part, centroids.T) for part in on_device.split(step))
        return torch.cat([scores.argmax(1) for scores in parts])

    @torch.inference_mode()
    def bare_iteration() -> None:
        chosen = bare_words()
        sums = torch.zeros_like(centroids).index_add_(0, chosen, on_device)
        counts = torch.bincount(chosen, minlength=count)
        moved = torch.where(counts[:, None] > 0, sums / counts[:, None], centroids)
        found["bare"] = moved.cpu().numpy()

    def ours(rows) -> None:
        found["ours"] = fit_kmeans(rows, count, 1, start=start, device=name)[0]

    def assign() -> None:
        found["words"] = codebook.assign(data, name)

    sections = {
        "k-means iteration": {
            "fit_kmeans": lambda: ours(data),
            "fit_kmeans, from a file": lambda: ours(stored),
            "bare loop, descriptors on the GPU": waited(device, bare_iteration),
        },
        "assignment": {
            "Codebook.assign": assign,
            "bare loop, descriptors on the GPU": waited(device, bare_words),
        },
    }
    for what, candidates in sections.items():
        seconds = interleave(candidates, given.repeats)
        label, *_, bare = f"{what}, K = {count:,}, {number:,} x {given.dimensions}", *candidates
        rows = [
            row(label, n, median(s), "s", speed_ratio(seconds, n, bare)) for n, s in seconds.items()
        ]
        wrong = []
        if "ours" in found and what == "k-means iteration":
            error = np.abs(found["ours"] - found["bare"]).max(axis=1)
            # an empty word is filled by splitting another; both differ from the bare loop's
            if np.quantile(error, 0.98) > 1e-4:
                wrong = [f"{what}: centroids are not the bare loop's"]
        if what == "assignment" and (found["words"] == bare_words().cpu().numpy()).mean() < 0.999:
            wrong = [f"{what}: words are not the bare loop's"]
        yield rows, wrong


def torch_name(device: torch.device) -> str:
    """Return the name by which the words' code takes torch's way, also where there is no GPU."""
    return "cpu:0" if device.type == "cpu" else str(device)


def unit_rows(number: int, dimensions: int, clusters: int, device: torch.device) -> np.ndarray:
    """Return unit vectors around centres, (N, D) float32, drawn on the device."""
    torch.manual_seed(0)
    centres = torch.randn(clusters, dimensions, device=device)
    out = np.empty((number, dimensions), np.float32)
    for first in range(0, number, CHUNK):
        part = out[first : first + CHUNK]
        rows = centres[torch.randint(clusters, (len(part),), device=device)]
        rows += torch.randn(rows.shape, device=device)
        part[:] = torch.nn.functional.normalize(rows, dim=1).cpu().numpy()
    return out


# Training ---------------------------------------------------------------------------------------


def training(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[Rows, list[str]]]:
    """Yield rows of fine-tuning in both precisions, from pixels and from stored maps."""
    paths = picture_paths(None, scratch / "pictures", given.images)
    sizes = argparse.Namespace(**vars(given))
    for inputs in ("pixels", "maps"):
        for precision in ("float32", "bfloat16"):
            config = FinetuneTrainingConfig(
                frozen=FROZEN,
                inputs=inputs,
                batch=given.triplets,
                device=given.device,
                precision=precision,
                size=max(32, given.longest_side * 2 // 3),
            )
            store = ArtefactStore(scratch / f"maps-{precision}")
            found, agree = compare_training(as_dataset(paths), VGG16, config, sizes, store)
            what = f"fine-tuning VGG-16 behind {FROZEN}, {inputs}, {precision}"
            ours, bare = found["training, triplets/s"], found["bare loop, triplets/s"]
            yield (
                [
                    row(what, "training", ours, "triplets/s", found["share"]),
                    row(what, "bare loop", bare, "triplets/s", 1.0),
                ],
                [] if agree else [f"{what}: other weights than the bare loop's"],
            )


# Equality ---------------------------------------------------------------------------------------


def equality(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[Rows, list[str]]]:
    """Yield one row a check: how far the device lies from the CPU, and the most it may."""
    device = resolve_device(given.device)
    dataset = small_dataset(scratch / "small")
    for check in (
        maps_are_equal,
        continued_maps_are_equal,
        words_are_equal,
        centroids_are_equal,
        gradients_are_equal,
        descriptors_are_equal,
        saliency_is_equal,
        training_is_repeatable,
    ):
        try:
            figures = check(device, dataset, scratch, given)
        except Exception as error:
            traceback.print_exc()
            yield [], [f"{check.__name__}: {type(error).__name__}: {error}"]
            continue
        for what, value, most in figures:
            wrong = [] if value <= most else [f"{what}: {value:.3g}, at most {most:g} allowed"]
            yield [row(what, "GPU and CPU", value, f"at most {most:g}")], wrong


def small_dataset(folder: Path) -> Dataset:
    """Return six small pictures, one of which asks for a box."""
    paths = picture_paths(None, folder, 6)
    query = Query("q", paths[0], (100.0, 60.0, 300.0, 200.0), (1,), (), "thing")
    return Dataset("pictures", folder, paths, (query,))


def features_of(dataset: Dataset, folder: Path, device, layer: str, precision="float32"):
    """Extract a layer of VGG-16 on a device, anew."""
    network = VGG16.model_copy(update={"layer": layer})
    config = FeatureConfig(
        backbone=network, longest_side=128, device=str(device), precision=precision
    )
    store = ArtefactStore(folder / f"{device}-{layer}-{precision}".replace(":", ""))
    return extract_features(dataset, config, store)


def all_rows(features) -> np.ndarray:
    """Return all stored descriptors (N, C) float32."""
    return np.concatenate(
        [features.map(i).reshape(features.channels, -1).T for i in range(len(features))]
    ).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a - b| / |b| over all values."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def maps_are_equal(device, dataset, scratch, given):
    """Stored maps: in float32 to the rounding of float16, in bfloat16 to its own."""
    cpu = all_rows(features_of(dataset, scratch / "cpu", torch.device("cpu"), "conv5_1"))
    for precision, most in (("float32", 3e-4), ("bfloat16", 3e-2)):
        found = all_rows(features_of(dataset, scratch / "gpu", device, "conv5_1", precision))
        yield f"maps, {precision}", relative(found, cpu), most


def continued_maps_are_equal(device, dataset, scratch, given):
    """Maps of conv5_1 made from stored ones of pool3."""
    backbone = vgg16()
    below = features_of(dataset, scratch / "below", torch.device("cpu"), FROZEN)
    found = {}
    for place, where in (("cpu", torch.device("cpu")), ("gpu", device)):
        _, rest = split_trunk(backbone, FROZEN)
        store = ArtefactStore(scratch / f"continued-{place}")
        made = continue_features(dataset, below, rest.eval(), backbone, store, where)
        found[place] = all_rows(made)
    yield "maps from stored maps", relative(found["gpu"], found["cpu"]), 3e-4


def words_are_equal(device, dataset, scratch, given):
    """Nearest words and distances; of two that are equally near either may be taken."""
    rows = unit_rows(5_000, 64, 300, torch.device("cpu"))
    centroids, name = rows[:300].copy(), torch_name(device)
    quality = assignment_quality(centroids, TorchSearcher(centroids, name), rows)
    yield "nearest words, share missed", 1 - quality["recall"], 1e-3
    yield "nearest words, distortion - 1", quality["distortion"] - 1, 1e-4
    book = Codebook(centroids, np.zeros(0), 0)
    differ = (book.assign(rows, name) != book.assign(rows)).mean()
    yield "Codebook.assign, share that differs", float(differ), 2e-3
    ours, theirs = (
        s.search(rows)[1] for s in (TorchSearcher(centroids, name), ExactSearcher(centroids))
    )
    yield "distances", relative(ours[300:], theirs[300:]), 1e-5


def centroids_are_equal(device, dataset, scratch, given):
    """Three iterations of k-means, more words than clusters so that some are filled."""
    rows = unit_rows(6_000, 32, 40, torch.device("cpu"))
    start = np.concatenate([rows[:55], 100 + np.eye(5, 32, dtype=np.float32)])  # five far away
    cpu, objective = fit_kmeans(rows, 60, 3, start=start)
    gpu, reached = fit_kmeans(rows, 60, 3, start=start, device=torch_name(device))
    yield "k-means, objective", relative(reached, objective), 1e-4
    yield "k-means, centroids", float(np.median(np.abs(gpu - cpu).max(axis=1))), 1e-4
    again, _ = fit_kmeans(rows, 60, 3, start=start, device=torch_name(device))
    yield "k-means twice, values that differ", float((again != gpu).sum()), 0


def trainer_on(device, dataset: Dataset, network: str = "A", precision="float32") -> Trainer:
    """Return a training of six pictures on a device."""
    config = FinetuneTrainingConfig(
        frozen=FROZEN,
        size=64,
        batch=2,
        steps=4,
        warmup=1,
        device=str(device),
        precision=precision,
        checkpoint_every=1,
        threads=0,
    )
    backbone = vgg16()
    frozen, _ = split_trunk(backbone, FROZEN)
    images = np.array([[0, 1, 2], [1, 0, 3], [4, 5, 0]], np.int32)
    triplets = Triplets(images, np.zeros((3, 2), np.float32))
    inputs = Photographs(PixelMaps(dataset, backbone, 128), config)
    made = build_network(network, backbone, FROZEN, ProjectionConfig(dimensions=64))
    return Trainer(made, triplets, inputs, config, seed=0, frozen=frozen)


def gradients_are_equal(device, dataset, scratch, given):
    """Loss and gradients of the first step, of both networks."""
    for network in ("A", "B"):
        trainers = [trainer_on(d, dataset, network) for d in (torch.device("cpu"), device)]
        for trainer in trainers:
            loaded = trainer.loaded()
            trainer.advance(loaded)
            loaded.close()
        cpu, gpu = (
            np.concatenate([p.grad.cpu().numpy().ravel() for p in t.network.parameters()])
            for t in trainers
        )
        losses = [np.array(t.history[0][1]) for t in trainers]
        yield f"network {network}, loss", relative(losses[1], losses[0]), 1e-4
        yield f"network {network}, gradients", relative(gpu, cpu), 2e-3


def descriptors_are_equal(device, dataset, scratch, given):
    """Descriptors of a database and of a box, network B."""
    backbone = vgg16()
    below = features_of(dataset, scratch / "below", torch.device("cpu"), FROZEN)
    found = []
    for where in (torch.device("cpu"), device):
        network = build_network("B", backbone, FROZEN, ProjectionConfig(dimensions=64))
        made = describe_dataset(network, dataset, below, "edges", where)
        found.append(np.concatenate([made.database, made.queries["gs"], made.queries["ls"]]))
    yield "descriptors", relative(found[1], found[0]), 1e-4


def saliency_is_equal(device, dataset, scratch, given):
    """Maps of the saliency networks with random weights, in grey levels."""
    pixels = read_image(dataset.images[0])
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        network = make(given.width)
        maps = [
            predictor(copy.deepcopy(network), str(where))(pixels).astype(int)
            for where in (torch.device("cpu"), device)
        ]
        yield f"{name}, grey levels", float(np.abs(maps[1] - maps[0]).max()), 1


def training_is_repeatable(device, dataset, scratch, given):
    """Weights of a training that was stopped and resumed, and of one that was not."""
    for precision in ("float32", "bfloat16"):
        ends = []
        for stops in ((None,), (2, None)):
            folder = scratch / f"training-{precision}-{len(stops)}"
            folder.mkdir(parents=True)
            for stop in stops:
                trainer = trainer_on(device, dataset, "B", precision)
                trainer.run(folder, stop_after=stop)
            ends.append(
                np.concatenate([p.detach().numpy().ravel() for p in trainer.network.parameters()])
            )
        differ = float((ends[0] != ends[1]).sum())
        yield f"stopped training, {precision}, weights that differ", differ, 0


# ------------------------------------------------------------------------------------------------

SECTIONS = {
    "equality": equality,
    "extraction": extraction,
    "training": training,
    "words": words,
}


def run_section(name: str, given: argparse.Namespace) -> tuple[Rows, list[str]]:
    """Run a section as far as it goes; return its rows and what is wrong with it."""
    rows, wrong, started = [], [], time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for found, errors in SECTIONS[name](given, Path(scratch)):
                rows += found
                wrong += errors
                # what has been measured is not lost with a process that is killed
                print(json.dumps({"rows": found, "wrong": errors}), file=sys.stderr, flush=True)
    except Exception as error:
        traceback.print_exc()
        wrong.append(f"{name}: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s, {len(wrong)} wrong", file=sys.stderr, flush=True)
    return rows, wrong


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--longest-side", type=int, default=340)
    parser.add_argument("--descriptors", type=int, default=3_000_000)
    parser.add_argument("--words", type=int, default=25_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--triplets", type=int, default=16, help="of a step of training")
    parser.add_argument("--steps", type=int, default=5, help="of training a turn")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--width", type=float, default=0.25, help="of the saliency networks")
    given = parser.parse_args(arguments)
    if given.tiny:
        vars(given).update(TINY)
    device = resolve_device(given.device)
    given.device, start, rows, wrong = str(device), machine(), [], []
    for name in given.only:
        found, errors = run_section(name, given)
        rows += found
        wrong += errors
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    settings = vars(given) | {"gpu": gpu, "torch": torch.__version__, "wrong": wrong}
    report("gpu", rows, not wrong, start, otherwise="; ".join(wrong), **settings)


if __name__ == "__main__":
    main()
