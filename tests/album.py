"""A small album of photographs that show posters, for tests of indexing and exploring."""

import os
import textwrap

import numpy as np
from PIL import Image

PROFILE = """
    name: small
    datasets: [none]
    features:
      backbone: {name: squeezenet1_1, layer: fire3, weights: random}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 32}
    codebook: {words: 60, iterations: 4}
    reranking: {images: 10}
    seed: 1
"""


def paint(path, seed, poster=None, size=(120, 90)):
    """Write a photograph of noise, with a poster in it that its seed determines."""
    pixels = np.random.default_rng(seed).integers(90, 160, (size[1], size[0], 3), np.uint8)
    if poster is not None:
        tiles = np.random.default_rng(1000 + poster).integers(0, 256, (6, 6, 3), np.uint8)
        pixels[20:68, 30:78] = tiles.repeat(8, axis=0).repeat(8, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def fill(root):
    """Write twelve photographs: four posters, three photographs each, in two sub-folders."""
    for i in range(12):
        paint(root / f"day{i % 2}" / f"{i:02d}.jpg", i, i // 3)
    return root


def write_profile(path):
    """Write a profile with which a few photographs are indexed within a second."""
    path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    return str(path)


def lock(monkeypatch, *names):
    """Let folders of some names refuse to be listed, as without permissions, which root has."""
    scan = os.scandir

    def refuses(path="."):
        if os.path.basename(str(path)) in names:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuses)
