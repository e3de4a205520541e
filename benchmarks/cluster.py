"""Stages on a Dask cluster of this machine's cores, against the same stages in one process.

Extraction, encoding (assignment maps), saliency and SIFT, each into a store of its own in every
turn; seconds of the processor are those of all processes together. The cluster is started before
the turns and its seconds stand apart, as do those of its first task, for which every worker
imports what it needs. Files must be equal byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from distributed import Client
from pictures import as_dataset, picture_paths
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.config.profile import (
    BackboneConfig,
    EncodingConfig,
    FeatureConfig,
    SiftConfig,
    WhiteningConfig,
)
from blcf_utils.config.saliency import SaliencyConfig
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.rows import sample_rows
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.cluster import use_scheduler
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.peak_memory import peak_memory_mb
from blcf_utils.saliency.maps import saliency_maps
from blcf_utils.saliency.models import load_model
from blcf_utils.search.sift.keypoints import extract_sift
from blcf_utils.words.assignment_maps import assignment_maps
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.whitening import learn_whitening

NETWORKS = {
    "vgg16": "conv5_1",
    "squeezenet1_1": "fire9",
    "efficientnet_lite0": "block11_expand",
}


def nothing(shared, item):
    """A task that only lets a worker get ready."""
    time.sleep(0.05)


def stages(
    options, paths, scratch: Path
) -> dict[str, tuple[int, Callable[[ArtefactStore], object]]]:
    """Return each stage with its number of images, as a call on a store."""
    made: dict[str, tuple[int, Callable]] = {}
    for name, number in ((options.network, options.number), ("squeezenet1_1", options.small)):
        if number:
            weights = "embedded" if name == "efficientnet_lite0" else "random"
            backbone = BackboneConfig(name=name, layer=NETWORKS[name], weights=weights)
            config = FeatureConfig(backbone=backbone, device="cpu", precision="float32")
            dataset = as_dataset(paths[:number])
            made[f"extraction {name}"] = (
                number,
                lambda store, d=dataset, c=config: extract_features(d, c, store),
            )
            features = extract_features(dataset, config, ArtefactStore(scratch / "base"))
    learned = ArtefactStore(scratch / "base")
    dimensions = min(512, features.channels)
    whitening = learn_whitening(features, WhiteningConfig(dimensions=dimensions), learned)
    # What the words are does not matter to the clock.
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((options.words, whitening.dimensions), np.float32)
    drawn = sample_rows(features.database_rows(), options.words, 0)
    known = np.concatenate([whitening.apply(part) for part in features.stream(drawn)])
    centroids[: len(known)] = known
    codebook = Codebook(centroids, np.zeros(0), len(known), "random")
    made[f"encoding, K = {options.words:,}"] = (
        len(features),
        lambda store: assignment_maps(features, whitening, codebook, EncodingConfig(), store),
    )
    some = as_dataset(paths[: options.saliency])
    for model in [load_model(name, SaliencyConfig()) for name in ("salgan-mini", "BMS")]:
        made[f"saliency {model.name}"] = (
            len(some.images),
            lambda store, m=model: saliency_maps(some, m, store),
        )
    made["SIFT"] = (len(some.images), lambda store: extract_sift(some, SiftConfig(), store))
    return made


def digest(made) -> str:
    """Return a digest of an artefact's files."""
    whole = hashlib.sha256()
    for path in sorted(made.artefact.folder.iterdir()):
        if path.name not in ("made.json", "artefact.json"):
            whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def compare(
    name: str, number: int, stage: Callable, client: Client, repeats: int
) -> tuple[dict, bool]:
    """Time a stage here and on the cluster; return a table row and whether the files are equal."""
    digests: dict[str, set[str]] = {"here": set(), "cluster": set()}
    processor: dict[str, list[float]] = {"here": [], "cluster": []}

    def used() -> float:
        return time.process_time() + sum(client.run(time.process_time).values())

    def turn(where: str, address: str) -> None:
        before = used()
        with tempfile.TemporaryDirectory() as folder, use_scheduler(address):
            digests[where].add(digest(stage(ArtefactStore(Path(folder)))))
        processor[where].append(used() - before)

    seconds = interleave(
        {
            "here": lambda: turn("here", "off"),
            "cluster": lambda: turn("cluster", client.scheduler.address),
        },
        repeats,
    )
    row = {
        "stage": name,
        "images": number,
        "one process (images/s)": number / median(seconds["here"]),
        "cluster (images/s)": number / median(seconds["cluster"]),
        "cluster / one process": speed_ratio(seconds, "cluster", "here"),
        "one process (CPU s/image)": median(processor["here"][1:]) / number,
        "cluster (CPU s/image)": median(processor["cluster"][1:]) / number,
    }
    return row, digests["here"] == digests["cluster"] and len(digests["here"]) == 1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--network", choices=NETWORKS, default="vgg16")
    parser.add_argument("--number", type=int, default=48, help="pictures to forward")
    parser.add_argument("--small", type=int, default=160, help="pictures through SqueezeNet")
    parser.add_argument("--saliency", type=int, default=96, help="pictures for saliency and SIFT")
    parser.add_argument("--words", type=int, default=25_000)
    parser.add_argument("--workers", type=int, help="as many as keep the cores busy, if none")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    start = machine()
    rows, agree = [], True
    with tempfile.TemporaryDirectory() as scratch:
        number = max(options.number, options.small, options.saliency)
        paths = picture_paths(options.images, Path(scratch) / "pictures", number)
        every = stages(options, paths, Path(scratch))
        began = time.perf_counter()
        local = f"local:{options.workers}" if options.workers else "local"
        with use_scheduler(local) as client:
            started = time.perf_counter() - began
            list(mapped(nothing, None, range(4 * len(client.nthreads()))))
            ready = time.perf_counter() - began - started
            for name, (number, stage) in every.items():
                row, equal = compare(name, number, stage, client, options.repeats)
                rows.append(row)
                agree &= equal
            peaks = client.run(peak_memory_mb)
    settings = {k: v for k, v in vars(options).items() if k != "images"}
    settings |= {"torch_threads": torch.get_num_threads(), "workers": len(peaks)}
    settings |= {"start_seconds": round(started, 2), "first_task_seconds": round(ready, 2)}
    settings |= {"worker_peaks_mb": sorted(peaks.values())}
    report("cluster", rows, agree, start, **settings)


if __name__ == "__main__":
    main()
