"""Pooling methods: images per second from stored feature maps, and R-MAC against slices.

Maps of 21x15 positions are drawn at random, two thirds of their activations zero, and written as
extraction stores them: float16, the channels of a position side by side. ``images/s`` reads each
map and pools it, one image after another. ``pool`` is the time of pooling alone, of a few maps
again and again, since a map that has just been read lies in the processor's cache.

R-MAC's maxima are compared with the ordinary loop, one NumPy slice and one maximum for each of the
20 regions, on the maps as they are read (the faster way, the yardstick) and on maps whose channels
lie apart in memory, as networks return them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from side_by_side import interleave, machine, median, report, speed_ratio

from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import DONE, Features
from blcf_utils.ground.artefacts import Artefact
from blcf_utils.pooling.aml import localise
from blcf_utils.pooling.crow import crow_pool
from blcf_utils.pooling.gem import gem_pool
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.netvlad import netvlad_alpha, netvlad_pool
from blcf_utils.pooling.rmac import region_maxima, rmac_pool, rmac_regions
from blcf_utils.pooling.spoc import spoc_pool
from blcf_utils.pooling.sum_pooling import sum_pool
from blcf_utils.pooling.vlad import vlad_pool
from blcf_utils.words.whitening import Whitening

HEIGHT, WIDTH = 21, 15
HOT = 3  # maps pooled again and again
MAXIMA, AT_ONCE = "R-MAC, maxima of regions", "R-MAC, maxima of regions, a batch"
SLICES = "slices of the map as read"
SLICES_APART = "slices, channels apart in memory"
READING = "reading alone"


def stored_features(folder: Path, images: int, channels: int, seed: int = 0) -> Features:
    """Return feature maps drawn at random, written as extraction writes them."""
    rng = np.random.default_rng(seed)
    positions = HEIGHT * WIDTH
    with h5py.File(folder / "features.h5", "w") as file:
        file.attrs["n_database"] = images
        file["shape"] = np.tile([HEIGHT, WIDTH], (images, 1))
        file["size"] = np.tile([16 * WIDTH, 16 * HEIGHT], (images, 1))
        file["offset"] = np.arange(images) * positions
        file["status"] = np.full(images, DONE, np.uint8)
        rows = file.create_dataset("descriptors", (images * positions, channels), np.float16)
        for i in range(images):
            drawn = rng.normal(-0.43, 1, (positions, channels))
            rows[i * positions : (i + 1) * positions] = np.maximum(drawn, 0)
    (folder / "skipped.json").write_text(json.dumps([]), encoding="utf-8")
    return Features(Artefact("features", "random", "random", folder, False, 0.0))


def sliced_maxima(feature_map: np.ndarray) -> np.ndarray:
    """Return what ``region_maxima`` returns, (R, C), slice by slice."""
    regions = rmac_regions(feature_map.shape[1:])
    return np.stack([feature_map[:, a:b, c:d].max(axis=(1, 2)) for a, b, c, d in regions])


def random_whitening(channels: int, seed: int = 0) -> Whitening:
    """Return a rotation; what a whitening has learned does not matter to the clock."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(channels, channels)))[0].astype(np.float32)
    return Whitening(np.zeros(channels, np.float32), rotation, np.ones(channels, np.float32), 0)


def methods(features: Features, words: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Return the pooling methods of one map, by name."""
    drawn = np.linspace(0, HEIGHT * WIDTH - 1, words).astype(int)
    rows = normalise_rows(features.descriptors(0))
    centroids = rows[drawn]
    query = mac_pool(features.map(0), box=(3, 12, 2, 9))
    return {
        "sum": sum_pool,
        "SPoC": spoc_pool,
        "CroW": crow_pool,
        "MAC": mac_pool,
        "GeM": gem_pool,
        MAXIMA: region_maxima,
        "R-MAC": rmac_pool,
        "R-MAC, whitened": partial(rmac_pool, whitening=random_whitening(features.channels)),
        f"VLAD, K = {words}": partial(vlad_pool, centroids=centroids),
        f"NetVLAD, K = {words}": partial(
            netvlad_pool, centroids=centroids, alpha=netvlad_alpha(rows, centroids)
        ),
        "AML, a box of 9x7": partial(localise, query=query, aspect=7 / 9),
    }


def again(pool: Callable, maps: list[np.ndarray], times: int) -> Callable[[], list]:
    """Return a call that pools the same maps again and again."""
    return lambda: [pool(feature_map) for _ in range(times) for feature_map in maps]


def with_reading(pool: Callable, features: Features) -> Callable[[], list]:
    """Return a call that reads each map and pools it."""
    return lambda: [pool(features.map(i)) for i in range(len(features))]


def compare(features: Features, words: int, repeats: int) -> tuple[list[dict], bool]:
    """Time all methods on the same maps; return table rows and whether R-MAC's maxima agree."""
    maps = [features.map(i) for i in range(min(HOT, len(features)))]
    times = max(1, len(features) // len(maps))
    apart = [np.ascontiguousarray(feature_map) for feature_map in maps]
    rows = np.stack([feature_map.transpose(1, 2, 0) for feature_map in maps])
    pools = methods(features, words)
    calls = {name: again(pool, maps, times) for name, pool in pools.items()}
    calls[AT_ONCE] = again(region_maxima, [rows.transpose(0, 3, 1, 2)], times)
    calls[SLICES] = again(sliced_maxima, maps, times)
    calls[SLICES_APART] = again(sliced_maxima, apart, times)
    expected = [sliced_maxima(features.map(i)) for i in range(len(features))]
    agree = np.array_equal(with_reading(region_maxima, features)(), expected)
    agree &= np.array_equal(region_maxima(rows.transpose(0, 3, 1, 2)), expected[: len(maps)])
    read = {name: with_reading(pool, features) for name, pool in pools.items()}
    read[READING] = with_reading(np.ndim, features)
    seconds, whole = interleave(calls, repeats), interleave(read, repeats)
    table, pooled = [], times * len(maps)
    for name in (*calls, READING):
        ours = name in (MAXIMA, AT_ONCE)
        table.append(
            {
                "method": name,
                "pool, ms/image": 1e3 * median(seconds[name]) / pooled if name in calls else None,
                "images/s": len(features) / median(whole[name]) if name in read else None,
                "speed / slices": speed_ratio(seconds, name, SLICES) if ours else None,
                "speed / slices, apart": speed_ratio(seconds, name, SLICES_APART) if ours else None,
            }
        )
    return table, bool(agree)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--words", type=int, default=64, help="of VLAD and NetVLAD")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    start = machine()
    with tempfile.TemporaryDirectory() as folder:
        features = stored_features(Path(folder), options.images, options.channels)
        rows, agree = compare(features, options.words, options.repeats)
    report("aggregation", rows, agree, start, **vars(options))


if __name__ == "__main__":
    main()
