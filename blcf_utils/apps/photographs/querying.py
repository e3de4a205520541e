"""Search an indexed folder from the command line or from Python."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from blcf_utils.apps.photographs.collection import Collection, WithPhotograph
from blcf_utils.apps.photographs.encoder import reading_query
from blcf_utils.apps.photographs.naming import photograph_of
from blcf_utils.apps.photographs.sheet import MOST, check_sheet, write_sheet
from blcf_utils.datasets.base import Box, Query
from blcf_utils.datasets.files import file_identity
from blcf_utils.datasets.images import image_size
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable
from blcf_utils.ground.paths import absolute
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
    sheet: Path | str | None = None,
) -> list[Result]:
    """Return the photographs of an indexed folder that show what a box of an image shows.

    Args:
        folder: as given to ``index_folder``.
        image: a photograph of the folder (it is left out of its results), or any other file.
        box: (x1, y1, x2, y2) in pixels, or as text; None or blank for the whole image.
        recipe: steps of ``blcf_utils.search.recipes``.
        weighting: one that the folder was indexed with.
        top: how many results.
        sheet: where a contact sheet of query and results is written; none if None.

    Raises:
        StudyError: the folder is not indexed, the image does not decode or was changed since, a
            box outside it, an unknown recipe or weighting, a sheet that cannot be written.
    """
    if sheet is not None:
        sheet = absolute(sheet)
        check_sheet(sheet)
    collection = Collection(folder)
    base = collection.base(weighting)
    path = photograph_of(base.dataset, image)
    if sheet is not None and file_identity(sheet) in {file_identity(path), *base.dataset.by_file}:
        raise StudyError(f"{sheet}: is a photograph; name another file for the sheet")
    box = read_box(box) if isinstance(box, str) else box
    with reading_query(path):
        size = image_size(path, exif_orientation=True)
    collection.check_unchanged(path)
    check_box(box, size)
    query = Query("query", path, box, ())
    if path not in base.dataset.image_index:
        dataset = replace(base.dataset, queries=(*base.dataset.queries, query))
        with reading_query(path):
            maps = WithPhotograph(base.maps, *collection.encoder.encode(path))
        base = replace(base, dataset=dataset, maps=maps)
    profile = collection.profile
    searcher = Searcher(base, profile.reranking, profile.expansion)
    found = searcher.run(recipe, query)
    places = searcher.places(query, found, top)
    results = [
        Result(
            rank,
            collection.names[place.image],
            place.score,
            tuple(round(edge, 1) for edge in place.box),
        )
        for rank, place in enumerate(places, 1)
    ]
    if sheet is not None:
        if len(results) > MOST:
            raise StudyError(f"{sheet}: a sheet shows at most {MOST} results; lower top")
        shown = [
            (
                f"{one.rank}. {one.score:.3f}\n{one.photograph}",
                collection.thumbnail(place.image),
                tuple(base.maps.sizes[place.image].tolist()),
                one.box,
            )
            for one, place in zip(results, places, strict=True)
        ]
        with reading_query(path):
            write_sheet(sheet, (path, box), shown)
    return results


def results_as_json(results: list[Result]) -> str:
    """Return results as a JSON list of objects, in ASCII, which every output can write.

    A byte of a name that is not UTF-8 is the escaped character that Python reads it as.
    """
    return json.dumps([asdict(one) for one in results], indent=1)


def results_as_text(results: list[Result]) -> str:
    """Return results as lines: rank, score, photograph, box."""
    lines = []
    for one in results:
        box = ",".join(f"{value:.0f}" for value in one.box)
        lines.append(f"{one.rank:3}  {one.score:.4f}  {printable(one.photograph)}  {box}")
    return "\n".join(lines)
