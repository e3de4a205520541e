"""Search an indexed folder from the command line or from Python."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from blcf_utils.apps.photographs.collection import Collection, WithPhotograph
from blcf_utils.apps.photographs.encoder import reading_query
from blcf_utils.datasets.base import Box, Query
from blcf_utils.datasets.images import image_size
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable, typed_path
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import check_box, read_box
from blcf_utils.search.recipes import Searcher


@dataclass(frozen=True)
class Result:
    """One photograph that was found.

    Attributes:
        rank: from 1.
        photograph: path relative to the folder.
        score: what it is ranked by.
        box: where the query was found, (x1, y1, x2, y2) in pixels.
    """

    rank: int
    photograph: str
    score: float
    box: Box


def query_folder(
    folder: Path | str,
    image: Path | str,
    box: Box | str | None = None,
    *,
    recipe: str = "LS + R",
    weighting: str = NONE,
    top: int = 10,
) -> list[Result]:
    """Return the photographs of an indexed folder that show what a box of an image shows.

    Args:
        folder: as given to ``index_folder``.
        image: a photograph of the folder (it is left out of its results), or any other file.
        box: (x1, y1, x2, y2) in pixels, or as text; None or blank for the whole image.
        recipe: steps of ``blcf_utils.search.recipes``.
        weighting: one that the folder was indexed with.
        top: how many results.

    Raises:
        StudyError: the folder is not indexed, the image does not decode, a box outside it, an
            unknown recipe or weighting.
    """
    collection = Collection(folder)
    base = collection.base(weighting)
    path = _path(collection, Path(image))
    box = read_box(box) if isinstance(box, str) else box
    with reading_query(path):
        check_box(box, image_size(path, exif_orientation=True))
    query = Query("query", path, box, ())
    if path not in base.dataset.image_index:
        dataset = replace(base.dataset, queries=(*base.dataset.queries, query))
        with reading_query(path):
            maps = WithPhotograph(base.maps, *collection.encoder.encode(path))
        base = replace(base, dataset=dataset, maps=maps)
    profile = collection.profile
    searcher = Searcher(base, profile.reranking, profile.expansion)
    found = searcher.run(recipe, query)
    return [
        Result(
            rank,
            collection.names[place.image],
            place.score,
            tuple(round(edge, 1) for edge in place.box),
        )
        for rank, place in enumerate(searcher.places(query, found, top), 1)
    ]


def results_as_json(results: list[Result]) -> str:
    """Return results as a JSON list of objects."""
    text = json.dumps([asdict(one) for one in results], indent=1, ensure_ascii=False)
    # Bytes of a name that are no UTF-8 stay what Python makes of them, in JSON's own way.
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def results_as_text(results: list[Result]) -> str:
    """Return results as lines: rank, score, photograph, box."""
    lines = []
    for one in results:
        box = ",".join(f"{value:.0f}" for value in one.box)
        lines.append(f"{one.rank:3}  {one.score:.4f}  {printable(one.photograph)}  {box}")
    return "\n".join(lines)


def _path(collection: Collection, image: Path) -> Path:
    """Return an image's path as the collection writes it, if it has it."""
    # One that the index left out, or that is gone, is said to be so when it is read.
    for path in (typed_path(image), typed_path(collection.folder / image)):
        found = collection.photograph(path)
        if found or path.is_file():
            return found or path
    raise StudyError(
        f"{image}: no such file, nor a photograph of {collection.folder}; name an image file"
    )
