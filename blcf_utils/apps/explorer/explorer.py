"""Search by hand: a query image with a box, the settings, what they find, and why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from blcf_utils.apps.explorer.subject import Subject
from blcf_utils.apps.explorer.truth import judged, verdict
from blcf_utils.apps.photographs.collection import WithPhotograph
from blcf_utils.apps.photographs.encoder import reading_query
from blcf_utils.apps.photographs.naming import photograph_of
from blcf_utils.datasets.base import Box, Query
from blcf_utils.datasets.images import image_size
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.names import printable
from blcf_utils.ground.remembered import remembered
from blcf_utils.results.evaluation import average_precision, precision_recall, unit_ranking
from blcf_utils.search.boxes import check_box
from blcf_utils.search.query import SearchBase
from blcf_utils.search.recipes import Found, Place, Searcher

MODES = ("LS", "GS")
EXPANSIONS = ("none", "GQE", "LQE")


@dataclass(frozen=True)
class Knobs:
    """How to search.

    Attributes:
        coding: layer and codebook, one of the subject's.
        weighting: how much each position of a database image counts.
        mode: ``LS`` (the box) or ``GS`` (the whole image).
        rerank: whether the first images are re-ranked by their best window.
        expansion: ``none``, ``GQE`` or ``LQE``.
        top: how many results are shown.
    """

    coding: str
    weighting: str = "None"
    mode: str = "LS"
    rerank: bool = False
    expansion: str = "none"
    top: int = 11

    @property
    def recipe(self) -> str:
        """The search recipe, such as ``LS + R + LQE``."""
        steps = [self.mode, *(["R"] if self.rerank else [])]
        return " + ".join(steps + ([self.expansion] if self.expansion != "none" else []))


@dataclass(frozen=True)
class Hit(Place):
    """One result: where an image shows the query, and what is known of that image.

    Attributes:
        rank: from 1; the query's own image is not counted.
        name: of its file.
        size: its (width, height) in pixels.
        verdict: ``relevant``, ``not relevant``, ``junk``, or empty where nothing is known.
    """

    rank: int
    name: str
    size: tuple[int, int]
    verdict: str


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        query: image, box, and what is known to be relevant.
        knobs: how it was searched.
        hits: the first results.
        ap: average precision, or None where nothing is known.
        curve: (precision, recall) along the ranking, or None.
        found: ranking, histogram, windows and seconds.
        base: what was searched.
    """

    query: Query
    knobs: Knobs
    hits: tuple[Hit, ...]
    ap: float | None
    curve: tuple[np.ndarray, np.ndarray] | None
    found: Found
    base: SearchBase = field(repr=False)

    def first(self, verdict: str) -> int:
        """Return the first image shown that is ``relevant`` or ``not relevant``.

        Where none is, the first of all for ``relevant`` and the last for the other.
        """
        images = [hit.image for hit in self.hits if hit.verdict == verdict]
        return (images or [self.hits[-(verdict != "relevant")].image])[0]


