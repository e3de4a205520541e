"""Spatial weighting and saliency maps, as stages of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.joined import JoinedSaliency
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.saliency.base import SaliencyModel
from blcf_utils.saliency.maps import saliency_maps
from blcf_utils.saliency.models import (
    EMBEDDED,
    HAND_MADE,
    MODELS,
    OFFICIAL,
    load_model,
    missing_weights,
)
from blcf_utils.saliency.precomputed import PrecomputedMaps
from blcf_utils.saliency.weight_maps import StoredWeights, weight_maps
from blcf_utils.saliency.weighting import (
    NONE,
    Weighting,
    by_saliency,
    gaussian,
    l2_norm,
    rmac_coverage,
)

WITHOUT_SALIENCY = ("Gaussian", "L2-norm", "R-MAC")

SaliencyOf = Callable[[int], np.ndarray]


class StudyWeighting:
    """The part of a study that weighs the positions of database images."""

    profile: Profile
    store: ArtefactStore
    dataset: Callable[[str], Dataset]
    features: Callable[[str], Features]

    def weightings(self) -> dict[str, str]:
        """Return every weighting by its row name, and why it cannot run here ("" if it can).

        Those of the thesis first, in its order; then the embedded networks, R-MAC's coverage and
        the profile's own folders of maps.
        """
        names = (NONE, *WITHOUT_SALIENCY[:2], *HAND_MADE, *OFFICIAL, *EMBEDDED, "R-MAC")
        config = self.profile
        reasons = {name: missing_weights(name, config.saliency) for name in names}
        return {**reasons, **dict.fromkeys(config.weighting.folders, "")}

    def why_not(self, dataset: str, name: str) -> str:
        """Return why a weighting cannot be measured on a dataset, or "" when it can."""
        if name not in self.profile.weighting.folders:
            return missing_weights(name, self.profile.saliency)
        try:
            self._precomputed(dataset, name)
        except StudyError as error:
            return str(error)
        return ""

    def saliency_names(self, dataset: str) -> list[str]:
        """Return the weightings that can run on a dataset and come from a saliency map."""
        names = [n for n in self.weightings() if n not in (NONE, *WITHOUT_SALIENCY)]
        return [name for name in names if not self.why_not(dataset, name)]

    def weighting_name(self, name: str | None) -> str:
        """Return ``name`` if there is such a weighting; the profile's own when None.

        Raises:
            StudyError: no such weighting, or one whose weights are not here.
        """
        name = self.profile.weighting.search if name is None else name
        if name in (NONE, *WITHOUT_SALIENCY, *HAND_MADE, *EMBEDDED):
            return name
        every = self.weightings()
        if name not in every:
            raise known("weighting", name, every)
        if every[name]:
            raise StudyError(f"weighting {name}: {every[name]}")
        return name

    def saliency_model(self, name: str) -> SaliencyModel:
        """Return a saliency model, ready to run on any image."""
        device = resolve_device(self.profile.features.device).type
        return load_model(name, self.profile.saliency, device)

    def saliency(self, dataset: str, name: str) -> SaliencyOf:
        """Return what gives the saliency map (H, W) uint8 of a database image by its number."""
        return self._saliency(dataset, name)[0]

    def looks(self, dataset: str, name: str) -> SaliencyOf:
        """Return where a weighting looks: its saliency maps, or its weights if it has none."""
        if name in (*MODELS, *self.profile.weighting.folders):
            return self.saliency(dataset, name)
        weights = self.weights(dataset, self.weighting_name(name))
        if weights is None:
            raise StudyError(f"weighting {name}: looks everywhere; name another one")
        return weights

    def _saliency(self, dataset: str, name: str) -> tuple[SaliencyOf, dict]:
        folders = self.profile.weighting.folders
        if name not in folders and name not in MODELS:
            raise known("saliency model", name, (*MODELS, *folders))
        if name in folders:
            maps = self._precomputed(dataset, name)
            return maps, {"folder": maps.digest()}
        on_corrupt, model = self.profile.features.on_corrupt, self.saliency_model(name)
        images = self.dataset(dataset)
        # Two benchmarks share the maps of their distractors.
        parts = images.parts or (images,)
        made = [saliency_maps(part, model, self.store, on_corrupt) for part in parts]
        joined = JoinedSaliency(made, [len(part.images) for part in parts])
        maps = joined if images.parts else made[0]
        return maps, {"saliency": maps.key}

    def _precomputed(self, dataset: str, name: str) -> PrecomputedMaps:
        folder = self.profile.weighting.folders[name].replace("{dataset}", dataset)
        maps = PrecomputedMaps(Path(folder).expanduser(), self.dataset(dataset))
        maps.require()  # said now, not after half of them
        return maps

    def weighting(self, dataset: str, name: str) -> Weighting:
        """Return a weighting of a dataset's images; its saliency maps are made on the way."""
        config = self.profile.weighting
        if name == "Gaussian":
            return gaussian(config)
        if name == "L2-norm":
            return l2_norm()
        if name == "R-MAC":
            return rmac_coverage(config)
        by_content = name not in self.profile.weighting.folders
        return by_saliency(name, *self._saliency(dataset, name), by_content)

    def weights(self, dataset: str, name: str, factor: int | None = None) -> StoredWeights | None:
        """Return the weights of a dataset's database images; None where every position counts 1.

        Args:
            dataset: name of the dataset.
            name: the weighting.
            factor: cells per position of a feature map and side; those of the assignment maps
                when None.
        """
        if self.weighting_name(name) == NONE:
            return None
        factor = factor or self.profile.encoding.interpolate
        made = self.weighting(dataset, name)
        return weight_maps(made, self.features(dataset), factor, self.store)
