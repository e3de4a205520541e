"""The words of a folder, learned once on a sample of its photographs and kept with its index."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.encoder import Encoder, network_sizes
from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage
from blcf_utils.features.extraction import extract_features
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, Stage
from blcf_utils.ground.errors import StudyError
from blcf_utils.words.codebook import learn_codebook, read_codebook
from blcf_utils.words.whitening import learn_whitening, read_whitening, save_whitening

# A word that fewer descriptors taught than this is mostly noise.
DESCRIPTORS_A_WORD = 8
# Stage, label and document: an index has one set of words.
WORDS = (Stage("words"), "learned", {})


def stored_words(home: Path) -> Artefact | None:
    """Return whitening and codebook of an index; None before they are learned."""
    folder = ArtefactStore(home).find(*WORDS)
    return folder and Artefact("words", "learned", "", folder, reused=True, seconds=0.0)


def learn_words(
    home: Path, folder: Path, photographs: Sequence[Path], profile: Profile, sample: int
) -> None:
    """Learn whitening and codebook on a sample of photographs; killed, it goes on.

    A small sample has fewer dimensions and words than the profile asks for.

    Args:
        home: of the index.
        folder, photographs: what the sample is drawn from, with the profile's seed.
        profile: backbone, whitening and codebook.
        sample: how many photographs.

    Raises:
        StudyError: no photograph can be used.
    """
    backbone, drawn, why = load_backbone(profile.features.backbone), [], ""
    for i in np.random.default_rng(profile.seed).permutation(len(photographs)):
        try:
            network_sizes(photographs[i], backbone, profile.features.longest_side)
        except UnreadableImage as error:
            why = error.reason
            continue
        drawn.append(photographs[i])
        if len(drawn) == sample:
            break
    if not drawn:
        raise none_decodes(folder, len(photographs), why)
    dataset = Dataset(folder.name, folder, tuple(sorted(drawn)), (), exif_orientation=True)

    def make(work: Path) -> None:
        store, seed = ArtefactStore(work / "learning"), profile.seed
        config = profile.features.model_copy(update={"on_corrupt": "skip"})
        features = extract_features(dataset, config, store, backbone)
        count = len(features.database_rows())
        size = min(profile.whitening.dimensions, features.channels, max(1, count // 2))
        whitened = profile.whitening.model_copy(update={"dimensions": size})
        whitening = learn_whitening(features, whitened, store, seed=seed)
        words = max(1, min(profile.codebook.words, count // DESCRIPTORS_A_WORD))
        clustered = profile.codebook.model_copy(update={"words": words})
        codebook = learn_codebook(
            features, whitening, clustered, store, seed=seed, device=config.device
        )
        save_whitening(work, whitening)
        for name in ("centroids", "objective", "n_descriptors"):
            np.save(work / f"{name}.npy", getattr(codebook, name))
        shutil.rmtree(store.root)

    ArtefactStore(home).get_or_make(*WORDS, make, quiet=True)


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