class Explorer:
    """Searches a subject by hand; its answer follows every change.

    Attributes:
        subject: what is searched.
        query: image and box; :meth:`ask` changes it.
        knobs: how it is searched; :meth:`turn` changes it.
    """

    def __init__(self, subject: Subject, **knobs):
        self.subject, self.knobs = subject, Knobs(subject.codings[0])
        self._answer = lru_cache(maxsize=4)(self._search)
        self.turn(**knobs)
        dataset = subject.dataset
        if dataset.queries:
            self.ask_query(dataset.queries[0].id)
        else:
            self._ask_first(dataset.images)

    def turn(self, **knobs) -> Explorer:
        """Change knobs by name.

        Raises:
            StudyError: an unknown knob or value.
        """
        allowed = {
            "coding": self.subject.codings,
            "weighting": self.subject.weightings,
            "mode": MODES,
            "expansion": EXPANSIONS,
        }
        names = [one.name for one in fields(Knobs)]
        for name, value in knobs.items():
            if name not in names:
                raise known("knob", name, names)
            if value not in allowed.get(name, (value,)):
                raise known(name, value, allowed[name])
        self.knobs = replace(self.knobs, **knobs)
        return self

    def ask(self, image: Path | int | str, box: Box | None = None) -> Explorer:
        """Choose the query image, by its number or the path of any image, and its box.

        Raises:
            StudyError: no such image, one that was changed, or a box without area in it.
        """
        path, dataset = self._path(image), self.subject.dataset
        box = None if box is None else tuple(box) or None
        with reading_query(path):
            size = image_size(path, exif_orientation=dataset.exif_orientation)
        self.subject.check_unchanged(path)
        check_box(box, size)
        self.query = judged(dataset, path, box)
        return self

    def _ask_first(self, images: Sequence[Path]) -> None:
        """Choose the first image that can be searched with: some may be gone by now."""
        for path in images[:-1]:
            with suppress(StudyError):
                self.ask(path)
                return
        self.ask(images[-1])

    def ask_query(self, name: str) -> Explorer:
        """Choose a query of the dataset by its id."""
        queries = {query.id: query for query in self.subject.dataset.queries}
        if name not in queries:
            raise known(f"query of {self.subject.title}", name, queries)
        return self.ask(queries[name].image, queries[name].box)

    def draw(self, box: Box | None) -> Explorer:
        """Change the box only; None for the whole image."""
        return self.ask(self.query.image, box)

    def _path(self, image: Path | int | str) -> Path:
        dataset = self.subject.dataset
        if not isinstance(image, int | np.integer):
            return photograph_of(dataset, image)
        last = len(dataset.all_images) - 1
        if not 0 <= image <= last:
            raise StudyError(
                f"{self.subject.title}: expected an image from 0 to {last}, found {image}"
            )
        return dataset.all_images[image]

    @property
    def answer(self) -> Answer:
        """What the knobs find for the query.

        Raises:
            StudyError: the query image does not decode, or is too small for the network.
        """
        return self._answer(self.query, self.knobs)

    def warm(self) -> Explorer:
        """Run every kind of step once, so that no visitor waits until kernels are loaded."""
        for steps in ({"mode": "LS", "rerank": True, "expansion": "LQE"}, {"expansion": "GQE"}):
            self._search(self.query, replace(self.knobs, **steps))
        return self

    def _search(self, query: Query, knobs: Knobs) -> Answer:
        base, profile = self._base(query.image, knobs), self.subject.profile
        searcher = Searcher(base, profile.reranking, profile.expansion)
        found = searcher.run(knobs.recipe, query)
        ap = curve = None
        if query.positives:
            units = unit_ranking(base.dataset, found.ranking.images)
            judgement = units, query.positives, query.junk
            ap = average_precision(*judgement, base.dataset.protocol.ap)
            curve = precision_recall(*judgement)
        places = searcher.places(query, found, knobs.top)
        hits = tuple(_hit(base, query, rank, place) for rank, place in enumerate(places, 1))
        return Answer(query, knobs, hits, ap, curve, found, base)

    def _base(self, image: Path, knobs: Knobs) -> SearchBase:
        """Return what is searched, with the query's image among its images."""
        base = self.subject.base(knobs.coding, knobs.weighting)
        if image in base.dataset.image_index:
            return base
        asked = (*base.dataset.queries, Query("explored", image, None, ()))
        maps = WithPhotograph(base.maps, *self._encoded(knobs.coding, image))
        return replace(base, dataset=replace(base.dataset, queries=asked), maps=maps)

    @remembered
    def _encoded(self, coding: str, image: Path) -> tuple[np.ndarray, tuple[int, int]]:
        with reading_query(image):
            return self.subject.encoder(coding).encode(image)

    def contributions(self, image: int) -> pd.DataFrame:
        """Return what each shared word adds to the cosine of an image and the searched histogram.

        One row a word, the largest first: ``contribution`` (their sum is the cosine), how many
        cells hold it ``in query`` and ``in image``.
        """
        answer = self.answer
        base, factors = answer.base, answer.base.index.factors
        (words, values), (held, weights) = answer.found.histogram, base.histogram(image)
        if factors is not None:
            values, weights = _unit(values * factors[words]), _unit(weights * factors[held])
        shared, first, second = np.intersect1d(words, held, return_indices=True)
        query_words, cells = base.regions(answer.query, answer.found.mode)[0]
        image_words = base.maps.map(image)
        frame = pd.DataFrame(
            {
                "word": shared,
                "contribution": values[first] * weights[second],
                "in query": [int((query_words[cells] == word).sum()) for word in shared],
                "in image": [int((image_words == word).sum()) for word in shared],
            }
        )
        return frame.sort_values("contribution", ascending=False, kind="stable", ignore_index=True)


def _hit(base: SearchBase, query: Query, rank: int, place: Place) -> Hit:
    name = printable(base.dataset.images[place.image].name)
    size = tuple(base.maps.sizes[place.image].tolist())
    judgement = verdict(query, base.dataset.unit_of(place.image))
    return Hit(**vars(place), rank=rank, name=name, size=size, verdict=judgement)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.sqrt((values * values).sum())), 1e-12)
