"""Search recipes: every row of the search table as a chain of steps, and a reader's own.

``LS + R + LQE`` reads: local search, spatial re-ranking, local query expansion. A step may change
its settings in brackets: ``GS + R(images=50) + GQE(images=5, alpha=3)``.

| step | what it does |
|---|---|
| GS, LS | search with all words of the query image, or with those of its box |
| R | re-rank the best images by their best window |
| GQE | search again with the average of the query and the best whole images |
| LQE | search again with the average of the query's box and the best images' windows |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import yaml
from pydantic import ValidationError

from blcf_utils.config.profile import ExpansionConfig, RerankingConfig
from blcf_utils.datasets.base import Box, Query
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import Config
from blcf_utils.search.boxes import Mode
from blcf_utils.search.expansion import expand_query
from blcf_utils.search.query import Ranking, SearchBase, region_histogram
from blcf_utils.search.reranking import region_query, rerank
from blcf_utils.search.windows import Window, window_box
from blcf_utils.words.histograms import Sparse

# The rows of table t02, in its order.
RECIPES = (
    "GS",
    "LS",
    "GS + R",
    "LS + R",
    "GS + GQE",
    "LS + GQE",
    "GS + R + GQE",
    "LS + R + GQE",
    "GS + R + LQE",
    "LS + R + LQE",
)


@dataclass(frozen=True)
class Step:
    """One step of a recipe, with what it changes of the profile's settings."""

    name: str
    settings: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Found:
    """What a recipe has found so far for one query.

    Attributes:
        ranking: images and scores, best first, the whole database.
        histogram: (words, weights) that were searched last.
        mode: what the recipe began with, ``gs`` or ``ls``.
        windows: image to the window (y0, y1, x0, x1) in cells in which re-ranking found the query;
            empty without re-ranking.
        seconds: of all its steps, without encoding the query's image.
    """

    ranking: Ranking
    histogram: Sparse
    mode: Mode
    windows: dict[int, Window]
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where an image shows the query.

    Attributes:
        image: its number.
        score: what it is ranked by.
        box: (x1, y1, x2, y2) in pixels; the whole image where no window was compared.
    """

    image: int
    score: float
    box: Box


def parse_recipe(text: str) -> tuple[Step, ...]:
    """Read a recipe such as ``LS + R(images=50) + LQE``.

    Raises:
        StudyError: an unknown step, a first step other than GS or LS, or one of these later on.
    """
    parts = [part.strip() for part in re.split(r"\+(?![^(]*\))", text)]
    steps = tuple(_parse_step(part, text) for part in parts)
    return _checked(steps, text)


def _checked(steps: tuple[Step, ...], text: str) -> tuple[Step, ...]:
    searches = [step.name in ("GS", "LS") for step in steps]
    if not any(searches[:1]) or any(searches[1:]):
        raise StudyError(
            f"recipe {text!r}: expected GS or LS first and only there, then any of R, GQE and LQE"
        )
    return steps


def _parse_step(part: str, text: str) -> Step:
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", part)
    if not match or match[1].upper() not in STEPS:
        raise StudyError(
            f"recipe {text!r}: unknown step {part!r}: expected one of {', '.join(sorted(STEPS))}"
        )
    misread = StudyError(
        f"recipe {text!r}: expected settings as in R(images=50, aspect=0.4), found {part!r}"
    )
    try:
        settings = yaml.safe_load("{" + (match[2] or "").replace("=", ": ") + "}")
    except yaml.YAMLError:
        raise misread from None
    # Steps are keys of what was found: what can be hashed only.
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    simple = [v if isinstance(v, tuple) else (v,) for v in frozen.values()]
    if not all(isinstance(k, str) for k in frozen) or any(
        isinstance(part, list | dict) for value in simple for part in value
    ):
        raise misread
    return Step(match[1].upper(), tuple(frozen.items()))


def _configured(config: Config, step: Step) -> Config:
    """Return the settings of a step: the profile's, with the recipe's changes."""
    try:
        return type(config)(**{**config.model_dump(), **dict(step.settings)})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden" and not config.model_dump():
            raise StudyError(
                f"{step.name}: expected no settings, found {first['loc'][0]}; give them to R, GQE "
                "or LQE"
            ) from None
        if first["type"] == "extra_forbidden":
            raise known(f"setting of {step.name}", first["loc"][0], config.model_dump()) from None
        raise StudyError(f"{step.name}: {first['loc'][0]}: {first['msg'].lower()}") from None


class Searcher:
    """Runs recipes on one dataset.

    Args:
        base: dataset, assignment maps, inverted file and how queries are read.
        reranking, expansion: the settings of R, and of GQE and LQE.
    """

    def __init__(self, base: SearchBase, reranking: RerankingConfig, expansion: ExpansionConfig):
        self.base, self.reranking, self.expansion = base, reranking, expansion

    def run(
        self,
        recipe: str | Sequence[Step],
        query: Query,
        augment: bool = False,
        done: dict[tuple[Step, ...], Found] | None = None,
    ) -> Found:
        """Run a recipe for one query.

        Args:
            recipe: its text, or its steps.
            query: of the dataset.
            augment: whether mirrored and zoomed views of the query image join in.
            done: what earlier recipes found for the same query and views; recipes that begin
                alike share their steps through it.

        Raises:
            StudyError: a recipe that cannot be read, or a query whose image was left out.
        """
        named = isinstance(recipe, str)
        steps = parse_recipe(recipe) if named else _checked(tuple(recipe), str(recipe))
        done = {} if done is None else done
        found = None
        for end, step in enumerate(steps, 1):
            if steps[:end] not in done:
                started = perf_counter()
                before = found.seconds if found else 0.0
                found = STEPS[step.name](self, step, query, augment, found)
                found = replace(found, seconds=before + perf_counter() - started)
                done[steps[:end]] = found
            found = done[steps[:end]]
        return found

    def run_all(self, recipe: str, augment: bool = False) -> dict[str, Found]:
        """Run a recipe for every query of the dataset: query id to what was found."""
        steps = parse_recipe(recipe)
        queries = progress(self.base.dataset.queries, label=f"search {recipe}", unit="query")
        return {query.id: self.run(steps, query, augment) for query in queries}

    def _search(self, histogram: Sparse, mode: Mode) -> Found:
        return Found(Ranking(*self.base.index.search(*histogram)), histogram, mode, {}, 0.0)

    def _start(self, step: Step, query: Query, augment: bool, found: None) -> Found:
        _configured(_NoSettings(), step)
        mode: Mode = "gs" if step.name == "GS" else "ls"
        return self._search(region_histogram(self.base.regions(query, mode, augment)), mode)

    def rerank(
        self, query: Query, found: Found, augment: bool = False, **settings: object
    ) -> Found:
        """Re-rank the first images of what was found; ``settings`` change the profile's."""
        return self._rerank(Step("R", tuple(settings.items())), query, augment, found)

    def places(self, query: Query, found: Found, top: int) -> list[Place]:
        """Return the first images and where each shows the query; the query's own is left out.

        Windows are those of re-ranking where it looked; in other images they are searched now,
        and the order is kept.
        """
        images = found.ranking.images[: top + 1].tolist()
        windows = found.windows
        if any(image not in windows for image in images):
            windows = self.rerank(query, found, images=top + 1).windows | windows
        own, maps, places = self.base.dataset.image_index.get(query.image), self.base.maps, []
        for image, score in zip(images, found.ranking.scores[: top + 1].tolist(), strict=True):
            if image != own:
                size, box = maps.sizes[image], (0.0, 0.0, *map(float, maps.sizes[image]))
                if image in windows:
                    box = window_box(windows[image], maps.shapes[image], size)
                places.append(Place(image, score, box))
        return places[:top]

    def _rerank(self, step: Step, query: Query, augment: bool, found: Found) -> Found:
        config = _configured(self.reranking, step)
        mode = "ls" if config.query == "box" else found.mode
        base = self.base
        region = region_query(base.regions(query, mode, augment), base.query_size(query))
        localised = rerank(
            found.ranking, region, base.maps, config, base.weights, base.index.factors
        )
        return replace(found, ranking=localised.ranking, windows=localised.cells)

    def _expand_global(self, step: Step, query: Query, augment: bool, found: Found) -> Found:
        config = _configured(self.expansion, step)
        images = found.ranking.images[: config.images]
        histograms = [self.base.histogram(i) for i in images]
        return self._expanded(found, found.histogram, histograms, config)

    def _expand_local(self, step: Step, query: Query, augment: bool, found: Found) -> Found:
        config = _configured(self.expansion, step)
        images = found.ranking.images[: config.images]
        windows = found.windows
        if any(i not in windows for i in images):  # without R the best images are only localised
            windows = self.rerank(query, found, augment, images=config.images).windows | windows
        histograms = [self.base.histogram(i, windows.get(i)) for i in images]
        box = region_histogram(self.base.regions(query, "ls", augment))
        return self._expanded(found, box, histograms, config)

    def _expanded(self, found, histogram, histograms, config: ExpansionConfig) -> Found:
        if config.images == 0:
            return found
        scores = found.ranking.scores
        return self._search(expand_query(histogram, histograms, scores, config), found.mode)


class _NoSettings(Config):
    """GS and LS have none."""


STEPS: dict[str, Callable[[Searcher, Step, Query, bool, Found | None], Found]] = {
    "GS": Searcher._start,
    "LS": Searcher._start,
    "R": Searcher._rerank,
    "GQE": Searcher._expand_global,
    "LQE": Searcher._expand_local,
}
