"""Peak memory of extraction: it must not grow with the number of images.

Each extraction runs in a process of its own and reports its own peak. This process imports
neither torch nor scikit-learn: Linux hands a parent's peak on to its children.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine, report

# Each image costs a few numbers in arrays and lists (paths, sizes, offsets) however it is stored;
# what must not grow is anything of the size of a picture or a feature map.
BYTES_PER_IMAGE = 4_096
ALLOWANCE_MB = 24.0  # how far two runs of the same extraction lie apart


NETWORK = {"name": "efficientnet_lite0", "layer": "block11_expand", "weights": "random"}


def peak_mb() -> float:
    """Return this process' peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def extract(folder: Path, number: int, longest_side: int) -> dict:
    """Extract the first ``number`` images of ``folder``; return this process' memory."""
    from pictures import as_dataset, picture_paths

    from blcf_utils.config.profile import BackboneConfig, FeatureConfig
    from blcf_utils.features.extraction import extract_features
    from blcf_utils.features.networks.backbones import load_backbone
    from blcf_utils.ground.artefacts import ArtefactStore

    config = FeatureConfig(
        backbone=BackboneConfig(**NETWORK),
        longest_side=longest_side,
        device="cpu",
        precision="float32",
    )
    backbone = load_backbone(config.backbone)
    paths = picture_paths(folder, folder, number)
    before = peak_mb()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as store:
        features = extract_features(as_dataset(paths), config, ArtefactStore(Path(store)), backbone)
        seconds, peak = time.perf_counter() - started, peak_mb()
        size = (features.artefact / "features.h5").stat().st_size / 1e6
    return {
        "images": number,
        "images/s": number / seconds,
        "stored (MB)": size,
        "before (MB)": before,
        "peak (MB)": peak,
    }


def child(*arguments) -> dict:
    """Run this script as another process and return what it reports."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "BLCF_PROGRESS": "off"}
    output = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--few", type=int, default=500)
    parser.add_argument("--many", type=int, default=5_000)
    parser.add_argument("--longest-side", type=int, default=128)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--extract", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write:
        from pictures import write_pictures

        write_pictures(options.write, options.many)
        print("{}")
        return
    if options.extract:
        print(json.dumps(extract(options.images, options.extract, options.longest_side)))
        return
    start = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images
        if folder is None:
            folder = Path(scratch)
            child("--write", folder, "--many", options.many)
        side = ("--longest-side", options.longest_side)
        rows = [
            child("--images", folder, "--extract", number, *side)
            for number in (options.few, options.many)
        ]
    growth = rows[1]["peak (MB)"] - rows[0]["peak (MB)"]
    allowed = ALLOWANCE_MB + BYTES_PER_IMAGE * (options.many - options.few) / 1e6
    settings = {
        "longest_side": options.longest_side,
        "network": NETWORK["name"],
        "growth_mb": round(growth, 1),
        "allowed_mb": round(allowed, 1),
    }
    complaint = f"the peak grows by {growth:.0f} MB, more than {allowed:.0f}"
    report("memory", rows, growth <= allowed, start, otherwise=complaint, **settings)


if __name__ == "__main__":
    main()
