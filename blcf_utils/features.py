"""Feature extraction: images to feature maps on disk, streamed, resumable and bounded in memory.

A feature map (C, h, w) is stored as its h*w local descriptors, row by row, so that one flat
(N, C) float16 array in HDF5 holds a whole dataset: the descriptors of image i are rows
``offset[i]`` to ``offset[i] + h*w``.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch

from blcf_utils.artefacts import Artefact, ArtefactStore, atomic_path, write_json
from blcf_utils.backbones import Backbone, load_backbone
from blcf_utils.cluster import connected
from blcf_utils.config import FeatureConfig
from blcf_utils.datasets.base import Dataset
from blcf_utils.errors import StudyError
from blcf_utils.images import UnreadableImage, image_size, read_image, resized_size
from blcf_utils.mapping import mapped
from blcf_utils.progress import progress
from blcf_utils.views import AS_IT_IS, View

log = logging.getLogger("blcf")

STAGE_VERSION = 1
PENDING, DONE, SKIPPED = 0, 1, 2
_DECODERS = 2
_BATCHES_AHEAD = 3
_AT_ONCE = 32  # stored maps of one shape

# A batch: paths, and the width and height that each picture is resized to.
Pictures = tuple[tuple[Path, tuple[int, int]], ...]


class Features:
    """The stored feature maps of a dataset's images, read on demand.

    Attributes:
        shapes: (n, 2) map height and width of each image; (0, 0) for a skipped image.
        sizes: (n, 2) width and height in pixels of the stored image.
        n_database: the first ``n_database`` images are the database, the rest query images.
        channels: C.
        distinct: (n,) number of the first image with the same bytes, whose maps are the same.
    """

    def __init__(self, artefact: Artefact, distinct: np.ndarray | None = None):
        self.artefact = artefact
        self.key = artefact.key
        with h5py.File(artefact / "features.h5", "r") as file:
            self.shapes = file["shape"][:].astype(np.int64)
            self.sizes = file["size"][:].astype(np.int64)
            self.offsets = file["offset"][:]
            self.n_database = int(file.attrs["n_database"])
            self.channels = int(file["descriptors"].shape[1])
            self.shapes[file["status"][:] == SKIPPED] = 0
        self.skipped = tuple(json.loads((artefact / "skipped.json").read_text(encoding="utf-8")))
        self.distinct = np.arange(len(self.shapes)) if distinct is None else distinct

    def __len__(self) -> int:
        return len(self.shapes)

    def __getstate__(self) -> dict:
        """What travels to another process, which reads the maps themselves from the file."""
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    @cached_property
    def _rows(self) -> np.ndarray:
        return _map_dataset(self.artefact / "features.h5", "descriptors")

    def descriptors(self, image: int) -> np.ndarray:
        """Return the local descriptors of an image, (h*w, C) float32, row-major positions."""
        start, count = self.offsets[image], int(self.shapes[image].prod())
        return self._rows[start : start + count].astype(np.float32)

    def map(self, image: int) -> np.ndarray:
        """Return the feature map of an image, (C, h, w) float32."""
        height, width = self.shapes[image]
        return self.descriptors(image).reshape(height, width, self.channels).transpose(2, 0, 1)

    def database_rows(self) -> np.ndarray:
        """Return the row numbers of every database descriptor, int64, sorted."""
        counts = self.shapes[: self.n_database].prod(axis=1)
        spans = zip(self.offsets[: self.n_database], counts, strict=True)
        return np.concatenate([np.arange(s, s + c, dtype=np.int64) for s, c in spans if c])

    def stream(self, rows: np.ndarray, chunk: int = 32_768) -> Iterator[np.ndarray]:
        """Yield the descriptors at sorted ``rows``, (<= chunk, C) float32 at a time."""
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            if part[-1] - part[0] + 1 == len(part):  # a contiguous run is one read
                yield self._rows[part[0] : part[-1] + 1].astype(np.float32)
            else:
                yield self._rows[part].astype(np.float32)
            # Pages once read would count as this process' memory until others need it.
            self._rows._mmap.madvise(mmap.MADV_DONTNEED)


def batches(features: Features, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (numbers, maps (B, C, h, w)) of images of one map shape at a time.

    Images that were left out (no positions) are not among them.
    """
    if hasattr(features, "in_batches"):  # computed as they are read, or several files in one
        yield from features.in_batches(images, _AT_ONCE)
        return
    shapes, group = np.unique(features.shapes[images], axis=0, return_inverse=True)
    for k, shape in enumerate(shapes):
        if not shape.prod():
            continue
        members = images[group.ravel() == k]
        for start in range(0, len(members), _AT_ONCE):
            part = members[start : start + _AT_ONCE]
            yield part, np.stack([features.map(i) for i in part])


