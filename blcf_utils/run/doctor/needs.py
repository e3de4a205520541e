"""How much disk, memory and time a profile takes, predicted from counts and shapes.

The one place with this arithmetic. n is the number of images read, N that of the database, h x w
the cells of a feature map of C channels (the mean over a sample of the images' sizes), f the
interpolation, K words, D dimensions after whitening.

Disk, in bytes, of what a run keeps in the cache:

| stage | bytes |
|---|---|
| features | n h w C 2 (float16), once for each network, layer and size (below) |
| features of query views | q views h w C 2 |
| assignment maps | n h w f^2 2 (uint16), for each network that makes words |
| weights | N h w (f^2 + 1) 4 (float32) for each weighting |
| saliency maps | N pixels 0.3 (PNG, measured) for each saliency model |
| inverted files | N min(h w f^2, K) 3, weighted ones 4: an image holds no more words than cells |
| SIFT | n keypoints (128 + 16 + 2), descriptors, places and words |
| words | teachers K D 4 for each network, and K 128 4 of SIFT |
| descriptors of k-means | most of N h w D 4 (float32) of one teacher, while it learns |
| compared methods | N D 4 each; 30 patches an image for sets; N classes D 2 for CAM's classes |
| distractors | words, weights, saliency maps and vectors as above; features only if ``stored`` |

Networks, layers and sizes are the profile's own, the same at full resolution, its last layer where
compared methods read a classifier, ``compare_backbones``, the compared methods' own networks, the
frozen layers of fine-tuning (``inputs: maps``), and each fine-tuned network on the dataset it was
trained on.

Memory is that of the largest step on top of what the libraries take: k-means holds two chunks of
descriptors (float32) and three times its words; a forward pass ``batch`` times the largest pair of
arrays that a layer reads and writes; sets of patches are held whole.

Pages of mapped files, which the system takes back when it wants them, are no part of it.

Time is that of the profile's network, of k-means and of the assignment: images by the seconds of
one image (measured, by its pixels), 2 n K D operations for each iteration or assignment by the
speed of a matrix product (measured). Saliency, SIFT, rendering, training and the evaluation are not
in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.datasets.images import resized_size
from blcf_utils.datasets.views import augmented_views
from blcf_utils.features.networks.backbones import layer_names
from blcf_utils.pooling.compared.methods import DATABASE_LEVELS, METHODS
from blcf_utils.pooling.compared.rows import Row
from blcf_utils.run.doctor.datasets import Seen
from blcf_utils.saliency.models import MODELS
from blcf_utils.saliency.weighting import NONE
from blcf_utils.words.kmeans import CHUNK

# A pixel of a saliency map: 0.23 (BMS) to 0.37 (Itti-Koch) measured on photographs 400 pixels wide.
PNG_BYTES = 0.3
PATCHES = sum(level * level for level in range(1, DATABASE_LEVELS + 1))
LIBRARIES = 700e6  # what a notebook's kernel holds before it computes: 600 to 700 MB measured
RESULTS = 100e6  # tables, figures, notebooks and report
WORDS_HELD = 3  # copies of the centroids during an iteration
STREAMED, STORED = "network, distractors again for each method", "network, distractors"

# (backbone, longest side, (width, height)) -> ((C, h, w), values a layer reads and writes)
Shapes = Callable[[BackboneConfig, int, tuple[int, int]], tuple[tuple[int, int, int], int]]


@dataclass(frozen=True)
class Need:
    """Something that a run takes.

    Attributes:
        what: for people.
        amount: bytes, or seconds.
    """

    what: str
    amount: float


@dataclass(frozen=True)
class _Maps:
    """Feature maps that a run stores: whose, of which layer, at which size, of which datasets."""

    what: str
    backbone: BackboneConfig
    side: int
    datasets: tuple[Seen, ...]
    words: bool = False  # whether assignment maps are made of them
    tuned: bool = False  # whether its weights are those of fine-tuning


@dataclass(frozen=True)
class Workload:
    """What a run of a profile will do.

    Attributes:
        profile: the settings.
        seen: its datasets, as far as their counts are known.
        rows: rows of the comparison that can run.
        weightings: weightings that can run, without ``None``.
        models: how many of them look at a saliency map that is computed.
        shapes: gives the shape of feature maps.
        classes: of the classifier that CAM reads; 0 where it reads none.
        compared: datasets that join the comparison only, with their distractors.
    """

    profile: Profile
    seen: tuple[Seen, ...]
    rows: tuple[Row, ...]
    weightings: tuple[str, ...]
    models: int
    shapes: Shapes
    classes: int = 0
    compared: tuple[Seen, ...] = ()

    def disk(self) -> list[Need]:
        """Return the bytes each stage will keep in the cache, largest first."""
        profile, needs = self.profile, []
        for maps in self._stored_maps():
            size = 2 * sum(self._kept(seen) * self._values(maps, seen) for seen in maps.datasets)
            needs.append(Need(f"features {maps.what}", size))
        main = self._main()
        views = len(augmented_views(profile.augmentation))
        needs.append(
            Need(
                "features of mirrored and zoomed queries",
                2 * sum(views * s.query_images * self._values(main, s) for s in self.seen),
            )
        )
        f2 = profile.encoding.interpolate**2
        assigned = indexes = weights = 0.0
        for maps in self._stored_maps():
            if not maps.words:
                continue
            for seen in maps.datasets:
                cells = self._cells(maps, seen)
                assigned += 2 * seen.images * cells * f2
                indexes += 3 * seen.database * min(cells * f2, profile.codebook.words)
        for seen in self.seen:
            cells = self._cells(main, seen)
            assigned += 2 * views * seen.query_images * cells * f2
            kinds = len(self.weightings)
            weights += 4 * kinds * seen.database * cells * (f2 + 1)
            indexes += 4 * kinds * seen.database * min(cells * f2, profile.codebook.words)
        needs += [
            Need("assignment maps", assigned),
            Need("inverted files", indexes),
            Need("weights", weights),
            Need("saliency maps", self.models * PNG_BYTES * self._pixels()),
            Need("SIFT", profile.sift.keypoints * 146.0 * sum(s.images for s in self.seen)),
            Need("words", self._words_bytes()),
            Need("descriptors of k-means, while it learns", self._learned_bytes()),
            *self._compared(),
            *self._among_distractors(),
            Need("results", RESULTS),
        ]
        return sorted((n for n in needs if n.amount), key=lambda need: -need.amount)

    def _learned_bytes(self) -> float:
        """Return the size of the largest file that k-means reads again and again."""
        profile, main = self.profile, self._main()
        wide, keypoints = self._dimensions(main.backbone), profile.sift.keypoints
        convolutional = max((self._descriptors(main, s) for s in self._teachers()), default=0)
        sift = max((keypoints * s.database for s in self._teachers()), default=0)
        return 4 * max(
            wide * min(convolutional, profile.codebook.max_descriptors),
            128 * min(sift, profile.sift.max_descriptors),
        )

    def memory(self) -> list[Need]:
        """Return the bytes that the largest steps hold, with the libraries, largest first."""
        profile, batch = self.profile, self.profile.features.batch_size
        main, full = self._main(), self._full()
        held = (
            (profile.codebook.words, self._dimensions(main.backbone), "words"),
            (profile.sift.words, 128, "SIFT words"),
        )
        needs = [
            *(
                Need(f"k-means of {k:,} {what}", 4 * d * (2 * CHUNK + WORDS_HELD * k))
                for k, d, what in held
            ),
            Need(f"forward pass of {batch} images", self.forward(main)),
            Need(f"forward pass of {batch} images at full resolution", self.forward(full)),
        ]
        sets = [row for row in self.rows if row.method in METHODS]
        sets = [row for row in sets if METHODS[row.method].kind == "set"]
        if sets:
            largest = max((seen.database for seen in (*self.seen, *self.compared)), default=0)
            size = 4.0 * largest * PATCHES * min(profile.comparison.dimensions, sets[0].dimensions)
            needs.append(Need("patches of every image", size))
        return sorted(
            (Need(n.what, n.amount + LIBRARIES) for n in needs), key=lambda need: -need.amount
        )

    def forward(self, maps: _Maps | None = None) -> float:
        """Return the bytes of a forward pass of one batch, the profile's own if none is given."""
        maps = maps or self._main()
        batch = self.profile.features.batch_size
        values = [self._shape(maps, size)[1] for seen in self.seen for size in seen.sizes[:4]]
        return 4.0 * batch * max(values, default=0)

    def seconds(self, seconds_a_megapixel: float, operations_a_second: float) -> list[Need]:
        """Return a coarse estimate of the longest stages, longest first.

        Args:
            seconds_a_megapixel: of the profile's network.
            operations_a_second: of a matrix product in float32.
        """
        profile, needs = self.profile, []
        own = (self._main().what, self._full().what)
        for maps in self._stored_maps():
            if maps.what in own:
                pixels = sum(s.images * _mean_pixels(s, maps.side) for s in maps.datasets)
                needs.append(Need(f"network, {maps.what}", pixels / 1e6 * seconds_a_megapixel))
        main, f2 = self._main(), profile.encoding.interpolate**2
        work = 2.0 * profile.codebook.words * self._dimensions(main.backbone)
        learned = sum(
            min(self._descriptors(main, seen), profile.codebook.max_descriptors)
            for seen in self._teachers()
        )
        iterations = profile.codebook.iterations
        needs.append(
            Need(
                f"k-means, all {iterations} iterations",
                iterations * learned * work / operations_a_second,
            )
        )
        needs.append(
            Need(
                STORED if profile.distractors.features == "stored" else STREAMED,
                self._distractor_pixels() / 1e6 * seconds_a_megapixel,
            )
        )
        assigned = sum(seen.images * self._cells(main, seen) * f2 for seen in self.seen)
        assigned += sum(s.distractors * self._cells(main, s) * f2 for s in self.compared)
        needs.append(Need("assignment to words", assigned * work / operations_a_second))
        return sorted((n for n in needs if n.amount), key=lambda need: -need.amount)

    def _main(self) -> _Maps:
        features = self.profile.features
        return _Maps("of the profile", features.backbone, features.longest_side, self.seen, True)

    def _full(self) -> _Maps:
        pooling, backbone = self.profile.sum_pooling, self.profile.features.backbone
        layer = pooling.full_layer or backbone.layer
        backbone = backbone.model_copy(update={"layer": layer})
        return _Maps("at full resolution", backbone, pooling.full_longest_side, self.seen)

    def _stored_maps(self) -> list[_Maps]:
        """Return every set of feature maps, each once."""
        profile, main, full = self.profile, self._main(), self._full()
        stored = [main, full]
        for backbone in profile.compare_backbones:
            stored.append(_Maps(f"of {backbone.label}", backbone, main.side, self.seen, True))
        stored += [*self._of_rows(self.rows), *self._of_finetuning()]
        return _once(stored)

    def _of_rows(self, rows: Sequence[Row]) -> list[_Maps]:
        """Return the maps that each row's method reads, in their order."""
        config, found = self.profile.comparison, []
        pooled = self._full() if config.maps == "full" else self._main()
        for row in rows:
            if row.method not in METHODS:
                continue
            backbone = pooled.backbone
            if row.network:
                weights = row.weights or config.weights.get(row.id, "")
                backbone = BackboneConfig(name=row.network, layer=row.layer, weights=weights)
            if METHODS[row.method].needs:
                last = layer_names(backbone.name)[-1]
                backbone = backbone.model_copy(update={"layer": last})
            found.append(_Maps(f"of {backbone.label}", backbone, pooled.side, self.seen))
        return found

    def _kept(self, seen: Seen) -> int:
        """Return of how many images of a dataset feature maps are stored."""
        streamed = self.profile.distractors.features == "streamed"
        return seen.images - (seen.distractors if streamed else 0)

    def _rows_among_distractors(self) -> list[Row]:
        return [row for row in self.rows if not row.bulky]

    def _among_distractors(self) -> list[Need]:
        """Return the bytes kept of the distractors of datasets that join the comparison.

        Those are the same images for all of them: their features and saliency maps are kept once.
        Vectors are counted with those of the other datasets.
        """
        if not self.compared:
            return []
        profile, main = self.profile, self._main()
        rows = self._rows_among_distractors()
        kinds = {row.weighting for row in rows if row.method == "words"} - {NONE}
        words = 0.0
        for seen in self.compared:
            cells = self._cells(main, seen) * profile.encoding.interpolate**2
            words += 2 * seen.distractors * cells + 4 * len(kinds) * seen.database * cells
            held = min(cells, profile.codebook.words)
            words += (3 + 4 * len(kinds)) * seen.database * held
        most = max(self.compared, key=lambda seen: seen.distractors)
        pixels = most.distractors * float(np.mean(np.prod(most.sizes, axis=1)))
        looking = len(kinds & set(MODELS))
        needs = [
            Need("words, weights and inverted files among distractors", words),
            Need("saliency maps of distractors", looking * PNG_BYTES * pixels),
        ]
        if profile.distractors.features == "stored":
            values = sum(self._values(maps, most) for maps in _once([main, *self._of_rows(rows)]))
            needs.append(Need("features of distractors", 2 * most.distractors * values))
        return needs

    def _distractor_pixels(self) -> float:
        """Return how many pixels of distractors the profile's network reads."""
        main, rows = self._main(), self._rows_among_distractors()
        maps = [m for m in self._of_rows(rows) if m.backbone.name == main.backbone.name]
        if self.profile.distractors.features == "streamed":  # once for words and each method
            read, images = [main, *maps], self.compared
        else:
            read = _once([main, *maps])
            images = sorted(self.compared, key=lambda seen: -seen.distractors)[:1]
        return sum(seen.distractors * _mean_pixels(seen, m.side) for m in read for seen in images)

    def _of_finetuning(self) -> list[_Maps]:
        tuning, main = self.profile.finetuning, self._main()
        named = {s.name: s for s in self.seen}
        used = [named[name] for name in (tuning.oxford, tuning.instre) if name in named]
        found = []
        if tuning.training.inputs == "maps" and used:
            frozen = main.backbone.model_copy(update={"layer": tuning.training.frozen})
            found.append(
                _Maps("of the frozen layers", frozen, main.side, tuple(dict.fromkeys(used)))
            )
        if tuning.oxford in named:
            folds = tuning.tested or tuning.folds
            datasets = (named[tuning.oxford],) * folds
            maps = _Maps("of fine-tuned networks", main.backbone, main.side, datasets, True, True)
            found.append(maps)
        return found

    def _shape(self, maps: _Maps, size: tuple[int, int]) -> tuple[tuple[int, int, int], int]:
        return self.shapes(maps.backbone, maps.side, tuple(size))

    def _cells(self, maps: _Maps, seen: Seen) -> float:
        return float(np.mean([np.prod(self._shape(maps, size)[0][1:]) for size in seen.sizes]))

    def _values(self, maps: _Maps, seen: Seen) -> float:
        return self._cells(maps, seen) * self._shape(maps, seen.sizes[0])[0][0]

    def _descriptors(self, maps: _Maps, seen: Seen) -> float:
        return seen.database * self._cells(maps, seen)

    def _dimensions(self, backbone: BackboneConfig) -> int:
        channels = self.shapes(backbone, self.profile.features.longest_side, (400, 300))[0][0]
        return min(self.profile.whitening.dimensions, channels)

    def _teachers(self) -> Sequence[Seen]:
        names = {self.profile.teacher_of(name) for name in self.profile.datasets}
        return [seen for seen in self.seen if seen.name in names]

    def _pixels(self) -> float:
        return sum(s.database * float(np.mean(np.prod(s.sizes, axis=1))) for s in self.seen)

    def _words_bytes(self) -> float:
        profile = self.profile
        made = [maps for maps in self._stored_maps() if maps.words]
        networks = sum(4 * profile.codebook.words * self._dimensions(m.backbone) for m in made)
        return len(self._teachers()) * (networks + 4.0 * 128 * profile.sift.words)

    def _compared(self) -> list[Need]:
        config, database = self.profile.comparison, sum(seen.database for seen in self.seen)
        among = database + sum(seen.database for seen in self.compared)
        vectors = classes = 0.0
        for row in self.rows:
            if row.method not in METHODS:
                continue
            kind, wide = METHODS[row.method].kind, min(config.dimensions, row.dimensions)
            if row.method == "vlad-plain":
                wide = config.vlad_words * self._shape(self._main(), (400, 300))[0][0]
            if kind == "online":
                classes += 2.0 * database * self.classes * wide
            images = database if row.bulky else among
            vectors += 4.0 * images * wide * (PATCHES if kind == "set" else 1)
        return [Need("vectors of compared methods", vectors), Need("CAM of every class", classes)]


def _once(found: Sequence[_Maps]) -> list[_Maps]:
    """Return maps without those that are stored already."""
    once = {}
    for maps in found:
        once.setdefault((maps.backbone, maps.side, maps.datasets, maps.tuned), maps)
    return list(once.values())


def _mean_pixels(seen: Seen, side: int) -> float:
    return float(np.mean([np.prod(resized_size(tuple(size), side)) for size in seen.sizes]))
