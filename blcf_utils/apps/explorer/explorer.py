"""The explorer without its looks: a question, the knobs, the answer, and the reasons for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from blcf_utils.apps.explorer.subject import Subject
from blcf_utils.apps.explorer.truth import Truth, known_truth
from blcf_utils.apps.photographs.collection import WithPhotograph
from blcf_utils.apps.photographs.encoder import reading_query
from blcf_utils.datasets.base import Box, Dataset, Query
from blcf_utils.datasets.images import image_size
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.results.evaluation import average_precision, precision_recall, unit_ranking
from blcf_utils.search.boxes import check_box
from blcf_utils.search.query import SearchBase
from blcf_utils.search.recipes import Found, Searcher
from blcf_utils.search.windows import window_box

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
class Question:
    """A query: an image file, its size (width, height) in pixels, a box or None for all of it."""

    path: Path
    size: tuple[int, int]
    box: Box | None = None


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        rank: from 1; the query's own image is not counted.
        image: its number.
        score: what it is ranked by.
        box: where the query was found, (x1, y1, x2, y2) in pixels of the image.
        verdict: ``relevant``, ``not relevant``, ``junk``, or empty where nothing is known.
        name: of the file.
    """

    rank: int
    image: int
    score: float
    box: Box
    verdict: str
    name: str


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        question, knobs: of the search.
        hits: the first results.
        truth: what was known to be relevant.
        ap: average precision, or None.
        curve: (precision, recall) along the ranking, or None.
        seconds: of the search itself.
        found: ranking, histogram and windows.
        base: what was searched.
        query: as the searcher was asked.
    """

    question: Question
    knobs: Knobs
    hits: tuple[Hit, ...]
    truth: Truth | None
    ap: float | None
    curve: tuple[np.ndarray, np.ndarray] | None
    seconds: float
    found: Found
    base: SearchBase = field(repr=False)
    query: Query = field(repr=False)

    def first(self, verdict: str) -> int:
        """Return the first image shown that is ``relevant`` or ``not relevant``.

        Where none is, the first of all for ``relevant`` and the last for the other.
        """
        images = [hit.image for hit in self.hits if hit.verdict == verdict]
        return (images or [self.hits[-(verdict != "relevant")].image])[0]


class Explorer:
    """Answers questions about a subject; each change gives a new answer.

    Attributes:
        subject: what is searched.
        question: image and box; :meth:`ask` changes it.
        knobs: how it is searched; :meth:`turn` changes it.
    """

    def __init__(self, subject: Subject, **knobs):
        self.subject = subject
        self.knobs = Knobs(subject.codings[0])
        self._encoded: dict[tuple[str, Path], tuple[np.ndarray, tuple[int, int]]] = {}
        self.turn(**knobs)
        dataset = subject.dataset
        if dataset.queries:
            self.ask_query(dataset.queries[0].id)
        else:
            self.ask(dataset.images[0])

    def warm(self) -> Explorer:
        """Run every kind of step once, so that no visitor waits until kernels are loaded."""
        knobs = self.knobs
        for chosen in ({"mode": "LS", "rerank": True, "expansion": "LQE"}, {"expansion": "GQE"}):
            self.turn(**chosen).answer  # noqa: B018 - computed when it is asked for
        self.turn(**{name: getattr(knobs, name) for name in Knobs.__dataclass_fields__})
        return self

    def turn(self, **knobs) -> Explorer:
        """Change knobs by name.

        Raises:
            StudyError: an unknown knob or value.
        """
        unknown = set(knobs) - set(Knobs.__dataclass_fields__)
        if unknown:
            raise known("knob", unknown.pop(), Knobs.__dataclass_fields__)
        allowed: dict[str, Sequence] = {
            "coding": self.subject.codings,
            "weighting": self.subject.weightings,
            "mode": MODES,
            "expansion": EXPANSIONS,
        }
        for name, values in allowed.items():
            if name in knobs and knobs[name] not in values:
                raise known(name, knobs[name], values)
        self.knobs = replace(self.knobs, **knobs)
        self.__dict__.pop("answer", None)
        return self

    def ask(self, image: Path | int | str, box: Box | None = None) -> Explorer:
        """Choose the query image, by its path, its number or its file name, and its box.

        Raises:
            StudyError: no such image, or a box without area in it.
        """
        path = self._path(image)
        with reading_query(path):
            size = image_size(path, exif_orientation=self.subject.dataset.exif_orientation)
        check_box(box, size)
        self.question = Question(path, size, box)
        self.__dict__.pop("answer", None)
        return self

    def ask_query(self, name: str) -> Explorer:
        """Choose a query of the dataset by its id."""
        queries = {query.id: query for query in self.subject.dataset.queries}
        if name not in queries:
            raise known(f"query of {self.subject.title}", name, queries)
        return self.ask(queries[name].image, queries[name].box)

    def draw(self, box: Box | None) -> Explorer:
        """Change the box only; None for the whole image."""
        return self.ask(self.question.path, box)

    def _path(self, image: Path | int | str) -> Path:
        dataset = self.subject.dataset
        if isinstance(image, int | np.integer):
            if not 0 <= image < len(dataset.all_images):
                raise StudyError(
                    f"{self.subject.title}: expected an image from 0 to "
                    f"{len(dataset.all_images) - 1}, found {image}"
                )
            return dataset.all_images[image]
        if isinstance(image, str) and not Path(image).is_file():
            named = [path for path in dataset.all_images if path.name == image]
            if not named:
                raise StudyError(
                    f"{image}: no such file, nor an image of that name in {self.subject.title}"
                )
            return named[0]
        # A path to an image of the dataset is that image, however it is written.
        path = Path(image).expanduser()
        resolved = path.resolve()
        return resolved if resolved in dataset.image_index else path

    @cached_property
    def answer(self) -> Answer:
        """What the knobs find for the question."""
        knobs, question = self.knobs, self.question
        base = self._base(self.subject.base(knobs.coding, knobs.weighting))
        truth = known_truth(self.subject.dataset, question.path, question.box)
        positives, junk = (truth.positives, truth.junk) if truth else ((), ())
        query = Query("explored", question.path, question.box, positives, junk)
        searcher = self.subject.searcher(base)
        started = perf_counter()
        found = searcher.run(knobs.recipe, query)
        seconds = perf_counter() - started
        units = unit_ranking(self.subject.dataset, found.ranking.images)
        ap = curve = None
        if truth:
            protocol = self.subject.dataset.protocol.ap
            ap = average_precision(units, positives, junk, protocol)
            curve = precision_recall(units, positives, junk)
        hits = self._hits(searcher, query, found, truth)
        return Answer(question, knobs, hits, truth, ap, curve, seconds, found, base, query)

    def _base(self, base: SearchBase) -> SearchBase:
        """Return the base with the query's image among its images."""
        path = self.question.path
        if path in base.dataset.image_index:
            return base
        key = (self.knobs.coding, path)
        if key not in self._encoded:
            with reading_query(path):
                self._encoded[key] = self.subject.encoder(self.knobs.coding).encode(path)
        words, size = self._encoded[key]
        asked = Query("explored", path, None, ())
        dataset = replace(base.dataset, queries=(*base.dataset.queries, asked))
        return replace(base, dataset=dataset, maps=WithPhotograph(base.maps, words, size))

    def _hits(
        self, searcher: Searcher, query: Query, found: Found, truth: Truth | None
    ) -> tuple[Hit, ...]:
        dataset: Dataset = self.subject.dataset
        own = dataset.image_index.get(query.image)
        images = [int(i) for i in found.ranking.images[: self.knobs.top + 1] if i != own]
        images = images[: self.knobs.top]
        windows = searcher.places(query, found, self.knobs.top + 1)
        score = dict(zip(found.ranking.images.tolist(), found.ranking.scores.tolist(), strict=True))
        maps = searcher.base.maps
        return tuple(
            Hit(
                rank,
                image,
                float(score[image]),
                _place(windows.get(image), maps.shapes[image], maps.sizes[image]),
                truth.verdict(dataset.unit_of(image)) if truth else "",
                dataset.images[image].name,
            )
            for rank, image in enumerate(images, 1)
        )

    def contributions(self, image: int) -> pd.DataFrame:
        """Return what each shared word adds to an image's score of the first search.

        One row a word, the largest first: ``contribution`` (their sum is the cosine), how many
        cells hold it ``in query`` and ``in image``.
        """
        answer = self.answer
        base, (words, values) = answer.base, answer.found.histogram
        held, weights = base.histogram(image)
        factors = base.index.factors
        if factors is not None:
            values, weights = (_unit(v * factors[w]) for w, v in ((words, values), (held, weights)))
        shared, first, second = np.intersect1d(words, held, return_indices=True)
        query_words, cells = base.regions(answer.query, _mode(answer))[0]
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


def _mode(answer: Answer) -> str:
    return answer.knobs.mode.lower()


def _unit(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.sqrt((values * values).sum())), 1e-12)


def _place(window, shape, size) -> Box:
    """Return a window in pixels; the whole image where there is none."""
    if window is None:
        return (0.0, 0.0, float(size[0]), float(size[1]))
    return window_box(window, shape, size)
