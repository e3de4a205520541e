"""The compared methods: how each turns a feature map into a vector, or into a set of vectors.

A method is an entry of ``METHODS``. It learns from a teacher dataset, then describes images by a
``FittedMethod``: pooled descriptors and their post-processing (L2, PCA whitening, L2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from blcf_utils.features.networks.weights import read_state
from blcf_utils.features.rows import normalise_rows
from blcf_utils.features.stored import Features
from blcf_utils.ground.artefacts import Stage
from blcf_utils.pooling.cam import cam_descriptor, cam_pool, predicted_classes
from blcf_utils.pooling.compared.teacher import Pool, TeacherData
from blcf_utils.pooling.crow import crow_pool
from blcf_utils.pooling.dense_codebook import learn_dense_codebook
from blcf_utils.pooling.gem import gem_pool
from blcf_utils.pooling.mac import mac_pool
from blcf_utils.pooling.mop import MOP_DIMENSIONS, learn_mop, mop_pool, read_books, save_books
from blcf_utils.pooling.netvlad import netvlad_alpha, netvlad_parameters, netvlad_pool
from blcf_utils.pooling.neural_codes import encode, neural_codes
from blcf_utils.pooling.patches import patch_maxima, patch_windows, window_grid
from blcf_utils.pooling.rmac import region_maxima, rmac_pool
from blcf_utils.pooling.spoc import spoc_pool
from blcf_utils.pooling.sum_pooling import sum_pool
from blcf_utils.pooling.vlad import vlad_pool
from blcf_utils.search.windows import Window
from blcf_utils.words.whitening import Whitening

DATABASE_LEVELS, QUERY_LEVELS = 4, 3  # of the patch grids (Razavian et al., 2014)
MOP_CODEBOOK = Stage("mop-codebook", version=1)
_MOP_TEACHERS = 300  # images whose patches teach MOP's words


@dataclass(frozen=True)
class FittedMethod:
    """A method that has learned what it needs.

    Attributes:
        pool: maps, weights, window to raw descriptors (B, D), or (B, P, D) for sets.
        finish: raw descriptors (N, D) to unit vectors (N, D').
        document: what determines them, as JSON values.
        query_pool: the same as ``pool`` for queries, where they are described otherwise.
        regions: region vectors (R, C) of one map, which ``region_finish`` makes unit vectors and
            whose sum the raw descriptor is; None where a method is no sum over regions.
        region_finish: (N, C) to (N, D).
    """

    pool: Pool
    finish: Callable[[np.ndarray], np.ndarray]
    document: dict = field(default_factory=dict)
    query_pool: Pool | None = None
    regions: Pool | None = None
    region_finish: Callable[[np.ndarray], np.ndarray] | None = None

    def describe_windows(self, features: Features, windows: dict[int, Window]) -> np.ndarray:
        """Return the unit vector of one window of each image, (n, D); zeros for a left-out image.

        All regions are finished at once: one product for thousands of small ones.
        """
        parts = [
            self.regions(features.map(i), None, window)
            if features.shapes[i].all()
            else np.zeros((1, features.channels), np.float32)
            for i, window in windows.items()
        ]
        starts = np.cumsum([0, *map(len, parts[:-1])])
        rows = self.region_finish(np.concatenate(parts))
        vectors = self.finish(np.add.reduceat(rows, starts, axis=0))
        vectors[[not features.shapes[i].all() for i in windows]] = 0
        return vectors

    def describe(
        self,
        maps: np.ndarray,
        weights: np.ndarray | None = None,
        box: Window | None = None,
        *,
        query: bool = False,
    ) -> np.ndarray:
        """Return unit vectors of maps: (B, D), or (B, P, D) for sets."""
        pool = self.query_pool if query and self.query_pool else self.pool
        raw = pool(maps, weights, box)
        return self.finish(raw.reshape(-1, raw.shape[-1])).reshape(*raw.shape[:-1], -1)


@dataclass(frozen=True)
class Method:
    """A registry entry.

    Attributes:
        title: for people.
        source: the paper.
        learn: from a teacher to a method that is ready.
        needs: the part of the classifier behind the backbone that it reads; empty for none.
        expansion: how its papers refine a ranking.
        given: it reads layers of its own from the weights of its row.
        crops: where its paper cuts the query's box out: of the image, or of the feature map.
    """

    title: str
    source: str
    learn: Callable[[TeacherData], FittedMethod]
    needs: Literal["", "linear", "fully_connected"] = ""
    expansion: Literal["average", "aml", "none"] = "average"
    given: bool = False
    crops: Literal["pixels", "map"] = "pixels"


def _whitened(name: str, pool: Pool, teacher: TeacherData, regions: bool | None = None, **settings):
    """Return a method whose pooled vectors are L2-normalised, whitened and normalised again."""
    by_regions = teacher.config.whiten_with == "regions" if regions is None else regions
    whitening = teacher.whitening(name, pool, settings, by_regions)
    return FittedMethod(pool, whitening.apply, {**settings, "whitening": whitening.key})


def _pooled(name: str, function: Callable) -> Callable[[TeacherData], FittedMethod]:
    def learn(teacher: TeacherData) -> FittedMethod:
        return _whitened(name, function, teacher)

    return learn


def _plain(function: Callable) -> Callable[[TeacherData], FittedMethod]:
    return lambda teacher: FittedMethod(function, normalise_rows)


def _gem(teacher: TeacherData) -> FittedMethod:
    p = teacher.config.gem_power
    return _whitened("gem", partial(gem_pool, p=p), teacher, p=p)


def region_whitening(teacher: TeacherData) -> Whitening:
    """Learn the whitening of R-MAC's region vectors."""
    options = {"levels": teacher.config.rmac_levels, "whole": teacher.config.rmac_whole}

    def pool(maps: np.ndarray, weights: np.ndarray | None, box: Window | None) -> np.ndarray:
        return region_maxima(maps, **options, weights=weights, box=box)

    return teacher.whitening("rmac", pool, options, regions=False)


def _rmac(teacher: TeacherData, whiten: bool = True) -> FittedMethod:
    options = {"levels": teacher.config.rmac_levels, "whole": teacher.config.rmac_whole}
    whitening = region_whitening(teacher) if whiten else None
    document = {**options, "whitening": whitening.key if whitening else ""}
    finish = whitening.apply if whitening else normalise_rows

    def regions(maps: np.ndarray, weights: np.ndarray | None, box: Window | None) -> np.ndarray:
        return region_maxima(maps, **options, weights=weights, box=box)

    pool = partial(rmac_pool, **options, whitening=whitening)
    return FittedMethod(pool, normalise_rows, document, regions=regions, region_finish=finish)


def _vlad(teacher: TeacherData) -> FittedMethod:
    words = teacher.config.vlad_words
    book = learn_dense_codebook(teacher.features, words, teacher.store, seed=teacher.seed)
    pool = partial(vlad_pool, centroids=book.centroids)
    return _whitened("vlad", pool, teacher, codebook=book.key)


def _vlad_plain(teacher: TeacherData) -> FittedMethod:
    words = teacher.config.vlad_words
    book = learn_dense_codebook(teacher.features, words, teacher.store, seed=teacher.seed)
    return FittedMethod(
        partial(vlad_pool, centroids=book.centroids), normalise_rows, {"codebook": book.key}
    )


def _netvlad(teacher: TeacherData) -> FittedMethod:
    words, features = teacher.config.netvlad_words, teacher.features
    book = learn_dense_codebook(features, words, teacher.store, seed=teacher.seed)
    rows = next(features.stream(features.database_rows()))
    alpha = netvlad_alpha(normalise_rows(rows), book.centroids)
    pool = partial(netvlad_pool, centroids=book.centroids, alpha=alpha)
    return _whitened("netvlad", pool, teacher, codebook=book.key)


def _neural_codes(teacher: TeacherData) -> FittedMethod:
    return _whitened("neural-codes", partial(neural_codes, head=teacher.head), teacher)


def _mop(teacher: TeacherData) -> FittedMethod:
    head, code = teacher.head, encode(teacher.head)
    words, kept = teacher.config.vlad_words, min(MOP_DIMENSIONS, teacher.config.dimensions)
    document = {**teacher.document(), "words": words, "kept": kept}

    def make(folder: Path) -> None:
        maps, seed = teacher.sample(_MOP_TEACHERS), teacher.seed
        books = learn_mop(maps, code, head.grid, words=words, dimensions=kept, seed=seed)
        save_books(folder, books)

    label = f"{teacher.features.artefact.label}-mop"
    made = teacher.store.get_or_make(MOP_CODEBOOK, label, document, make, quiet=True)
    pool = partial(mop_pool, encode=code, books=read_books(made.folder))
    # Its own windows are regions already.
    return _whitened("mop", pool, teacher, regions=False, books=made.key)


def _cut(maps: np.ndarray, box: Window | None, levels: int) -> np.ndarray:
    """Return the windows of a patch grid over a box of maps, in cells of the whole map."""
    y0, y1, x0, x1 = (0, maps.shape[-2], 0, maps.shape[-1]) if box is None else box
    windows = patch_windows((y1 - y0, x1 - x0), levels)
    return windows + np.array([y0, y0, x0, x0])


def _patch_set(teacher: TeacherData, name: str, describe: Callable) -> FittedMethod:
    def pool(
        maps: np.ndarray, weights: np.ndarray | None, box: Window | None, levels: int
    ) -> np.ndarray:
        if weights is not None:
            maps = maps * weights.reshape(-1, 1, *weights.shape[-2:])
        return describe(maps, _cut(maps, box, levels))

    every, few = (partial(pool, levels=levels) for levels in (DATABASE_LEVELS, QUERY_LEVELS))
    levels = [DATABASE_LEVELS, QUERY_LEVELS]
    ready = _whitened(name, every, teacher, regions=False, levels=levels)
    return FittedMethod(ready.pool, ready.finish, ready.document, few)


def _razavian(teacher: TeacherData) -> FittedMethod:
    return _patch_set(teacher, "razavian", partial(patch_maxima, grid=(2, 2)))


def _astounding(teacher: TeacherData) -> FittedMethod:
    head = teacher.head
    code = encode(head)

    def describe(maps: np.ndarray, windows: np.ndarray) -> np.ndarray:
        pooled = window_grid(maps, windows, (head.grid, head.grid))
        codes = code(pooled.reshape(-1, *pooled.shape[2:]))
        return codes.reshape(*pooled.shape[:2], -1)

    return _patch_set(teacher, "astounding", describe)


def class_whitening(teacher: TeacherData) -> Whitening:
    """Learn the whitening of CAM's class vectors: one class an image or region, the likeliest."""

    def pool(maps: np.ndarray, weights: np.ndarray | None, box: Window | None) -> np.ndarray:
        first = predicted_classes(maps, teacher.head, 1, box)
        return cam_pool(maps, weights, box, head=teacher.head, classes=first)[:, 0]

    by_regions = teacher.config.whiten_with == "regions"
    return teacher.whitening("cam", pool, {}, by_regions)


def _cam(teacher: TeacherData) -> FittedMethod:
    head, whitening = teacher.head, class_whitening(teacher)
    count = min(teacher.config.cam_classes, len(head.linear))

    def pool(maps: np.ndarray, weights: np.ndarray | None, box: Window | None) -> np.ndarray:
        classes = predicted_classes(maps, head, count, box)
        vectors = cam_pool(maps, weights, box, head=head, classes=classes)
        return cam_descriptor(vectors, whitening)

    return FittedMethod(pool, normalise_rows, {"classes": count, "whitening": whitening.key})


def _netvlad_trained(teacher: TeacherData) -> FittedMethod:
    state = {k: v.numpy() for k, v in read_state(teacher.layer_weights).items()}
    centroids, assignment = netvlad_parameters(state)
    pool = partial(netvlad_pool, centroids=centroids, assignment=assignment)
    digest = hashlib.sha256(teacher.layer_weights.read_bytes()).hexdigest()[:16]
    return _whitened("netvlad-trained", pool, teacher, weights=digest)


METHODS: dict[str, Method] = {
    "sum": Method(
        "sum pooling (uCroW)",
        "Babenko and Lempitsky, ICCV 2015, without its prior",
        _pooled("sum", sum_pool),
    ),
    "sum-plain": Method("sum pooling, no whitening", "the same", _plain(sum_pool)),
    "spoc": Method("SPoC", "Babenko and Lempitsky, ICCV 2015", _pooled("spoc", spoc_pool)),
    "mac": Method("MAC", "Tolias et al., ICLR 2016", _pooled("mac", mac_pool)),
    "mac-plain": Method("MAC, no whitening", "the same", _plain(mac_pool)),
    "gem": Method("GeM", "Radenovic et al., TPAMI 2019", _gem),
    "crow": Method("CroW", "Kalantidis et al., ECCV workshops 2016", _pooled("crow", crow_pool)),
    "rmac": Method("R-MAC", "Tolias et al., ICLR 2016", _rmac, expansion="aml"),
    "rmac-plain": Method(
        "R-MAC, no whitening", "the same", partial(_rmac, whiten=False), expansion="aml"
    ),
    "vlad": Method("VLAD", "Ng et al., CVPR workshops 2015", _vlad),
    "vlad-plain": Method("VLAD, not compressed", "the same", _vlad_plain),
    "netvlad": Method("NetVLAD, k-means only", "Arandjelovic et al., CVPR 2016", _netvlad),
    "netvlad-trained": Method(
        "NetVLAD, trained", "Arandjelovic et al., CVPR 2016", _netvlad_trained, given=True
    ),
    "razavian": Method(
        "patches, convolutional",
        "Razavian et al., 2016",
        _razavian,
        expansion="none",
    ),
    "astounding": Method(
        "patches, fully connected",
        "Razavian et al., CVPR workshops 2014",
        _astounding,
        needs="fully_connected",
        expansion="none",
    ),
    "neural-codes": Method(
        "Neural Codes",
        "Babenko et al., ECCV 2014",
        _neural_codes,
        needs="fully_connected",
    ),
    "mop": Method("MOP", "Gong et al., ECCV 2014", _mop, needs="fully_connected"),
    "cam": Method("CAM, offline", "Jimenez et al., BMVC 2017", _cam, needs="linear", crops="map"),
    "cam-online": Method(
        "CAM, online",
        "the same, every image described by the classes of the query",
        _cam,
        needs="linear",
        crops="map",
    ),
}
