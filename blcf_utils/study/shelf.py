"""The datasets of a study, each loaded and checked once."""

from __future__ import annotations

from functools import partial

from blcf_utils.config.profile import Profile
from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.checks import check_dataset
from blcf_utils.ground.artefacts import ArtefactStore, Stage, log_event
from blcf_utils.ground.remembered import remembered

CHECKS = Stage("checks", version=1)


class DatasetShelf:
    """Loads each dataset once; the first time ever, every file is checked.

    Args:
        profile: of it the options of the datasets' loaders, and whether every image must decode.
        store: keeps that a dataset was checked.
    """

    def __init__(self, profile: Profile, store: ArtefactStore):
        self.store, self._options = store, profile.dataset_options
        self._decode = profile.features.on_corrupt == "error"

    def under(self, profile: Profile) -> DatasetShelf:
        """Return the shelf of a profile: this one if it loads and checks datasets alike."""
        other = DatasetShelf(profile, self.store)
        alike = (other._options, other._decode) == (self._options, self._decode)
        return self if alike else other

    @remembered
    def dataset(self, name: str) -> Dataset:
        """Return a dataset by its registry name.

        Raises:
            StudyError: unknown, missing, or a file that does not decode or a box that does not fit.
        """
        dataset = load_dataset(name, **self._options.get(name, {}))
        for part in dataset.parts or (dataset,):
            document = {
                "images": part.manifest,
                "queries": part.ground_truth_digest,
                "decode": self._decode,
            }
            check = partial(check_dataset, part, decode=self._decode)
            self.store.get_or_make(CHECKS, part.name, document, lambda folder, check=check: check())
        log_event(
            {
                "dataset": name,
                "images": len(dataset.images),
                "manifest": dataset.manifest,
                "ground_truth": dataset.ground_truth_digest,
                "queries": len(dataset.queries),
            }
        )
        return dataset
