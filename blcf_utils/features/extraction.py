"""Feature extraction: images to feature maps on disk, streamed, resumable and bounded in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import torch

from blcf_utils.config.profile import FeatureConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.datasets.images import UnreadableImage, image_size, resized_size
from blcf_utils.datasets.views import AS_IT_IS, View
from blcf_utils.features.forward import (
    ForwardPass,
    Pictures,
    _forward_pictures,
    batches_of_one_size,
    refuse_overflow,
    resolve_device,
    resolve_precision,
)
from blcf_utils.features.networks.backbones import Backbone, load_backbone
from blcf_utils.features.rows import copies_of
from blcf_utils.features.stored import DONE, PENDING, SKIPPED, Features, lay_out
from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path, write_json
from blcf_utils.ground.cluster import connected
from blcf_utils.ground.cores import pool_threads, usable_cores
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import mapped
from blcf_utils.ground.progress import progress

log = logging.getLogger("blcf")

STAGE = Stage("features", version=1)

_DECODERS = 2


def extract_features(
    dataset: Dataset,
    config: FeatureConfig,
    store: ArtefactStore,
    backbone: Backbone | None = None,
    view: View = AS_IT_IS,
) -> Features:
    """Forward every image of ``dataset`` and store the maps of the configured layer.

    Database images come first, then query images outside the database. Images of equal size are
    batched; where an image is stored does not depend on the batching. Images with the same bytes
    are forwarded once. Killed, it goes on with the images that are missing and ends with the same
    file.

    Args:
        dataset: images and queries.
        config: backbone, longest side, precision, what to do with unreadable images.
        store: where artefacts live.
        backbone: the trunk, when it is already loaded.
        view: what of each image the network sees (query augmentation).

    Raises:
        StudyError: a missing image, an unreadable one (unless ``on_corrupt: skip``), or maps that
            overflow float16.
    """
    backbone = backbone or load_backbone(config.backbone)
    device = resolve_device(config.device)
    for path in dataset.all_images:
        if not path.is_file():
            raise UnreadableImage(f"{path}: no such file; fetch {dataset.name} again")
    precision = resolve_precision(config, device)
    label = f"{dataset.name}-{config.backbone.name}-{config.backbone.layer}"
    document = {
        "images": dataset.manifest,
        "backbone": backbone.document(),
        "longest_side": config.longest_side,
        "resize": config.resize,
        "precision": precision,
        "exif_orientation": dataset.exif_orientation,
        "on_corrupt": config.on_corrupt,
        "n_database": len(dataset.images),
    }
    if config.alpha != "white":  # the default keeps older keys valid
        document["alpha"] = config.alpha
    if view != AS_IT_IS:
        document["view"] = asdict(view)
        label += f"-{view.name.replace(' ', '-')}"

    def make(folder: Path) -> None:
        extraction = _Extraction(dataset, config, backbone, folder, precision, view)
        extraction.run()

    made = store.get_or_make(STAGE, label, document, make)
    return store.once(made.key, lambda: Features(made, dataset.distinct))


class _Extraction:
    """One run of the extraction into a work folder.

    Rows and states are written at their place in the file, past HDF5, whose own metadata is never
    touched: a killed process cannot leave an unreadable file. They are written, not mapped: a full
    disk is then an error, not a bus error, and written pages do not count as the process' memory.
    """

    def __init__(self, dataset, config, backbone, folder, precision, view):
        self.paths, self.distinct = dataset.all_images, dataset.distinct
        self.copies = copies_of(self.distinct)
        self.n_database = len(dataset.images)
        self.exif = dataset.exif_orientation
        self.config, self.backbone = config, backbone
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        seen = self.exif, view, config.resize, config.alpha
        self.network = ForwardPass(backbone, config.device, dtype, *seen)
        self.folder, self.path = folder, folder / "features.h5"

    def run(self) -> None:
        if not self.path.exists():
            self._allocate()
        with h5py.File(self.path, "r") as file:
            self.shapes, self.offsets = file["shape"][:], file["offset"][:]
            self.inputs = file["input_size"][:]
            self.status = file["status"][:]
            self.rows_at = file["descriptors"].id.get_offset()
            self.status_at = file["status"].id.get_offset()
        if (self.status == PENDING).any():
            try:
                with open(self.path, "r+b") as self.file:
                    self._forward_all()
            finally:
                self.backbone.on("cpu")
        skipped = [self.paths[i].name for i in np.flatnonzero(self.status == SKIPPED)]
        if len(skipped) == len(self.paths):
            raise StudyError(f"{self.paths[0].parent}: none of its {len(skipped)} images decodes")
        if skipped:
            log.warning("%d unreadable images left out: %s", len(skipped), ", ".join(skipped))
        write_json(self.folder / "skipped.json", skipped)

    def _allocate(self) -> None:
        """Lay the file out from the image headers: every row has its place before any is known."""
        sizes = np.zeros((len(self.paths), 2), np.int32)
        inputs, shapes = np.zeros_like(sizes), np.zeros_like(sizes)
        status = np.full(len(self.paths), PENDING, np.uint8)
        channels = self.backbone.channels
        firsts = np.unique(self.distinct)
        with ThreadPoolExecutor(_DECODERS) as pool:
            found = pool.map(self._header, [self.paths[i] for i in firsts])
            headers = dict(zip(firsts, found, strict=True))
        for i, first in enumerate(self.distinct):
            size = headers[first]
            if isinstance(size, UnreadableImage):
                if self.config.on_corrupt == "error":
                    raise size
                status[i] = SKIPPED
                continue
            sizes[i] = size
            inputs[i] = resized_size(size, self.config.longest_side)
            try:
                _, *shape = self.backbone.output_shape(int(inputs[i, 1]), int(inputs[i, 0]))
            except RuntimeError:
                raise StudyError(
                    f"{self.paths[i]}: {size[0]}x{size[1]} pixels become {inputs[i, 0]}x"
                    f"{inputs[i, 1]}, too narrow for {self.backbone.config.label}; raise "
                    "features.longest_side or leave the image out"
                ) from None
            shapes[i] = shape
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            file["input_size"] = inputs
            lay_out(file, sizes, shapes, status, self.n_database, channels)

    @property
    def on_gpu(self) -> bool:
        """Whether the forward pass leaves this machine's cores free."""
        return resolve_device(self.config.device).type != "cpu"

    def _header(self, path: Path):
        try:
            return image_size(path, exif_orientation=self.exif)
        except UnreadableImage as error:
            return error

    def _batches(self) -> list[np.ndarray]:
        """Return the batches that are missing; they are the same whatever is already done."""
        batches = batches_of_one_size(self.inputs, self.distinct, self.config.batch_size)
        return [
            batch for batch in batches if (self.status[self._with_copies(batch)] == PENDING).any()
        ]

    def _with_copies(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([self.copies[i] for i in images])

    def _pictures(self, batch: np.ndarray) -> Pictures:
        sizes = self.inputs[batch].tolist()
        return tuple((self.paths[i], tuple(size)) for i, size in zip(batch, sizes, strict=True))

    def _forward_all(self) -> None:
        batches = self._batches()
        bar = progress(
            label=f"features {self.backbone.config.name}",
            total=int(sum(len(self._with_copies(b)) for b in batches)),
            unit="image",
        )
        if self.on_gpu and not connected():
            # It goes on while the core that feeds it would store what it has made.
            results = _one_ahead(self._on_gpu(batches))
        else:
            results = self._on_cores(batches)
        with bar, closing(results):
            for batch, found in results:
                self._store(batch, found)
                bar.update(len(self._with_copies(batch)))

    def _on_gpu(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, list]]:
        """Forward batches on a GPU while the next ones are decoded."""
        decoders = max(_DECODERS, usable_cores())
        most = decoders + 1
        with ThreadPoolExecutor(decoders) as pool:

            def submit(batch: np.ndarray) -> Future:
                return pool.submit(self.network.decode, self._pictures(batch))

            ahead: list[Future] = [submit(batch) for batch in batches[:most]]
            for k, batch in enumerate(batches):
                decoded = ahead[k].result()
                ahead[k] = None
                if k + most < len(batches):
                    ahead.append(submit(batches[k + most]))
                self._refuse_unreadable(decoded)
                yield batch, self.network.forward(decoded)

    def _on_cores(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, list]]:
        """Decode and forward several batches at once, here or on a cluster's workers."""
        number = {self._pictures(batch): k for k, batch in enumerate(batches)}
        if not connected():
            self.backbone.on("cpu")  # folded before threads ask for it
        done = mapped(
            _forward_pictures,
            self.network.to_send() if connected() else self.network,
            number,
            files=lambda batch: [path for path, _ in batch],
            threads=pool_threads(),
        )
        for pictures, found in done:
            yield batches[number[pictures]], found

    def _refuse_unreadable(self, found: list) -> None:
        if self.config.on_corrupt == "error":
            for one in found:
                if isinstance(one, UnreadableImage):
                    raise one

    def _write(self, position: int, values: np.ndarray) -> None:
        self.file.seek(position)
        self.file.write(values.tobytes())

    def _store(self, batch: np.ndarray, found: list) -> None:
        self._refuse_unreadable(found)
        good = [k for k, one in enumerate(found) if not isinstance(one, UnreadableImage)]
        bad = [k for k in range(len(batch)) if k not in good]
        for members, state in ((batch[bad], SKIPPED), (batch[good], DONE)):
            if len(members):
                self.status[self._with_copies(members)] = state
        if good:
            self._store_maps(batch[good], np.stack([found[k] for k in good]))
        for image in self._with_copies(batch):
            self._write(self.status_at + int(image), self.status[image : image + 1])
        self.file.flush()

    def _store_maps(self, images: np.ndarray, maps: np.ndarray) -> None:
        for image, rows in zip(images, maps, strict=True):
            refuse_overflow(self.paths[image], rows, self.backbone)
        row_bytes = maps.shape[2] * maps.itemsize
        for image, rows in zip(images, maps, strict=True):
            for copy in self.copies[image]:
                self._write(self.rows_at + int(self.offsets[copy]) * row_bytes, rows)
        self.file.flush()  # before the status that says so


def _one_ahead(items: Iterator) -> Iterator:
    """Yield what an iterator gives; a thread makes the next one while the last is used."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(next, items, None)
            yield item
