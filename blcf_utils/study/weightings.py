"""The spatial weightings of one dataset's images, and the saliency maps they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from blcf_utils.config.profile import Profile
from blcf_utils.datasets.base import Dataset
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.maps import FeatureMaps
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.remembered import remembered
from blcf_utils.saliency.base import SaliencyModel
from blcf_utils.saliency.maps import JoinedSaliency, saliency_maps
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


def weighting_names(profile: Profile) -> dict[str, str]:
    """Return every weighting by its row name, and why it cannot run here ("" if it can).

    Those of the thesis first, in its order; then the embedded networks, R-MAC's coverage and
    the profile's own folders of maps.
    """
    names = (NONE, *WITHOUT_SALIENCY[:2], *HAND_MADE, *OFFICIAL, *EMBEDDED, "R-MAC")
    reasons = {name: missing_weights(name, profile.saliency) for name in names}
    return {**reasons, **dict.fromkeys(profile.weighting.folders, "")}


def weighting_name(profile: Profile, name: str | None) -> str:
    """Return ``name`` if there is such a weighting; the profile's own when None.

    Raises:
        StudyError: no such weighting, or one whose weights are not here.
    """
    name = profile.weighting.search if name is None else name
    if name in (NONE, *WITHOUT_SALIENCY, *HAND_MADE, *EMBEDDED):
        return name
    every = weighting_names(profile)
    if name not in every:
        raise known("weighting", name, every)
    if every[name]:
        raise StudyError(f"weighting {name}: {every[name]}")
    return name


class Bench(Protocol):
    """What weightings need of a pipeline."""

    profile: Profile
    store: ArtefactStore
    dataset: Dataset
    features: FeatureMaps


class Weightings:
    """Weighs the positions of a dataset's images.

    Args:
        bench: the dataset's pipeline; its dataset and features are asked for when they are needed.
    """

    def __init__(self, bench: Bench):
        self.bench, self.profile, self.store = bench, bench.profile, bench.store

    def names(self) -> dict[str, str]:
        """Return every weighting, and why it cannot run here (see :func:`weighting_names`)."""
        return weighting_names(self.profile)

    def checked(self, name: str | None) -> str:
        """Return the name of a weighting that can run (see :func:`weighting_name`)."""
        return weighting_name(self.profile, name)

    def unavailable_because(self, name: str) -> str:
        """Return why a weighting cannot be measured on the dataset, or "" when it can."""
        if name not in self.profile.weighting.folders:
            return missing_weights(name, self.profile.saliency)
        try:
            self._precomputed(name)
        except StudyError as error:
            return str(error)
        return ""

    def saliency_names(self) -> list[str]:
        """Return the weightings that can run on the dataset and come from a saliency map."""
        names = [n for n in self.names() if n not in (NONE, *WITHOUT_SALIENCY)]
        return [name for name in names if not self.unavailable_because(name)]

    @remembered
    def model(self, name: str) -> SaliencyModel:
        """Return a saliency model, ready to run on any image."""
        device = str(resolve_device(self.profile.features.device))
        return load_model(name, self.profile.saliency, device)

    def saliency(self, name: str) -> SaliencyOf:
        """Return what gives the saliency map (H, W) uint8 of a database image by its number."""
        return self._saliency(name)[0]

    def attention(self, name: str) -> SaliencyOf:
        """Return where a weighting puts its weight, as a picture of any size.

        Its saliency maps, or its weights if it has none.

        Raises:
            StudyError: a weighting that weighs every position alike.
        """
        if name in (*MODELS, *self.profile.weighting.folders):
            return self.saliency(name)
        weights = self.weights(self.checked(name))
        if weights is None:
            raise StudyError(f"weighting {name}: weighs every position alike; name another one")
        return weights

    @remembered
    def _saliency(self, name: str) -> tuple[SaliencyOf, dict]:
        folders = self.profile.weighting.folders
        if name not in folders and name not in MODELS:
            raise known("saliency model", name, (*MODELS, *folders))
        if name in folders:
            maps = self._precomputed(name)
            return maps, {"folder": maps.digest()}
        on_corrupt, model = self.profile.features.on_corrupt, self.model(name)
        # Two benchmarks share the maps of their distractors.
        parts = self.bench.dataset.parts or (self.bench.dataset,)
        made = [saliency_maps(part, model, self.store, on_corrupt) for part in parts]
        joined = JoinedSaliency(made, [len(part.images) for part in parts])
        maps = joined if self.bench.dataset.parts else made[0]
        return maps, {"saliency": maps.key}

    def _precomputed(self, name: str) -> PrecomputedMaps:
        folder = self.profile.weighting.folders[name].replace("{dataset}", self.bench.dataset.name)
        maps = PrecomputedMaps(folder, self.bench.dataset)
        maps.require()  # before half of them are read
        return maps

    def weighting(self, name: str) -> Weighting:
        """Return a weighting of the dataset's images; its saliency maps are made on the way."""
        config = self.profile.weighting
        if name == "Gaussian":
            return gaussian(config)
        if name == "L2-norm":
            return l2_norm()
        if name == "R-MAC":
            return rmac_coverage(config)
        by_content = name not in self.profile.weighting.folders
        return by_saliency(name, *self._saliency(name), by_content)

    @remembered
    def weights(self, name: str, factor: int | None = None) -> StoredWeights | None:
        """Return the weights of the database images; None where every position counts 1.

        Args:
            name: the weighting.
            factor: cells per position of a feature map and side; those of the assignment maps
                when None.
        """
        if self.checked(name) == NONE:
            return None
        factor = factor or self.profile.encoding.interpolate
        return weight_maps(self.weighting(name), self.bench.features, factor, self.store)
