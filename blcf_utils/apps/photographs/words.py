"""The words of a folder, kept with its index.

They are learned once on a sample of its photographs, or, where these are too few to teach words,
they are those that come with the study (``data/embedded/WORDS_CARD.md``).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from blcf_utils.apps.photographs.encoder import Encoder, network_sizes
from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import content_digest
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage, write_json
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import embedded_dir
from blcf_utils.ground.settings import digest_of
from blcf_utils.words.codebook import Codebook, learn_codebook, read_codebook
from blcf_utils.words.whitening import (
    Whitening,
    learn_whitening,
    read_whitening,
    save_whitening,
)

# A word that fewer descriptors taught than this is mostly noise.
DESCRIPTORS_A_WORD = 8
# A folder's own words are no better than those of other photographs where they are fewer.
FEW_WORDS = 256
# Stage, label and document: an index has one set of words.
WORDS = (Stage("words"), "learned", {})
ORIGIN = "origin.json"
_DETERMINING = ("mean", "projection", "centroids")
# The tensors of words that come with the study.
SHIPPED = (*_DETERMINING, "variances", "objective")


def stored_words(home: Path) -> Artefact | None:
    """Return whitening and codebook of an index; None before they are there."""
    folder = ArtefactStore(home).find(*WORDS)
    return folder and Artefact("words", "learned", "", folder, reused=True, seconds=0.0)


def words_key(words: Artefact) -> str:
    """Return a digest of what determines the words of descriptors."""
    return digest_of([content_digest(words / f"{name}.npy") for name in _DETERMINING])


def is_own(words: Artefact) -> bool:
    """Return whether words were learned on the folder's photographs, and not elsewhere."""
    return json.loads((words / ORIGIN).read_text(encoding="utf-8"))["own"]


def words_taught_by(descriptors: float, profile: Profile) -> int:
    """Return how many words so many descriptors of a folder teach, at most the profile's."""
    return max(1, min(profile.codebook.words, int(descriptors) // DESCRIPTORS_A_WORD))


def are_enough(descriptors: float, profile: Profile) -> bool:
    """Return whether a folder's own words are better than those that come with the study.

    That is from ``FEW_WORDS`` on, or half of the profile's words: the folder's own have the better
    results, though they fit photographs that come later worse (``data/embedded/WORDS_CARD.md``),
    which ``fit.misfit`` says.
    """
    return words_taught_by(descriptors, profile) >= min(FEW_WORDS, profile.codebook.words / 2)


def find_words(
    home: Path, folder: Path, photographs: Sequence[Path], profile: Profile, sample: int
) -> None:
    """Learn whitening and codebook on a sample of photographs; killed, it goes on.

    Where the sample has too few descriptors (:func:`are_enough`), the words are those that come
    with the study, if they are of the profile's network; otherwise they are fewer, with fewer
    dimensions, than the profile asks for.

    Args:
        home: of the index.
        folder, photographs: what the sample is drawn from, with the profile's seed.
        profile: backbone, whitening and codebook.
        sample: how many photographs.

    Raises:
        StudyError: no photograph can be used.
    """
    backbone, drawn, why = load_backbone(profile.features.backbone), {}, ""
    for i in np.random.default_rng(profile.seed).permutation(len(photographs)):
        path = photographs[i]
        try:
            _, (width, height) = network_sizes(path, backbone, profile.features.longest_side)
        except UnreadableImage as error:
            why = error.reason
            continue
        drawn[path] = math.prod(backbone.output_shape(height, width)[1:])
        if len(drawn) == sample:
            break
    if not drawn:
        raise none_decodes(folder, len(photographs), why)
    dataset = Dataset(folder.name, folder, tuple(sorted(drawn)), (), exif_orientation=True)
    # Copies teach nothing new.
    count = sum(drawn[dataset.images[i]] for i in np.unique(dataset.distinct))
    shipped = None if are_enough(count, profile) else shipped_words(backbone)

    def learn(work: Path) -> tuple[Whitening, Codebook]:
        store, seed = ArtefactStore(work / "learning"), profile.seed
        config = profile.features.model_copy(update={"on_corrupt": "skip"})
        features = extract_features(dataset, config, store, backbone)
        decoded = len(features.database_rows())
        size = min(profile.whitening.dimensions, features.channels, max(1, decoded // 2))
        whitened = profile.whitening.model_copy(update={"dimensions": size})
        whitening = learn_whitening(features, whitened, store, seed=seed)
        words = words_taught_by(decoded, profile)
        clustered = profile.codebook.model_copy(update={"words": words})
        codebook = learn_codebook(
            features, whitening, clustered, store, seed=seed, device=config.device
        )
        return whitening, codebook

    def make(work: Path) -> None:
        whitening, codebook = shipped or learn(work)
        save_whitening(work, whitening)
        for name in ("centroids", "objective", "n_descriptors"):
            np.save(work / f"{name}.npy", getattr(codebook, name))
        write_json(work / ORIGIN, {"own": shipped is None})
        shutil.rmtree(work / "learning", ignore_errors=True)

    ArtefactStore(home).get_or_make(*WORDS, make, quiet=True)


def shipped_words(backbone: Backbone) -> tuple[Whitening, Codebook] | None:
    """Return the words that come with the study for a network; None where there are none."""
    path = embedded_dir() / f"words-{backbone.config.name}.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["about"])
        if about["backbone"] != json.loads(json.dumps(backbone.document())):
            return None
        held = {name: file.get_tensor(name).astype(np.float32) for name in SHIPPED}
    count = about["descriptors"]
    whitening = Whitening(held["mean"], held["projection"], held["variances"], count)
    return whitening, Codebook(held["centroids"], held["objective"], count)


def none_decodes(folder: Path, count: int, why: str) -> StudyError:
    """Return the error of a folder without a photograph that can be used."""
    return StudyError(
        f"{folder}: none of its {count} photographs decodes ({why}); add some that do"
    )


def open_encoder(home: Path, profile: Profile) -> Encoder:
    """Return what encodes photographs as those of an indexed folder were."""
    words = stored_words(home)
    return Encoder(
        load_backbone(profile.features.backbone),
        read_whitening(words),
        read_codebook(words).with_assignment(profile.encoding),
        profile.features,
        profile.encoding.interpolate,
    )