def batches_of_one_size(inputs: np.ndarray, distinct: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the numbers of images that go through a network together, by their first one.

    Images of one input size, in order, are a batch; of images with the same bytes only the first.
    What a network gives depends on the batch in its last bits, so whoever forwards images uses
    these.

    Args:
        inputs: (n, 2) width and height that each image is resized to; 0 leaves it out.
        distinct: (n,) number of the first image with the same bytes.
        most: images of a batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (width, height) in enumerate(inputs.tolist()):
        if width and distinct[i] == i:
            groups.setdefault((width, height), []).append(i)
    batches = [
        np.array(group[k : k + most])
        for group in groups.values()
        for k in range(0, len(group), most)
    ]
    return sorted(batches, key=lambda batch: batch[0])


def copies_of(distinct: np.ndarray) -> dict[int, np.ndarray]:
    """Return the numbers of all copies of each first image (itself among them), sorted.

    Args:
        distinct: (n,) for each image the number of the first one with the same bytes.
    """
    order = np.argsort(distinct, kind="stable")
    firsts, starts = np.unique(distinct[order], return_index=True)
    return dict(zip(firsts.tolist(), np.split(order, starts[1:]), strict=True))


def sample_rows(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return ``rows``, or a seeded uniform sample of ``most`` of them, sorted."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def normalise_rows(rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` (N, D) with unit L2 norm each; zero rows stay zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return rows / np.maximum(norms, 1e-12)[:, None]


def resolve_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StudyError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StudyError(
            f"features.device: expected auto, cpu, cuda or cuda:N, found {name!r}"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudyError(f"features.device: {name} asks for a GPU and there is none; use auto")
    return device


def resolve_precision(config: FeatureConfig, device: torch.device) -> str:
    """Return ``float32`` or ``bfloat16``, in which a network runs on a device."""
    if config.precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return config.precision


def features_document(
    dataset: Dataset, config: FeatureConfig, backbone: Backbone, precision: str
) -> tuple[str, dict]:
    """Return the label of a dataset's features and all that determines them, as JSON values."""
    document = {
        "version": STAGE_VERSION,
        "images": dataset.manifest,
        "backbone": backbone.document(),
        "longest_side": config.longest_side,
        "precision": precision,
        "exif_orientation": dataset.exif_orientation,
        "on_corrupt": config.on_corrupt,
        "n_database": len(dataset.images),
    }
    return f"{dataset.name}-{config.backbone.name}-{config.backbone.layer}", document


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
    label, document = features_document(dataset, config, backbone, precision)
    if view != AS_IT_IS:
        document["view"] = asdict(view)
        label += f"-{view.name.replace(' ', '-')}"

    def make(folder: Path) -> None:
        extraction = _Extraction(dataset, config, backbone, folder, device, precision, view)
        extraction.run()

    return Features(store.get_or_make("features", label, document, make), dataset.distinct)


def _map_dataset(path: Path, name: str) -> np.memmap:
    """Map a contiguous HDF5 dataset's bytes as an array, to read from."""
    with h5py.File(path, "r") as file:
        data = file[name]
        offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _create_contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal features are equal bytes
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, layout)


@torch.inference_mode()
def forward_images(
    backbone: Backbone, images: np.ndarray, device: torch.device, dtype=torch.float32
) -> np.ndarray:
    """Return the local descriptors of equally sized images, (B, H, W, 3) uint8 to (B, h*w, C).

    Args:
        backbone: its module is on ``device``.
        images: RGB pixels.
        device: where the network runs.
        dtype: of its arithmetic; the descriptors are float16 always, as they are stored.
    """
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (backbone.mean, backbone.std)
    )
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
    pixels.div_(255).sub_(mean).div_(std)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        maps = backbone.module(pixels)
    return maps.flatten(2).transpose(1, 2).to(torch.float16).cpu().numpy()


def refuse_overflow(path: Path, rows: np.ndarray, backbone: Backbone) -> None:
    """Refuse descriptors that are not finite in float16.

    Raises:
        StudyError: they are not.
    """
    if not np.isfinite(rows).all():
        raise StudyError(
            f"{path}: feature values exceed float16; {backbone.config.label} seems to have wrong "
            "weights or normalisation"
        )


@dataclass(frozen=True)
class ForwardPass:
    """How a batch of pictures becomes descriptors, here or on a worker.

    Attributes:
        backbone: the trunk.
        device: as the configuration names it; a worker has its own GPU, or none.
        dtype: of the arithmetic.
        exif: whether pictures are turned as their EXIF tag says.
        view: what of each picture the network sees.
    """

    backbone: Backbone
    device: str
    dtype: torch.dtype
    exif: bool
    view: View

    def to_send(self) -> ForwardPass:
        """Return the same without what a worker has no use for."""
        return replace(self, backbone=replace(self.backbone, _meta=None))

    def decode(self, batch: Pictures) -> list[np.ndarray | UnreadableImage]:
        """Return the pixels of each picture (H, W, 3), or why it has none."""
        decoded = []
        for path, size in batch:
            try:
                decoded.append(read_image(path, size, exif_orientation=self.exif, view=self.view))
            except UnreadableImage as error:
                decoded.append(error)
        return decoded

    def forward(self, decoded: list) -> list[np.ndarray | UnreadableImage]:
        """Return the descriptors of each picture (h*w, C) float16, or why it has none."""
        found = list(decoded)
        good = [k for k, image in enumerate(decoded) if not isinstance(image, UnreadableImage)]
        if good:
            device = resolve_device(self.device)
            self.backbone.module.to(device)
            pixels = np.stack([decoded[k] for k in good])
            for k, rows in zip(
                good, forward_images(self.backbone, pixels, device, self.dtype), strict=True
            ):
                found[k] = rows
        return found


def _forward_pictures(network: ForwardPass, batch: Pictures) -> list[np.ndarray | UnreadableImage]:
    return network.forward(network.decode(batch))


class _Extraction:
    """One run of the extraction into a work folder.

    Rows and states are written at their place in the file, past HDF5, whose own metadata is never
    touched: a killed process cannot leave an unreadable file. They are written, not mapped: a full
    disk is then an error, not a bus error, and written pages do not count as the process' memory.
    """

    def __init__(self, dataset, config, backbone, folder, device, precision, view):
        self.paths, self.distinct = dataset.all_images, dataset.distinct
        self.copies = copies_of(self.distinct)
        self.n_database = len(dataset.images)
        self.exif = dataset.exif_orientation
        self.config, self.backbone, self.device = config, backbone, device
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.network = ForwardPass(backbone, config.device, dtype, self.exif, view)
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
            module = self.backbone.module.to(self.device)
            try:
                with open(self.path, "r+b") as self.file:
                    self._forward_all()
            finally:
                module.to("cpu")
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
        counts = shapes.astype(np.int64).prod(axis=1)
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["n_database"] = self.n_database
            file["size"], file["input_size"], file["shape"] = sizes, inputs, shapes
            file["offset"] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
            _create_contiguous(file, "descriptors", (int(counts.sum()), channels), np.float16)
            _create_contiguous(file, "status", (len(self.paths),), np.uint8)
            file["status"][:] = status

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
        with bar:
            for batch, found in (self._on_workers if connected() else self._here)(batches):
                self._store(batch, found)
                bar.update(len(self._with_copies(batch)))

    def _here(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, list]]:
        """Forward batches in this process while the next ones are decoded."""
        with ThreadPoolExecutor(_DECODERS) as pool:

            def submit(batch: np.ndarray) -> Future:
                return pool.submit(self.network.decode, self._pictures(batch))

            ahead: list[Future] = [submit(batch) for batch in batches[:_BATCHES_AHEAD]]
            for k, batch in enumerate(batches):
                decoded = ahead[k].result()
                ahead[k] = None
                if k + _BATCHES_AHEAD < len(batches):
                    ahead.append(submit(batches[k + _BATCHES_AHEAD]))
                self._refuse_unreadable(decoded)
                yield batch, self.network.forward(decoded)

    def _on_workers(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, list]]:
        number = {self._pictures(batch): k for k, batch in enumerate(batches)}
        done = mapped(
            _forward_pictures,
            self.network.to_send(),
            number,
            files=lambda batch: [path for path, _ in batch],
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
