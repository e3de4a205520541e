"""Learning the words with which a folder of few photographs is searched.

They are learned as those of a folder are: PCA whitening and k-means on the local descriptors of
the embedded network. What they are learned on may be shipped without anybody's leave: the study's
rendered collections, and crops of photographs in scikit-image's wheel that are CC0 or in the public
domain.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field
from safetensors.numpy import save_file

from blcf_utils.apps.photographs.words import SHIPPED
from blcf_utils.config.profile import CodebookConfig, FeatureConfig, WhiteningConfig
from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.rendering.photographs import crop
from blcf_utils.datasets.rendering.seeds import generator, pick
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.weight_files import EMBEDDED
from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path, write_json
from blcf_utils.ground.settings import Config, canonical_json
from blcf_utils.words.codebook import learn_codebook
from blcf_utils.words.whitening import learn_whitening
from workshop.command import main

COLLECTIONS = ("mini-buildings", "mini-objects")
# The docstrings of skimage.data say of each that it is CC0 or without known copyright.
PHOTOGRAPHS = tuple(
    f"skimage/{name}"
    for name in (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "retina.jpg",
        "rocket.jpg",
        "text.png",
    )
)
CROPS = Stage("crops")
SIZES = ((400, 300), (300, 400))  # of a crop, height and width


class WordsConfig(Config):
    """Everything that determines the words."""

    words: int = Field(3000, ge=2, le=65_535)
    dimensions: int = Field(128, ge=1)
    crops: int = Field(300, ge=1, description="of photographs, drawn at random")
    iterations: int = Field(20, ge=1)
    seed: int = 0


def learn_words(config: WordsConfig, folder: Path) -> Path:
    """Learn whitening and words and write them as float16; return the file."""
    started, store = time.perf_counter(), ArtefactStore()
    images = [path for name in COLLECTIONS for path in load_dataset(name).images]
    rendered = len(images)
    images += _crops(config, store)
    dataset = Dataset("words", folder, tuple(images), ())
    settings, backbone = FeatureConfig(backbone=EMBEDDED), load_backbone(EMBEDDED)
    features = extract_features(dataset, settings, store, backbone)
    whitened = WhiteningConfig(dimensions=config.dimensions)
    whitening = learn_whitening(features, whitened, store, seed=config.seed)
    clustered = CodebookConfig(words=config.words, iterations=config.iterations)
    codebook = learn_codebook(features, whitening, clustered, store, seed=config.seed)
    about = {
        "backbone": backbone.document(),
        "photographs": len(images),
        "descriptors": codebook.n_descriptors,
    }
    held = {**vars(whitening), **vars(codebook)}
    # Sums over all descriptors are beyond float16.
    kinds = dict.fromkeys(SHIPPED, np.float16) | {"objective": np.float32}
    tensors = {name: held[name].astype(kind) for name, kind in kinds.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"words-{EMBEDDED.name}.safetensors"
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"about": canonical_json(about)})
    facts = {
        **about,
        "rendered": rendered,
        "objective": round(float(codebook.objective[-1]) / codebook.n_descriptors, 4),
        "iterations": len(codebook.objective),
        "seconds": round(time.perf_counter() - started, 1),
        "config": config.document(),
    }
    write_json(path.with_suffix(".json"), facts)
    return path


def _crops(config: WordsConfig, store: ArtefactStore) -> list[Path]:
    def make(folder: Path) -> None:
        for i in range(config.crops):
            rng = generator(config.seed, "words", i)
            pixels = crop(rng, "benchmark", *pick(rng, SIZES), names=PHOTOGRAPHS)
            Image.fromarray(pixels).save(folder / f"{i:04d}.png")

    document = {"crops": config.crops, "seed": config.seed, "photographs": list(PHOTOGRAPHS)}
    made = store.get_or_make(CROPS, "words", document, make)
    return sorted(made.folder.glob("*.png"))


if __name__ == "__main__":
    main("Learn words on free images.", WordsConfig, {f"words-{EMBEDDED.name}": learn_words})
