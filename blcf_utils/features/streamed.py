"""Feature maps that are computed whenever they are read, and never stored.

The maps of 100,071 distractors are 32 GB (VGG-16 conv5_1, longest side 340); their words are 260
MB. Whoever goes through all maps once, as encoding does, needs no more than a batch of them. The
batches are those of the extraction that stores maps, so the values are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.datasets.views import AS_IT_IS
from blcf_utils.features.forward import (
    ForwardPass,
    Pictures,
    batches_of_one_size,
    features_document,
    refuse_overflow,
    resolve_device,
    resolve_precision,
)
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.features.rows import copies_of
from blcf_utils.ground.artefacts import Artefact, ArtefactStore, atomic_path
from blcf_utils.ground.cluster import connected
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.progress import progress
from blcf_utils.ground.settings import digest_of

STAGE_VERSION = 1
_DECODERS = 4
_BATCHES_AHEAD = 4
# Batches kept for reading maps one by one: images of one size come in runs, not in a row.
_KEPT = 32


class StreamedFeatures:
    """The feature maps of a dataset, read as :class:`~blcf_utils.features.extraction.Features` are.

    Attributes:
        key: that which the stored features would have: what is made of either is one artefact.
        artefact: of the images' sizes; its label is that of the features.
        shapes: (n, 2) map height and width of each image; (0, 0) for one that does not decode.
        sizes: (n, 2) width and height in pixels of the stored image.
        n_database, channels, distinct: as of stored features.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: FeatureConfig,
        store: ArtefactStore,
        backbone: Backbone | None = None,
    ):
        self.dataset, self.config = dataset, config
        self._backbone = backbone or load_backbone(config.backbone)
        precision = resolve_precision(config, resolve_device(config.device))
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._network = ForwardPass(
            self._backbone, config.device, dtype, dataset.exif_orientation, AS_IT_IS
        )
        label, document = features_document(dataset, config, self._backbone, precision)
        self.key = digest_of({"stage": "features", **document})
        layout = {"version": STAGE_VERSION, "features": document}
        self.artefact: Artefact = store.get_or_make("layout", label, layout, self._lay_out)
        self.sizes = np.load(self.artefact / "sizes.npy")
        self.shapes = np.load(self.artefact / "shapes.npy")
        self._inputs = np.load(self.artefact / "inputs.npy")
        self.distinct, self.n_database = dataset.distinct, len(dataset.images)
        self.channels = self._backbone.channels
        self.skipped = tuple(
            dataset.all_images[i].name for i in np.flatnonzero(~self.shapes.all(axis=1))
        )
        self._batches = batches_of_one_size(self._inputs, self.distinct, config.batch_size)
        self._batch_of = np.full(len(self.shapes), -1)
        for k, batch in enumerate(self._batches):
            self._batch_of[batch] = k
        self._root = store.root
        self._held: dict[int, tuple[np.ndarray, int, int]] = {}
        self._recent: OrderedDict[int, dict[int, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.shapes)

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions.

        Computes the whole batch that the image is in, and keeps the last few.
        """
        if not self.shapes[image].all():
            return np.zeros((0, self.channels), np.float32)
        first = int(self.distinct[image])
        if first in self._held:
            rows, start, end = self._held[first]
            return rows[start:end].astype(np.float32)
        k = int(self._batch_of[first])
        with self._lock:  # one forward pass at a time, whoever asks
            if k not in self._recent:
                self._recent[k] = dict(self._forward(self._decode(self._batches[k])))
                while len(self._recent) > _KEPT:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(k)
            return self._recent[k][first].astype(np.float32)

    def map(self, image: int) -> np.ndarray:
        """Return the feature map of an image, (C, h, w) float32."""
        return self._as_map(image, self.descriptors(image))

    def _as_map(self, image: int, rows: np.ndarray) -> np.ndarray:
        return _map_of(rows, self.shapes[image])

    def passing(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers of an image and its copies, its map (C, h, w) float32), each image once.

        Batch by batch, decoding ahead of the network; not in the order of ``images``.

        Args:
            images: which; their batches are forwarded whole.
        """
        wanted, batches = self._wanted(images)
        copies = copies_of(self.distinct)
        for first, rows in self._ahead(batches):
            if wanted[first]:
                yield copies[first], self._as_map(first, rows.astype(np.float32))

    def made_of_each(
        self,
        function: Callable[[Any, np.ndarray], Any],
        shared: Any,
        images: np.ndarray,
        files: Sequence[Path] = (),
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield (numbers of an image and its copies, what a function makes of its map).

        As :meth:`passing`; on a cluster, workers forward the batches and call the function.

        Args:
            function: of a module: (shared, map (C, h, w) float32) to a small value.
            shared: what it needs besides; sent to each worker once.
            images: which; their batches are forwarded whole.
            files: what it reads besides the images.
        """
        if not connected():
            for copies, feature_map in self.passing(images):
                yield copies, function(shared, feature_map)
            return
        wanted, batches = self._wanted(images)
        copies = copies_of(self.distinct)
        by_pictures = {}
        for batch in batches:
            good = self._good(batch)
            if len(good):  # images of one size have maps of one shape
                by_pictures[self._pictures(good), tuple(self.shapes[good[0]].tolist())] = good
        results = mapped(
            _make_of_each,
            (self._network.to_send(), function, shared),
            by_pictures,
            files=lambda item: [*files, *(path for path, _ in item[0])],
        )
        for item, values in results:
            for first, value in zip(by_pictures[item].tolist(), values, strict=True):
                if wanted[first]:
                    yield copies[first], value

    def _wanted(self, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return which images are first ones of ``images`` (n,), and the batches they are in."""
        wanted = np.zeros(len(self), bool)
        wanted[self.distinct[images]] = True
        return wanted, [batch for batch in self._batches if wanted[batch].any()]

    def in_batches(
        self, images: np.ndarray, at_once: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers, maps (B, C, h, w)) of images of one map shape at a time, in one pass.

        The groups are those in which stored maps are read (``features.batches``).
        """
        images = np.asarray(images)
        shapes, group = np.unique(self.shapes[images], axis=0, return_inverse=True)
        for k, shape in enumerate(shapes):
            if not shape.prod():
                continue
            members = images[group.ravel() == k]
            held: dict[int, np.ndarray] = {}
            needed = self.distinct[members]
            # A map is let go when the last of its copies has been read.
            last = {int(first): place for place, first in enumerate(needed)}
            stream, given = self.passing(members), 0
            while given < len(members):
                part = slice(given, min(given + at_once, len(members)))
                while not all(int(first) in held for first in needed[part]):
                    copies, feature_map = next(stream)
                    held[int(copies[0])] = feature_map
                yield members[part], np.stack([held[int(first)] for first in needed[part]])
                for place in range(part.start, part.stop):
                    if last[int(needed[place])] == place:
                        del held[int(needed[place])]
                given = part.stop

    @contextlib.contextmanager
    def holding(self, images: np.ndarray) -> Iterator[None]:
        """Keep the maps of some images in a temporary file while the block lasts.

        One pass over them makes reading them one by one, in any order, as fast as stored maps.
        """
        images = np.unique(self.distinct[np.asarray(images, np.int64)])
        images = images[self.shapes[images].all(axis=1)]
        counts = self.shapes[images].prod(axis=1)
        if not len(images):
            yield
            return
        ends = np.cumsum(counts)
        places = dict(zip(images.tolist(), zip(ends - counts, ends, strict=True), strict=True))
        with tempfile.TemporaryFile(dir=self._root) as file:
            row_bytes = 2 * self.channels
            file.truncate(int(ends[-1]) * row_bytes)
            passing = self.passing(images)
            label = f"maps of {len(images):,} images"
            for copies, feature_map in progress(passing, label=label, total=len(images)):
                start, _ = places[int(copies[0])]
                file.seek(int(start) * row_bytes)
                rows = feature_map.transpose(1, 2, 0).astype(np.float16)
                file.write(rows.tobytes())
            file.flush()
            rows = np.memmap(file, np.float16, "r", shape=(int(ends[-1]), self.channels))
            self._held = {i: (rows, int(a), int(b)) for i, (a, b) in places.items()}
            try:
                yield
            finally:
                self._held = {}

    def database_rows(self) -> np.ndarray:
        """Refuse: descriptors that are not stored cannot be drawn from.

        Raises:
            StudyError: always.
        """
        raise _nothing_to_learn(self.dataset.name)

    def stream(self, rows: np.ndarray, chunk: int = 32_768) -> Iterator[np.ndarray]:
        """Refuse as :meth:`database_rows` does."""
        raise _nothing_to_learn(self.dataset.name)

    def _ahead(self, batches: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        remaining, ahead = iter(batches), deque()
        with ThreadPoolExecutor(_DECODERS) as pool:
            try:
                while True:
                    for batch in islice(remaining, _BATCHES_AHEAD - len(ahead)):
                        ahead.append(pool.submit(self._decode, batch))
                    if not ahead:
                        return
                    yield from self._forward(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()

    def _good(self, batch: np.ndarray) -> np.ndarray:
        """Return the images of a batch that decode."""
        return batch[self.shapes[batch].all(axis=1)]

    def _pictures(self, images: np.ndarray) -> Pictures:
        sizes = self._inputs[images].tolist()
        paths = self.dataset.all_images
        return tuple((paths[i], tuple(size)) for i, size in zip(images, sizes, strict=True))

    def _decode(self, batch: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        good = self._good(batch)
        return good, _decoded(self._network, self._pictures(good))

    def _forward(self, decoded: tuple[np.ndarray, list]) -> Iterator[tuple[int, np.ndarray]]:
        for image, rows in zip(decoded[0], self._network.forward(decoded[1]), strict=True):
            refuse_overflow(self.dataset.all_images[image], rows, self._backbone)
            yield int(image), rows

    def _lay_out(self, folder: Path) -> None:
        """Read every image's size; with ``on_corrupt: skip`` decode it, to know whether it is."""
        dataset, skip = self.dataset, self.config.on_corrupt == "skip"
        firsts = np.unique(dataset.distinct)

        def size_of(image: int) -> tuple[int, int] | None:
            path = dataset.all_images[image]
            try:
                if not skip:
                    return image_size(path, exif_orientation=dataset.exif_orientation)
                height, width, _ = read_image(path, exif_orientation=dataset.exif_orientation).shape
                return width, height
            except UnreadableImage:
                if not skip:
                    raise
                return None

        count = len(dataset.all_images)
        sizes, inputs, shapes = (np.zeros((count, 2), np.int64) for _ in range(3))
        with ThreadPoolExecutor(_DECODERS) as pool:
            found = progress(
                pool.map(size_of, firsts), label="image sizes", total=len(firsts), unit="image"
            )
            of_first = dict(zip(firsts.tolist(), found, strict=True))
        for i, first in enumerate(dataset.distinct.tolist()):
            size = of_first[first]
            if size is None:
                continue
            sizes[i], inputs[i] = size, resized_size(size, self.config.longest_side)
            shapes[i] = self._shape_of(dataset.all_images[i], inputs[i])
        if not shapes.any():
            raise StudyError(f"{dataset.root}: none of its {count} images decodes")
        for name, values in (("sizes", sizes), ("inputs", inputs), ("shapes", shapes)):
            with atomic_path(folder / f"{name}.npy") as path:
                np.save(path, values)

    def _shape_of(self, path: Path, size: np.ndarray) -> tuple[int, int]:
        try:
            _, *shape = self._backbone.output_shape(int(size[1]), int(size[0]))
        except RuntimeError:
            raise StudyError(
                f"{path}: {size[0]}x{size[1]} pixels are too narrow for "
                f"{self.config.backbone.label}; raise features.longest_side or leave the image out"
            ) from None
        return tuple(shape)


def _nothing_to_learn(name: str) -> StudyError:
    return StudyError(
        f"{name}: its feature maps are not stored, so nothing can be learned on them; name the "
        "dataset that teaches in learn_on"
    )


def _map_of(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return local descriptors (h*w, C) as a feature map (C, h, w)."""
    return rows.reshape(*shape, rows.shape[1]).transpose(2, 0, 1)


def _decoded(network: ForwardPass, pictures: Pictures) -> list[np.ndarray]:
    """Return the pixels of pictures that are known to decode."""
    decoded = network.decode(pictures)
    for one in decoded:
        if isinstance(one, UnreadableImage):
            raise one
    return decoded


def _make_of_each(
    shared: tuple[ForwardPass, Callable, Any], item: tuple[Pictures, tuple[int, int]]
) -> list:
    """Forward a batch and return what a function makes of each map; runs on workers."""
    network, function, others = shared
    pictures, shape = item
    made = []
    for (path, _), rows in zip(pictures, network.forward(_decoded(network, pictures)), strict=True):
        refuse_overflow(path, rows, network.backbone)
        made.append(function(others, _map_of(rows.astype(np.float32), shape)))
    return made
