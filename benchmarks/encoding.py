"""Where the time of encoding goes: assignment maps step by step, and histograms.

The steps of one image (read, interpolate, whiten, assign, count) are timed apart and beside the
whole stage. ``database_histograms`` is compared with building one scipy COO matrix of all
positions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from pictures import as_dataset, picture_paths
from scipy import sparse
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.config.profile import BackboneConfig, EncodingConfig, FeatureConfig, WhiteningConfig
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.rows import sample_rows
from blcf_utils.ground.artefacts import Artefact, ArtefactStore
from blcf_utils.words.assignment_maps import AssignmentMaps, assignment_maps, interpolate_map
from blcf_utils.words.codebook import Codebook
from blcf_utils.words.histograms import database_histograms, sparse_histogram
from blcf_utils.words.whitening import learn_whitening


def steps(paths, words: int, factor: int, repeats: int) -> tuple[list[dict], bool]:
    """Time the steps of encoding; return table rows and whether they add up to the stage's maps."""
    config = FeatureConfig(
        backbone=BackboneConfig(name="squeezenet1_1", layer="fire9", weights="random"),
        device="cpu",
        precision="float32",
    )
    with tempfile.TemporaryDirectory() as folder:
        store = ArtefactStore(Path(folder))
        features = extract_features(as_dataset(paths), config, store)
        dimensions = min(512, features.channels)
        whitening = learn_whitening(features, WhiteningConfig(dimensions=dimensions), store)
        # What the words are does not matter to the clock: descriptors drawn at random.
        drawn = sample_rows(features.database_rows(), words, 0)
        centroids = np.concatenate([whitening.apply(c) for c in features.stream(drawn)])
        codebook = Codebook(centroids, np.zeros(0), len(drawn))
        images = range(len(features))
        state: dict[str, list] = {}

        def read() -> None:
            state["maps"] = [features.map(i) for i in images]

        def interpolate() -> None:
            state["large"] = [interpolate_map(m, factor) for m in state["maps"]]

        def whiten() -> None:
            state["white"] = [whitening.apply(m.reshape(len(m), -1).T) for m in state["large"]]

        def assign() -> None:
            state["words"] = [codebook.assign(rows) for rows in state["white"]]

        def count() -> None:
            state["histograms"] = [sparse_histogram(w) for w in state["words"]]

        def whole() -> None:
            with tempfile.TemporaryDirectory() as fresh:
                encoding = EncodingConfig(interpolate=factor)
                made = assignment_maps(
                    features, whitening, codebook, encoding, ArtefactStore(Path(fresh))
                )
                database_histograms(made)
                state["stage"] = [made.map(i).ravel().copy() for i in images]

        seconds = interleave(
            {
                "read": read,
                "interpolate": interpolate,
                "whiten": whiten,
                "assign": assign,
                "count": count,
                "assignment_maps + database_histograms": whole,
            },
            repeats,
        )
    agree = all(
        (alone == stage).mean() > 0.999
        for alone, stage in zip(state["words"], state["stage"], strict=True)
    )
    whole_seconds = median(seconds["assignment_maps + database_histograms"])
    rows = [
        {
            "step": name,
            "ms/image": 1e3 * median(times) / len(paths),
            "images/s": len(paths) / median(times),
            "share of the whole": median(times) / whole_seconds,
        }
        for name, times in seconds.items()
    ]
    return rows, agree


def zipf_maps(folder: Path, number: int, words: int, seed: int = 0) -> AssignmentMaps:
    """Return ``number`` assignment maps of 42x30 randomly drawn words."""
    rng = np.random.default_rng(seed)
    law = np.cumsum(1.0 / (np.arange(words) + 3) ** 1.1)  # as in search.py
    flat = np.searchsorted(law, rng.random(number * 42 * 30) * law[-1]).clip(max=words - 1)
    np.save(folder / "words.npy", flat.astype(np.uint16))
    artefact = Artefact("assignment", "zipf", "zipf", folder, False, 0.0)
    shapes = np.tile(np.array([21, 15], np.int64), (number, 1))
    features = SimpleNamespace(shapes=shapes, sizes=shapes * 16, n_database=number)
    return AssignmentMaps(artefact, words, features, 2)


def coo_histograms(maps: AssignmentMaps) -> sparse.csr_array:
    """Return the histograms of the database images through one COO matrix of all positions."""
    flat = np.concatenate([maps.map(i).ravel() for i in range(maps.n_database)])
    images = np.repeat(np.arange(maps.n_database), maps.shapes.prod(axis=1))
    ones = np.ones(len(flat), np.float32)
    shape = (maps.n_database, maps.words)
    counts = sparse.coo_array((ones, (images, flat.astype(np.int32))), shape=shape).tocsr()
    norms = np.sqrt(np.add.reduceat(counts.data**2, counts.indptr[:-1]))
    counts.data /= np.repeat(norms, np.diff(counts.indptr))
    return sparse.csr_array(counts)


def histograms(number: int, words: int, repeats: int) -> tuple[list[dict], bool]:
    """Compare the two ways to the database's histograms."""
    with tempfile.TemporaryDirectory() as folder:
        maps = zipf_maps(Path(folder), number, words)
        seconds = interleave(
            {
                "database_histograms": lambda: database_histograms(maps),
                "scipy coo": lambda: coo_histograms(maps),
            },
            repeats,
        )
        difference = abs(database_histograms(maps) - coo_histograms(maps)).max()
    rows = [
        {
            "step": f"{name} ({number} images)",
            "ms/image": 1e3 * median(times) / number,
            "images/s": number / median(times),
            "speed / scipy coo": speed_ratio(seconds, name, "scipy coo"),
        }
        for name, times in seconds.items()
    ]
    return rows, bool(difference < 1e-5)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--number", type=int, default=32, help="pictures to encode")
    parser.add_argument("--words", type=int, default=4_096, help="K; the thesis used 25,000")
    parser.add_argument("--interpolate", type=int, default=2)
    parser.add_argument("--histograms", type=int, default=5_000, help="images to count words of")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    start = machine()
    with tempfile.TemporaryDirectory() as scratch:
        paths = picture_paths(options.images, Path(scratch), options.number)
        rows, agree = steps(paths, options.words, options.interpolate, options.repeats)
    more, agree_too = histograms(options.histograms, options.words, options.repeats)
    settings = {k: v for k, v in vars(options).items() if k != "images"}
    settings["torch_threads"] = torch.get_num_threads()
    report("encoding", rows + more, agree and agree_too, start, **settings)


if __name__ == "__main__":
    main()
