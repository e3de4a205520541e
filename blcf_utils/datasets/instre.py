"""INSTRE: 27,293 photographs of 250 objects, and 1,250 queries outside the database.

Layout: ``gnd_instre.mat`` in the folder, with the folders ``INSTRE-S1``, ``INSTRE-S2`` and
``INSTRE-M`` beside it (or all of them in one folder further down).

Wang and Jiang, INSTRE: A New Benchmark for Instance-Level Object Retrieval and Recognition, TOMM
2015; queries and protocol: Iscen et al., Efficient Diffusion on Region Manifolds, CVPR 2017.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blcf_utils.datasets.base import Dataset, Protocol
from blcf_utils.datasets.files import absolute_folder, by_relative_name, find_images
from blcf_utils.datasets.joining import Expected, ParsedQuery, join_files
from blcf_utils.datasets.matlab import box, indices, read_mat, records, strings

EXPECTED = Expected(27_293, 1_250)


def load_instre(
    root: Path | str, *, name: str = "instre", off_by_one: bool = False, partial: bool = False
) -> Dataset:
    """Load INSTRE.

    Args:
        root: the folder of ``gnd_instre.mat``.
        name: registry name.
        off_by_one: score as the public evaluation code of the saliency-weighted BoW did, as the
            dataset's ``published_code`` is scored anyway (see ``misread``).
        partial: accept an incomplete copy (see ``join_files``).

    Raises:
        StudyError: a file is missing or malformed, or a count is not the published one.
    """
    root = absolute_folder(root, name)
    names, queries = parse_instre(root / "gnd_instre.mat")
    # The archive may have been unpacked into a folder of its own.
    inner = [p.parent for p in sorted(root.glob("*/INSTRE-S1"))]
    images = root if (root / "INSTRE-S1").is_dir() or not inner else inner[0]
    dataset = join_files(
        name,
        root,
        names,
        by_relative_name(find_images(images), images),
        queries,
        protocol=Protocol("trapezoid", "absent", "Iscen et al. 2017"),
        domain="objects",
        expected=EXPECTED,
        partial=partial,
    )
    return misread(dataset) if off_by_one else replace(dataset, published_code=misread(dataset))


def misread(dataset: Dataset) -> Dataset:
    """Return a dataset whose 1-based positives are read as if they were 0-based.

    Every positive is shifted to its successor in the list; one past the last image, which no
    ranking can hold, is left out. So does ``instre_utils.compute_map`` of Mohedano et al., CBMI
    2018.
    """
    end = len(dataset.images)
    shifted = (tuple(i + 1 for i in q.positives if i + 1 < end) for q in dataset.queries)
    queries = zip(dataset.queries, shifted, strict=True)
    return replace(dataset, queries=tuple(replace(q, positives=found) for q, found in queries))


def parse_instre(path: Path) -> tuple[tuple[str, ...], tuple[ParsedQuery, ...]]:
    """Read ``gnd_instre.mat``.

    Args:
        path: the file.

    Returns:
        The database images' names (``INSTRE-S1/01a_canada_book/001.jpg``) in their order, and
        the queries with boxes (x1, y1, x2, y2).

    Raises:
        StudyError: the file is missing or malformed.
    """
    content = read_mat(path, ("imlist", "qimlist", "gnd"))
    names, asked = strings(content, "imlist", path), strings(content, "qimlist", path)
    queries = []
    truths = records(content, "gnd", ("ok", "bbx"), len(asked), path)
    for image, truth in zip(asked, truths, strict=True):
        positives = indices(truth["ok"], len(names), path)
        queries.append(
            ParsedQuery(
                id=image.rpartition(".")[0],
                image=image,
                box=box(truth["bbx"], path),
                positives=tuple(names[i] for i in positives),
                instance=image.rpartition("/")[0],
            )
        )
    return names, tuple(queries)
