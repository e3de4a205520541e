"""Small codebooks for VLAD and NetVLAD: k-means on L2-normalised local descriptors."""

from __future__ import annotations

import numpy as np

from blcf_utils.features.rows import normalise_rows, sample_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.codebook import Codebook, read_codebook, train_words
from blcf_utils.words.whitening import Whitening

STAGE = Stage("dense-codebook", version=1)
# More descriptors a word teach k-means nothing: the number at which faiss' Clustering samples.
_A_WORD = 256


def learn_dense_codebook(
    features: Features,
    words: int,
    store: ArtefactStore,
    *,
    whitening: Whitening | None = None,
    seed: int = 0,
    iterations: int = 20,
) -> Codebook:
    """Learn K centroids on the local descriptors of a dataset's database images.

    A seeded uniform sample of 256 descriptors a word is used.

    Args:
        features: feature maps of the teacher, un-interpolated.
        words: K.
        store: where the codebook is kept; killed, it goes on from the last finished iteration.
        whitening: of the L2-normalised local descriptors; left out when None.
        seed: of the sample and the first draw.
        iterations: of k-means, at most.

    Raises:
        StudyError: fewer descriptors than words.
    """
    most = _A_WORD * words
    document = {
        "features": features.key,
        "words": words,
        "iterations": iterations,
        "max_descriptors": most,
        "seed": seed,
    }
    if whitening is not None:
        document["whitening"] = whitening.key

    def descriptors(folder):
        rows = sample_rows(features.database_rows(), most, seed)
        if len(rows) < words:
            raise StudyError(
                f"comparison: {words} words cannot be learned from the {len(rows)} descriptors of "
                f"{features.artefact.label}; lower comparison.vlad_words and netvlad_words"
            )
        prepare = normalise_rows if whitening is None else whitening.apply
        return np.concatenate([prepare(chunk) for chunk in features.stream(rows)])

    def make(folder):
        train_words(folder, descriptors, words, iterations, seed)

    label = f"{features.artefact.label}-K{words}"
    return read_codebook(store.get_or_make(STAGE, label, document, make, quiet=True))
