"""Which photograph a person means, who names a path in whatever form."""

from __future__ import annotations

import os
from pathlib import Path

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.files import file_identity
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute


def photograph_of(dataset: Dataset, given: Path | str) -> Path:
    """Return the path of an image as a dataset writes it, however it was named.

    Args:
        dataset: whose images are looked through.
        given: a path from the working folder, else one from the dataset's folder. It may lead
            over links, and have accents as one character or as two, as systems write them.

    Returns:
        A path of ``dataset.images``, or an absolute one that is not among them.

    Raises:
        StudyError: no such file.
    """
    for path in (absolute(given), absolute(dataset.root / given)):
        for form in (path, Path(os.path.realpath(path))):
            if form in dataset.image_index:
                return form
        # What cannot be opened, or is no image, is said to be so when it is read.
        if os.path.lexists(path):
            return dataset.by_file.get(file_identity(path), path)
    raise StudyError(
        f"{given}: no such file, nor a photograph of {dataset.root}; name an image file"
    )
