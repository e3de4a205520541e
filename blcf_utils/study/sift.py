"""SIFT bags of words and their fusion with convolutional words, as stages of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.search.boxes import Mode
from blcf_utils.search.fusion import fuse_all
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.search.query import Ranking
from blcf_utils.search.sift.keypoints import SiftFeatures, extract_sift
from blcf_utils.search.sift.verification import verify
from blcf_utils.search.sift.words import (
    SiftWords,
    assign_sift_words,
    learn_sift_codebook,
    search_sift,
    sift_index,
)


class StudySift:
    """The part of a study that searches with SIFT words."""

    profile: Profile
    store: ArtefactStore
    dataset: Callable[[str], Dataset]
    search: Callable[..., dict[str, Ranking]]

    def sift_features(self, name: str) -> SiftFeatures:
        """Return the SIFT keypoints and descriptors of a dataset's images."""
        on_corrupt = self.profile.features.on_corrupt
        return extract_sift(self.dataset(name), self.profile.sift, self.store, on_corrupt)

    def sift_words(self, name: str) -> SiftWords:
        """Return the SIFT words of a dataset's images; the codebook is its teacher's."""
        config, teacher = self.profile.sift, self.profile.teacher_of(name)
        codebook = learn_sift_codebook(
            self.sift_features(teacher),
            config,
            self.store,
            seed=self.profile.seed,
        )
        return assign_sift_words(self.sift_features(name), codebook, self.store)

    def sift_index(self, name: str) -> InvertedFile:
        """Return the inverted file of a dataset's SIFT words."""
        return sift_index(self.sift_words(name), self.profile.sift, self.store)

    def sift_search(self, name: str, mode: Mode) -> dict[str, Ranking]:
        """Return SIFT bag-of-words rankings of the whole database for every query."""
        config, words = self.profile.sift, self.sift_words(name)
        index = self.sift_index(name)
        return search_sift(self.dataset(name), words, index, mode, config.burstiness)

    def sift_verified(self, name: str, mode: Mode) -> dict[str, Ranking]:
        """Return SIFT rankings whose first images are ordered by their verified matches."""
        return self._verification(name, mode)[0]

    def verification_seconds(self, name: str, mode: Mode) -> float:
        """Return how long the verification took, in the run that made it."""
        return self._verification(name, mode)[1]

    def _verification(self, name: str, mode: Mode) -> tuple[dict[str, Ranking], float]:
        dataset, words = self.dataset(name), self.sift_words(name)
        rankings, config = self.sift_search(name, mode), self.profile.sift
        made_of = {
            "version": 1,
            "sift_words": words.key,
            "queries": dataset.ground_truth_digest,
            "mode": mode,
            "idf": config.idf,
            "burstiness": config.burstiness,
            "verification": config.verification.document(),
        }

        def verified(folder: Path) -> dict[str, Ranking]:
            kept = folder / "inliers.bin"
            found = verify(dataset, rankings, words.features, config.verification, mode, kept)
            return found[0]

        artefact = self.store.get_or_make("verification", words.artefact.label, made_of, verified)
        return verified(artefact.folder), artefact.seconds

    def sift_partner(self, name: str) -> dict[str, Ranking]:
        """Return the SIFT rankings that fusion merges, verified or not, as the profile says."""
        verified = self.profile.fusion.verified
        return (self.sift_verified if verified else self.sift_search)(name, "ls")

    def fused(self, name: str) -> dict[str, Ranking]:
        """Return the late fusion of convolutional and SIFT words for every query."""
        config = self.profile.fusion
        return fuse_all(self.search(name, config.recipe), self.sift_partner(name), config)
