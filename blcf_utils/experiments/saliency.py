"""Table x03: how good the saliency models are as such, and what they cost."""

from __future__ import annotations

import contextlib
import time

import cv2
import numpy as np
import pandas as pd

from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage, read_image
from blcf_utils.experiments.weighting import weighting_gains
from blcf_utils.ground.cores import pool_threads
from blcf_utils.ground.mapping import core_pool, threads_each
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of
from blcf_utils.results.tables import Measurement
from blcf_utils.saliency.models import MODELS
from blcf_utils.saliency.object_masks import object_masks
from blcf_utils.saliency.quality import judge
from blcf_utils.saliency.weighting import NONE
from blcf_utils.search.boxes import Mode
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study

TABLE = "x03_saliency_quality"
TIMED_IMAGES = 5
JUDGED_IMAGES = 300
# Saliency is blurred by nature: nothing is lost at this size, and all is judged ten times faster.
JUDGED_SIDE = 160
LEAST_PIXELS = 400  # a hundred fixations must leave most of an image unlooked at
WEIGHTED = {"sum pooling": "t08_saliency_sum_pooling", "words": "t09_saliency_blcf"}
MEASURES = ("CC", "SIM", "KL", "NSS", "AUC-Judd")


def saliency_table(study: Study) -> pd.DataFrame:
    """Judge every weighting as a prediction of where the instance is (table x03).

    The visible part of the instance stands in for where people look: its blurred mask for the
    density of fixations, points drawn from it for the fixations (rendered sets have exact masks, of
    photographs the known boxes are taken). A mean over those images, at most 300 of a dataset and
    160 pixels long, with each measure of :func:`~blcf_utils.saliency.quality.judge`; ``seconds per
    image`` is the median of a few images on one thread, with nothing stored.
    """
    cells = []
    for name in study.datasets:
        bench = study.open(name)
        masks = _judged_masks(bench.dataset)
        for row in bench.weightings.names():
            if row == NONE:
                continue
            why = bench.weightings.unavailable_because(row)
            status = f"not run: {why}"
            if not why and not masks:
                status = "not run: no mask or box of a database image is known"
            if why or not masks:
                cells += [Measurement(row, f"{name}/{m}", None, status) for m in MEASURES]
            else:
                cells += _quality(bench, row, masks)
            if not why and row in MODELS:
                cells += _seconds(bench, row)
    return study.results.table(TABLE, cells)


def _quality(bench: Pipeline, row: str, masks: dict[int, np.ndarray]) -> list[Measurement]:
    attention, key = bench.weightings.attention(row), bench.weightings.weights(row).key

    def judged(image: int) -> dict[str, float]:
        mask = masks[image]
        saliency = cv2.resize(attention(image), mask.shape[::-1], interpolation=cv2.INTER_AREA)
        return judge(saliency, mask, seed=image)

    with core_pool(pool_threads()) as pool:
        found = progress(pool.map(judged, masks), label=f"judging {row}", total=len(masks))
        scores = dict(zip(_names(bench.dataset, list(masks)), found, strict=True))
    digest = digest_of([bench.config_digest(), key])
    cells = []
    for measure in MEASURES:
        values = {image: float(of_image[measure]) for image, of_image in scores.items()}
        mean = float(np.mean(list(values.values())))
        cells.append(
            Measurement(
                row, f"{bench.name}/{measure}", mean, config_digest=digest, per_query=values
            )
        )
    return cells


def _names(dataset: Dataset, images: list[int]) -> list[str]:
    """Return the names of images, with their folders where the files' names are not unique."""
    paths = [dataset.images[i] for i in images]
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    return [
        path.relative_to(dataset.root).as_posix()
        if path.is_relative_to(dataset.root)
        else str(path)
        for path in paths
    ]


def _judged_masks(dataset: Dataset) -> dict[int, np.ndarray]:
    """Return small masks (h, w) bool of some images; without those that say nothing."""
    read = object_masks(dataset)
    masks = {}
    for image in list(read)[:: max(1, -(-len(read) // JUDGED_IMAGES))]:
        share = read[image]().astype(np.float32)
        scale = min(1, JUDGED_SIDE / max(share.shape))
        size = [max(1, round(side * scale)) for side in share.shape[::-1]]
        share = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
        # A thing smaller than a pixel keeps its brightest one.
        mask = share >= min(0.5, share.max())
        if share.any() and not mask.all() and mask.size >= LEAST_PIXELS:
            masks[image] = mask
    return masks


def _seconds(bench: Pipeline, row: str) -> list[Measurement]:
    if row in bench.profile.weighting.folders:  # somebody else took the time
        return []
    model = bench.weightings.model(row)
    images = _readable(bench.dataset)
    seconds = []
    with threads_each(1):
        model.predict(images[0])  # compiles, warms up
        for image in images:
            started = time.perf_counter()
            model.predict(image)
            seconds.append(time.perf_counter() - started)
    digest = digest_of([bench.config_digest(), model.document])
    value = float(np.median(seconds))
    return [Measurement(row, f"{bench.name}/seconds per image", value, config_digest=digest)]


def _readable(dataset: Dataset) -> list[np.ndarray]:
    """Return the first few images that decode."""
    images: list[np.ndarray] = []
    for path in dataset.images:
        with contextlib.suppress(UnreadableImage):
            images.append(read_image(path, exif_orientation=dataset.exif_orientation))
        if len(images) == TIMED_IMAGES:
            break
    return images


def quality_against_map(study: Study, measure: str = "CC", mode: Mode = "gs") -> pd.DataFrame:
    """Return saliency quality beside the mAP that it gains over no weighting.

    Args:
        study: a study whose tables x03, t08 and t09 are written.
        measure: one of table x03.
        mode: ``gs`` or ``ls``.

    Returns:
        Columns ``measure``, gain, low and high (paired bootstrap interval); index (method,
        dataset, weighting), where method is ``sum pooling`` or ``words``.
    """
    table = study.results.read(TABLE)
    judged = table[(table["status"] == "measured") & table["column"].str.endswith(f"/{measure}")]
    keys = [judged["column"].str.removesuffix(f"/{measure}"), judged["row"]]
    quality = pd.Series(judged["measured"].astype(float).to_numpy(), keys, name=measure)
    quality.index.names = ("dataset", "weighting")
    gains = {method: weighting_gains(study, of, mode) for method, of in WEIGHTED.items()}
    both = pd.concat(gains, names=["method"]).join(quality, how="inner")
    return both[[measure, "gain", "low", "high"]]
