"""CAM online: every database image is described by the classes that the network sees in the query.

Source: Jimenez et al., BMVC 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from blcf_utils.features.rows import normalise_rows
from blcf_utils.ground.artefacts import Stage, atomic_path
from blcf_utils.ground.progress import progress
from blcf_utils.pooling.cam import cam_pool, predicted_classes
from blcf_utils.pooling.compared.methods import class_whitening
from blcf_utils.pooling.compared.refinement import expand_average, ranked
from blcf_utils.pooling.compared.vectors import MethodVectors
from blcf_utils.search.boxes import Mode
from blcf_utils.search.query import Ranking

STAGE = Stage("class-vectors", version=1)


def class_vectors(vectors: MethodVectors) -> np.ndarray:
    """Return CAM's post-processed vector of every database image and class, (n, classes, D).

    float16, mapped from the file.
    """
    features, head = vectors.features, vectors.teacher.head
    whitening = class_whitening(vectors.teacher)
    every, count = np.arange(len(head.linear)), features.n_database
    document = {
        "features": features.key,
        "method": vectors.fitted.document,
    }

    def make(folder: Path) -> None:
        shape = (count, len(every), whitening.dimensions)
        firsts, place = np.unique(features.distinct[:count], return_inverse=True)
        label = f"class vectors of {vectors.dataset.name}"
        bar = progress(label=label, total=len(firsts), unit="image")
        with atomic_path(folder / "vectors.npy") as path, bar:
            held = np.lib.format.open_memmap(path, "w+", np.float16, shape)
            for images, maps in features.batches(firsts):
                classes = np.broadcast_to(every, (len(maps), len(every)))
                found = cam_pool(maps, head=head, classes=classes)
                white = whitening.apply(found.reshape(-1, found.shape[2]))
                held[images] = white.reshape(len(maps), len(every), -1)
                bar.update(len(images))
            for i in np.flatnonzero(firsts[place] != np.arange(count)):
                held[i] = held[firsts[place[i]]]
            held.flush()

    label = f"{features.artefact.label}-cam"
    made = vectors.store.get_or_make(STAGE, label, document, make, quiet=True)
    return np.load(made / "vectors.npy", mmap_mode="c")  # torch wants arrays it could write


def rank_online(vectors: MethodVectors, mode: Mode, expanded: bool) -> dict[str, Ranking]:
    """Return the rankings of the whole database, by average query expansion if ``expanded``."""
    head, config = vectors.teacher.head, vectors.config
    held = torch.from_numpy(class_vectors(vectors))
    count = min(config.cam_classes, len(head.linear))
    found = {}
    pairs = list(zip(vectors.dataset.queries, vectors.queries(mode), strict=True))
    label = f"{vectors.name} of {vectors.dataset.name}"
    for query, vector in progress(pairs, label=label, unit="query"):
        maps, _, box = vectors.region(query, mode)
        classes = np.sort(predicted_classes(maps, head, count, box))
        total = torch.zeros(held.shape[0], held.shape[2])
        for k in classes.tolist():  # reads what it needs where it lies, unlike held[:, classes]
            total += held[:, k]
        database = normalise_rows(total.numpy())
        ranking = ranked(database @ vector)
        if expanded:
            again = expand_average(vector, database, ranking, config.expansion)
            ranking = ranked(database @ again)
        found[query.id] = ranking
    return found
