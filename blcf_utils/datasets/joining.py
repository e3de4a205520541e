"""Joining parsed ground truth, which speaks of names, with the image files on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blcf_utils.datasets.base import Box, Dataset, Protocol, Query
from blcf_utils.datasets.files import some_names
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import composed


@dataclass(frozen=True)
class ParsedQuery:
    """A query as the ground truth states it: the fields of ``Query`` with names for indices."""

    id: str
    image: str
    box: Box | None
    positives: tuple[str, ...]
    junk: tuple[str, ...] = ()
    instance: str = ""


@dataclass(frozen=True)
class Expected:
    """Published counts, None where none is published."""

    images: int | None = None
    queries: int | None = None


def check_count(dataset: str, what: str, found: int, expected: int | None, partial: bool) -> None:
    """Compare a count with the published one.

    Raises:
        StudyError: the counts differ and ``partial`` is off; when it is on they only warn.
    """
    if expected is None or found == expected:
        return
    difference = f"{dataset}: found {found:,} {what}, expected the published {expected:,}"
    if not partial:
        raise StudyError(
            f"{difference}: complete the copy (or remove files that are not the benchmark's), or "
            "set the loader's option partial to use what is there"
        )
    warnings.warn(f"{difference}; its scores are not comparable with published ones", stacklevel=3)


def join_files(
    name: str,
    root: Path,
    names: Sequence[str],
    files: Mapping[str, Path],
    queries: Sequence[ParsedQuery],
    *,
    protocol: Protocol,
    domain: str = "",
    expected: Expected | None = None,
    partial: bool = False,
    exif_orientation: bool = False,
) -> Dataset:
    """Return the dataset of the images ``names`` with the queries' names turned into indices.

    Args:
        name: registry name.
        root: the dataset's folder.
        names: names of the database images, in their order.
        files: path of each name; also holds the query images outside the database.
        queries: the parsed ground truth.
        protocol: how rankings are scored.
        domain: what the images show.
        expected: published counts.
        partial: accept an incomplete copy: images that are not there are left out of database,
            positives and junk, and queries that lose their image or every positive are skipped.
        exif_orientation: see ``Dataset``.

    A query without any positive is skipped, because it has no AP. Whatever is left out is said
    in a warning and in ``Dataset.notes``.

    Raises:
        StudyError: images are missing or counts differ from the published ones, and ``partial``
            is off; or nothing is left.
    """
    expected = expected or Expected()
    wanted = dict.fromkeys(names)
    for query in queries:
        wanted.update(dict.fromkeys((query.image, *query.positives, *query.junk)))
    # Names from macOS have decomposed letters, a ground truth mostly composed ones.
    unmatched = [one for one in wanted if one not in files and not one.isascii()]
    if unmatched:
        alike = {composed(one): path for one, path in files.items()}
        found = {one: alike[composed(one)] for one in unmatched if composed(one) in alike}
        files = {**files, **found}
    missing = [wanted_name for wanted_name in wanted if wanted_name not in files]
    if len(missing) == len(wanted):
        raise StudyError(
            f"{name}: none of its images is in {root}: expected for example "
            f"{some_names(missing, 2) or 'a .jpg file'} there"
        )
    if missing and not partial:
        raise StudyError(
            f"{name}: {len(missing):,} of {len(wanted):,} images are missing in {root}: "
            f"{some_names(missing)}; complete the copy, or set the loader's option partial to "
            "use what is there"
        )
    present = [image for image in names if image in files]
    check_count(name, "database images", len(present), expected.images, partial)
    check_count(name, "queries", len(queries), expected.queries, partial)

    index = {image: i for i, image in enumerate(present)}
    kept, without_image, without_positives = [], [], []
    for query in queries:
        positives = sorted({index[p] for p in query.positives if p in index})
        if query.image not in files:
            without_image.append(query.id)
        elif not positives:
            without_positives.append(query.id)
        else:
            kept.append(
                Query(
                    id=query.id,
                    image=files[query.image],
                    box=query.box,
                    positives=tuple(positives),
                    junk=tuple(sorted({index[j] for j in query.junk if j in index})),
                    instance=query.instance,
                )
            )
    said = []
    if missing:
        said.append(
            f"{len(missing):,} of {len(wanted):,} images are missing and left out of database, "
            f"positives and junk: {some_names(missing)}"
        )
    if without_image:
        said.append(
            f"queries skipped for want of their image ({len(without_image)}): "
            f"{some_names(without_image)}"
        )
    if without_positives:
        said.append(
            f"queries skipped because they have no positive ({len(without_positives)}): "
            f"{some_names(without_positives)}"
        )
    if queries and not kept:
        raise StudyError(f"{name}: no query can be used in {root}: {'; '.join(said)}")
    for sentence in said:
        warnings.warn(f"{name}: {sentence}", stacklevel=2)
    return Dataset(
        name=name,
        root=root,
        images=tuple(files[image] for image in present),
        queries=tuple(kept),
        protocol=protocol,
        domain=domain,
        exif_orientation=exif_orientation,
        notes="; ".join(said),
    )
