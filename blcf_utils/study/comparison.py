"""The compared methods on one dataset: what they pool, and which other dataset teaches them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.features.networks.backbones import layer_names
from blcf_utils.features.networks.heads import ClassifierHead, load_head
from blcf_utils.features.networks.weight_files import with_classifier
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import in_project
from blcf_utils.ground.remembered import remembered
from blcf_utils.pooling.compared.asmk_search import AsmkSearch
from blcf_utils.pooling.compared.detector import DetectorSearch
from blcf_utils.pooling.compared.teacher import TeacherData, read_learned_whitening
from blcf_utils.pooling.compared.vectors import MethodVectors, method_named
from blcf_utils.pooling.rmac import rmac_regions
from blcf_utils.pooling.rmac_weighting import decompose
from blcf_utils.study.pipeline import Pipeline


def teacher_of(profile: Profile, name: str) -> str:
    """Return the dataset that teaches the compared methods what they learn for ``name``.

    A method may see neither the images it is tested on nor their queries; the field learns on
    Paris for Oxford and the other way round.

    Returns:
        Its name; "" if there is no other dataset and ``comparison.same_dataset`` is not set.
    """
    config = profile.comparison
    others = [other for other in profile.datasets if other != name]
    teacher = config.learn_on.get(name) or (others[0] if others else "")
    return name if not teacher and config.same_dataset else teacher


def teachers(profile: Profile) -> pd.Series:
    """Return, for each dataset, the one that teaches the compared methods.

    Raises:
        StudyError: a dataset without one.
    """
    found = {name: teacher_of(profile, name) for name in profile.all_datasets}
    for name, teacher in found.items():
        if not teacher:
            raise StudyError(_no_teacher(name))
    return pd.Series(found, name="learns on").rename_axis("dataset")


def _no_teacher(name: str) -> str:
    return (
        f"comparison: {name} has no other dataset to learn whitening on; name one in "
        f"comparison.learn_on, or allow its own images with comparison.same_dataset: true"
    )


class Comparison:
    """A dataset as the compared methods describe and search it.

    Args:
        bench: the dataset's pipeline.
        teacher: the pipeline of the dataset that teaches the methods; None if there is none.
    """

    def __init__(self, bench: Pipeline, teacher: Pipeline | None):
        self.bench, self.teacher = bench, teacher
        self.no_teacher = "" if teacher else _no_teacher(bench.name)

    @cached_property
    def head(self) -> ClassifierHead:
        """The classifier behind the backbone."""
        return load_head(self.bench.profile.features.backbone)

    @remembered
    def on(self, backbone: BackboneConfig) -> Comparison:
        """Return the same dataset and teacher on another backbone."""
        bench = self.bench.changed({"features.backbone": backbone})
        return Comparison(bench, bench.beside(self.teacher.name) if self.teacher else None)

    @remembered
    def _pooled(self, last_layer: bool) -> Pipeline:
        """Return the pipeline whose feature maps are pooled."""
        bench = self.bench
        if bench.profile.comparison.maps == "full":
            bench = bench.at_full_resolution()
        if not last_layer:
            return bench
        # A classifier stands behind the last layer of the weights that it was trained with,
        # whatever layer and weights words are made of.
        own = bench.profile.features.backbone
        last = {"layer": layer_names(own.name)[-1]}
        backbone = with_classifier(own).model_copy(update=last)
        return bench if backbone == own else bench.changed({"features.backbone": backbone})

    @remembered
    def vectors(
        self, method: str, dimensions: int | None = None, whitening: str = ""
    ) -> MethodVectors:
        """Return the dataset as a method describes it.

        Args:
            method: a name of ``pooling.compared.methods.METHODS``.
            dimensions: the most values of a vector; the profile's when None.
            whitening: file of a whitening that was learned with the network; PCA's when empty.

        Raises:
            StudyError: an unknown method, or no dataset that teaches it.
        """
        entry = method_named(method)
        if self.teacher is None:
            raise StudyError(self.no_teacher)
        bench, config = self._pooled(bool(entry.needs)), self.bench.profile.comparison
        data = TeacherData(
            bench.beside(self.teacher.name).features,
            config,
            min(dimensions or config.dimensions, config.dimensions),
            bench.store,
            bench.profile.seed,
            self.head if entry.needs else None,
            in_project(config.weights[method]) if entry.given else None,
            read_learned_whitening(in_project(whitening)) if whitening else None,
        )
        projection = bench.profile.encoding.box
        pixels = config.query == "pixels" and entry.crops == "pixels"
        crops = (lambda: bench.query_crops) if pixels else dict
        return MethodVectors(method, bench.dataset, bench.features, data, projection, crops)

    @remembered
    def detector(self, weights: Path) -> DetectorSearch:
        """Return the dataset as a detector describes it."""
        bench = self.bench
        features, projection = bench.profile.features, bench.profile.encoding.box
        return DetectorSearch(bench.dataset, weights, features, projection, bench.store)

    @cached_property
    def learned_elsewhere(self) -> Comparison:
        """The same dataset with whitening and words learned on the dataset that teaches."""
        words = self.bench.changed({f"learn_on.{self.bench.name}": self.teacher.name})
        return Comparison(words, self.teacher)

    @cached_property
    def asmk(self) -> AsmkSearch:
        """The dataset under the aggregated selective match kernel."""
        bench = self.bench
        learned, projection = (bench.whitening, bench.codebook), bench.profile.encoding.box
        return AsmkSearch(bench.dataset, bench.features, *learned, projection, bench.store)

    def rmac_decomposition(self, levels: Sequence[int] = (1, 2, 3, 7)) -> pd.DataFrame:
        """Compare weighted sums with R-MAC, mean over the database (R-MAC as weighting scheme).

        Returns:
            One row per number of scales L; columns regions (of the first image), and the mean
            cosine of R-MAC's vector without whitening to plain sums, to sums under the location
            factor and to sums under location and region post-processing.
        """
        features, lines = self.bench.features, {}
        images = np.arange(min(features.n_database, 200))
        for level in levels:
            parts = [decompose(features.map(i), level) for i in images if features.shapes[i].all()]
            lines[level] = {
                "regions": len(rmac_regions(tuple(features.shapes[images[0]]), level)),
                "sum": np.mean([part.cosine_sum for part in parts]),
                "location": np.mean([part.cosine_coverage for part in parts]),
                "location and post-processing": np.mean([part.cosine_alpha for part in parts]),
            }
        return pd.DataFrame(lines).T.rename_axis("L").astype({"regions": int})
