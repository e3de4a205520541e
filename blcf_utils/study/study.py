"""A profile opened for work: its datasets, a pipeline for each, and the folder of its results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.features.networks.weight_files import download, refuse, settled
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import known
from blcf_utils.ground.paths import results_dir
from blcf_utils.ground.remembered import remembered
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.folder import Results
from blcf_utils.search.recipes import parse_recipe
from blcf_utils.study.comparison import Comparison, teacher_of
from blcf_utils.study.finetuning import Finetuning
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.shelf import DatasetShelf
from blcf_utils.study.stage_lines import show_stages
from blcf_utils.study.weightings import weighting_name


def open_study(profile: str = "mini", settings: dict | None = None) -> Study:
    """Open a profile by name (or YAML path) with dotted settings changed.

    In a notebook that is not executed by ``blcf run``, changed settings send tables and figures to
    a folder of their own, ``results/<profile>+<digest>``. Weights that are ``auto`` become those
    that are taken; ``blcf run`` downloads them at its start, a notebook of it never.

    Args:
        profile: a name in ``data/profiles`` or a YAML path.
        settings: such as ``{"codebook.words": 512, "features.longest_side": 256}``.
    """
    show_stages()
    pd.set_option("display.max_colwidth", None)  # reasons and claims are read to their end
    # A reader's trial must not overwrite the profile's results; a run chooses its folder itself.
    batch = os.environ.get("BLCF_BATCH")
    trial = digest_of(settings)[:8] if settings and not batch else ""
    opened = settled(load_profile(profile, settings), refuse if batch else download)
    return Study(opened, trial=trial)


class Study:
    """A profile, its shelf of datasets and its results.

    Args:
        profile: the configuration.
        store: where artefacts live; the cache folder when None.
        trial: names the results folder of changed settings; empty for the profile's own.
        shelf: datasets that are loaded already.

    Raises:
        StudyError: a recipe or a weighting of the profile that does not exist.
    """

    def __init__(
        self,
        profile: Profile,
        store: ArtefactStore | None = None,
        trial: str = "",
        shelf: DatasetShelf | None = None,
    ):
        parse_recipe(profile.fusion.recipe)
        weighting_name(profile, None)
        self.profile, self.trial = profile, trial
        self.shelf = shelf or DatasetShelf(profile, store or ArtefactStore())
        self._pipelines: dict[str, Pipeline] = {}

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the profile's datasets."""
        return self.profile.datasets

    def open(self, name: str = "") -> Pipeline:
        """Return the pipeline of a dataset of the profile; of its first one when empty."""
        if name and name not in self.profile.all_datasets:
            raise known(f"dataset of profile {self.profile.name}", name, self.datasets)
        name = name or self.datasets[0]
        found = self._pipelines.get(name)
        return found or Pipeline(name, self.profile, self.shelf, self._pipelines)

    def changed(self, settings: Mapping[str, Any]) -> Study:
        """Return this study with dotted settings changed, such as ``{"codebook.words": 512}``."""
        profile = settled(self.profile.changed(settings))
        return Study(profile, trial=self.trial, shelf=self.shelf.under(profile))

    @cached_property
    def of_saliency_work(self) -> Study:
        """This study under the box rule of the saliency work (``weighting.box``)."""
        box = self.profile.weighting.box
        alike = box in ("", self.profile.encoding.box)
        return self if alike else self.changed({"encoding.box": box})

    @remembered
    def comparison(self, name: str) -> Comparison:
        """Return the compared methods on a dataset; another dataset of the profile teaches them."""
        bench = self.open(name)
        teacher = teacher_of(self.profile, name)
        return Comparison(bench, bench.beside(teacher) if teacher else None)

    @remembered
    def finetuning(self, name: str) -> Finetuning:
        """Return the networks that are trained or tested on a dataset."""
        return Finetuning(self.open(name))

    def training_dataset(self, which: str) -> str:
        """Return the dataset on which the profile trains what the slides train on another.

        Args:
            which: ``oxford`` or ``instre``.

        Returns:
            Its name; "" if the profile has none.

        Raises:
            StudyError: the profile names a dataset that it does not have.
        """
        name = getattr(self.profile.finetuning, which)
        if name and name not in self.datasets:
            raise known(f"dataset of finetuning.{which}", name, self.datasets)
        return name

    @cached_property
    def results(self) -> Results:
        """The tables and figures of this profile."""
        name = f"{self.profile.name}+{self.trial}" if self.trial else self.profile.name
        profiles = self.profile, self.profile.at_full_resolution()
        return Results(results_dir(name), *(one.features.backbone.label for one in profiles))

    def describe(self) -> pd.DataFrame:
        """Return what this study runs on, one row per dataset, for the top of a notebook."""
        network = self.profile.features
        rows = [
            {
                "dataset": name,
                "images": len(self.shelf.dataset(name).images),
                "queries": len(self.shelf.dataset(name).queries),
                "backbone": network.backbone.label,
                "longest side": network.longest_side,
                "K": self.profile.codebook.words,
                "words learned on": self.profile.teacher_of(name),
                "seed": self.profile.seed,
            }
            for name in self.datasets
        ]
        return pd.DataFrame(rows).set_index("dataset")
