"""One dataset's bags of SIFT words."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.ground.artefacts import ArtefactStore, Stage
from blcf_utils.ground.remembered import remembered
from blcf_utils.search.boxes import Mode
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

VERIFICATION = Stage("verification", version=1)


class SiftPipeline:
    """The stages of SIFT words.

    Args:
        profile: the configuration.
        dataset: images and queries.
        store: where artefacts live.
        teacher: gives the SIFT words of the dataset that teaches the codebook; None for itself.
    """

    def __init__(
        self,
        profile: Profile,
        dataset: Dataset,
        store: ArtefactStore,
        teacher: Callable[[], SiftPipeline] | None = None,
    ):
        self.profile, self.dataset, self.store = profile, dataset, store
        self._teacher = teacher or (lambda: self)

    @cached_property
    def features(self) -> SiftFeatures:
        """The SIFT keypoints and descriptors of the dataset's images."""
        on_corrupt = self.profile.features.on_corrupt
        return extract_sift(self.dataset, self.profile.sift, self.store, on_corrupt)

    @cached_property
    def words(self) -> SiftWords:
        """The SIFT words of the dataset's images; the codebook is the teacher's."""
        config, seed = self.profile.sift, self.profile.seed
        codebook = learn_sift_codebook(self._teacher().features, config, self.store, seed=seed)
        return assign_sift_words(self.features, codebook, self.store)

    @cached_property
    def index(self) -> InvertedFile:
        """The inverted file of the dataset's SIFT words."""
        return sift_index(self.words, self.profile.sift, self.store)

    def search(self, mode: Mode) -> dict[str, Ranking]:
        """Return SIFT bag-of-words rankings of the whole database for every query."""
        config = self.profile.sift
        return search_sift(self.dataset, self.words, self.index, mode, config.burstiness)

    def verified(self, mode: Mode) -> dict[str, Ranking]:
        """Return SIFT rankings whose first images are ordered by their verified matches."""
        return self._verification(mode)[0]

    def verification_seconds(self, mode: Mode) -> float:
        """Return how long the verification took, in the run that made it."""
        return self._verification(mode)[1]

    @remembered
    def _verification(self, mode: Mode) -> tuple[dict[str, Ranking], float]:
        dataset, words = self.dataset, self.words
        rankings, config = self.search(mode), self.profile.sift
        made_of = {
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

        artefact = self.store.get_or_make(VERIFICATION, words.artefact.label, made_of, verified)
        return verified(artefact.folder), artefact.seconds

    def partner(self) -> dict[str, Ranking]:
        """Return the SIFT rankings that fusion merges, verified or not, as the profile says."""
        return self.verified("ls") if self.profile.fusion.verified else self.search("ls")
