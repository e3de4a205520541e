"""The room a profile takes on the disk and in memory, from counts of images and descriptors.

The one place with this arithmetic. An image of w x h pixels becomes a map of P positions and C
channels; f is the interpolation of assignment maps, D the length of a vector. Every image is
counted once. Bytes on the disk for one image:

| what | bytes |
|---|---|
| feature maps | P C 2 (float16), for each network, layer and size |
| visual words | P f^2 5: 2 in the assignment map, 3 in the inverted file |
| weightings | P (f^2 + 1) 4, and P f^2 4 in the inverted file, for each |
| saliency maps | w h 0.3 (PNG, measured), for each model |
| SIFT | 146 a keypoint: descriptor 128, place 16, word 2 |
| compared methods | D 4 for each vector: 30 of a set; CAM of every class D 2 for each of 1,000 |

Of datasets that only join the comparison, such as those with distractors, a run keeps what the
comparison reads. While k-means learns, its descriptors (D 4 each) come on top. Small parts are not
counted: codebooks, maps of mirrored queries and of fine-tuned networks, results. ``MARGIN`` is for
them.

In memory, k-means holds two chunks of descriptors and three times its words (D 4 each); a forward
pass ``batch_size`` times the largest input and output of a layer (4 a value); a method that
compares sets holds those of all images. The libraries come on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.datasets.images import resized_size
from blcf_utils.features.networks.backbones import layer_names, map_sizes
from blcf_utils.pooling.compared.methods import METHODS
from blcf_utils.pooling.compared.row_kinds import DenseRow, PatchSetRow, Row, WordsRow
from blcf_utils.run.doctor.datasets import Counts
from blcf_utils.run.doctor.findings import Finding, bytes_text
from blcf_utils.saliency.models import MODELS
from blcf_utils.words.kmeans import CHUNK

# A pixel of a saliency map: 0.23 (BMS) to 0.37 (Itti-Koch) measured on photographs 400 pixels wide.
PNG_BYTES = 0.3
KEYPOINT_BYTES = 128 + 16 + 2
LIBRARIES = 700e6  # what a notebook's kernel holds before it computes: 600 to 700 MB measured
SHOWN = 4  # the largest parts, in words
MARGIN = 1.2  # less room than this many times the need is a warning

Network = tuple[BackboneConfig, int]  # the backbone up to a layer, and the images' longest side


def disk_needs(
    profile: Profile, counts: Sequence[Counts], rows: Sequence[Row], weightings: Sequence[str]
) -> Counter[str]:
    """Return the bytes that a run keeps in the cache, by what they are of.

    Args:
        profile: the settings.
        counts: of its datasets, as far as they are known.
        rows: rows of the comparison that can run.
        weightings: weightings that can run.
    """
    needs, counted, learned = Counter(), set(), 0
    for one in sorted(counts, key=lambda one: one.name not in profile.datasets):
        own = one.name in profile.datasets
        images = sum(n for part, n in one.parts.items() if part not in counted)
        counted |= set(one.parts)
        for what, each in _image_bytes(profile, one.size, rows, weightings, own).items():
            needs[what] += images * each
        learned = max(learned, own * one.images * _map(_main(profile), one.size)[1])
    descriptors = min(learned, profile.codebook.max_descriptors)
    wide = profile.whitening.dimensions
    needs["descriptors of k-means, while it learns"] = descriptors * wide * 4
    return needs


def memory_needs(profile: Profile, counts: Sequence[Counts], rows: Sequence[Row]) -> Counter[str]:
    """Return the bytes that large steps hold without forward passes, as ``disk_needs`` does."""
    words = profile.codebook.words
    size = (2 * CHUNK + 3 * words) * profile.whitening.dimensions * 4
    needs = Counter({f"k-means of {words:,} words (codebook.words)": size + LIBRARIES})
    for row in rows:
        if isinstance(row, PatchSetRow):
            size = max(one.images for one in counts) * _vector_bytes(profile, row)
            needs[f"search of {row.label} (comparison.dimensions)"] = size + LIBRARIES
    return needs


def forward_needs(profile: Profile, counts: Sequence[Counts]) -> Counter[str]:
    """Return the bytes that the largest forward pass holds, as ``disk_needs`` does."""
    networks, batch = (_main(profile), _full(profile)), profile.features.batch_size
    values = max(_map(network, one.size)[2] for network in networks for one in counts)
    what = f"forward pass of {batch} images (features.batch_size)"
    return Counter({what: batch * values * 4 + LIBRARIES})


def check_disk(needs: Counter[str], folder: Path, free: int, there: int = 0) -> Finding:
    """Return whether the cache's disk has room for what a run keeps.

    Args:
        needs: as :func:`disk_needs` gives them.
        folder: the cache.
        free: bytes on its disk.
        there: bytes of artefacts of these datasets in the cache, which may be reused.
    """
    needed = needs.total()
    parts = ", ".join(f"{what} {bytes_text(size)}" for what, size in needs.most_common(SHOWN))
    said = (
        f"{folder} has {bytes_text(free)} free, the run keeps about {bytes_text(needed)}: "
        f"{parts}{', ...' if len(needs) > SHOWN else ''}"
    )
    if there:
        said += f" ({bytes_text(there)} of these datasets are there already)"
    if needed <= free / MARGIN:
        return Finding("disk", "ok", said)
    state = "problem" if needed - there > free else "warning"
    return Finding("disk", state, said, "free some space, or set BLCF_CACHE to a larger disk")


def check_memory(needs: Counter[str], total: int, free: int, topic: str = "memory") -> Finding:
    """Return whether the largest step fits the memory.

    Args:
        needs: as :func:`memory_needs` and :func:`forward_needs` give them.
        total: bytes this process may have.
        free: bytes that are not in use now.
        topic: ``memory``, or ``gpu memory``.
    """
    [(largest, needed)] = needs.most_common(1)
    said = (
        f"{bytes_text(total)}, {bytes_text(free)} free; the largest step is the {largest}, "
        f"about {bytes_text(needed)}"
    )
    mend = "lower the setting in brackets, or take a machine with more memory"
    if needed > total:
        return Finding(topic, "problem", said, mend)
    if needed > free / MARGIN:
        return Finding(topic, "warning", said, f"end other programs, or {mend}")
    return Finding(topic, "ok", said)


def _image_bytes(
    profile: Profile,
    size: tuple[int, int],
    rows: Sequence[Row],
    weightings: Sequence[str],
    own: bool,
) -> Counter[str]:
    """Return what is kept of an image of ``size`` pixels (width, height).

    It belongs to one of the profile's own datasets, or is in the comparison only.
    """
    if not own:
        rows = [row for row in rows if not row.too_large_because]
        read = {row.weighting for row in rows if isinstance(row, WordsRow)}
        weightings = [name for name in weightings if name in read]
    rows = [row for row in rows if isinstance(row, DenseRow)]
    needs = Counter()
    for network in _networks(profile, rows, own):
        channels, positions, _ = _map(network, size)
        what = f"feature maps of {network[0].label} at {network[1]} pixels"
        needs[what] += 2 * positions * channels
    f2, positions = profile.encoding.interpolate**2, _map(_main(profile), size)[1]
    needs["visual words"] = positions * f2 * 5
    needs["weightings"] = len(weightings) * positions * ((f2 + 1) * 4 + f2 * 4)
    models = len(set(weightings) & set(MODELS))
    needs["saliency maps"] = models * size[0] * size[1] * PNG_BYTES
    needs["SIFT"] = own * profile.sift.keypoints * KEYPOINT_BYTES
    needs["vectors of compared methods"] = sum(_vector_bytes(profile, row) for row in rows)
    return needs


def _networks(profile: Profile, rows: Sequence[DenseRow], own: bool) -> set[Network]:
    """Return the networks whose feature maps of such an image are stored."""
    (main, side), full = _main(profile), _full(profile)
    found = {(main, side)}
    if own:
        found |= {full, *((backbone, side) for backbone in profile.compare_backbones)}
        tuning = profile.finetuning
        if tuning.oxford and tuning.training.inputs == "maps":
            found.add((_at(main, tuning.training.frozen), side))
    for row in rows:
        network, pixels = full if profile.comparison.maps == "full" else (main, side)
        if row.network:
            weights = row.weights or profile.comparison.weights[row.id]
            network = BackboneConfig(name=row.network, layer=row.layer, weights=weights)
        if METHODS[row.method].needs:  # a classifier, which reads the last layer
            network = _at(network, layer_names(network.name)[-1])
        found.add((network, pixels))
    return found


def _main(profile: Profile) -> Network:
    return profile.features.backbone, profile.features.longest_side


def _full(profile: Profile) -> Network:
    pooling, backbone = profile.sum_pooling, profile.features.backbone
    return _at(backbone, pooling.full_layer or backbone.layer), pooling.full_longest_side


def _at(backbone: BackboneConfig, layer: str) -> BackboneConfig:
    return backbone.model_copy(update={"layer": layer})


@cache
def _map(network: Network, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return channels, positions, and the most values that a layer reads and writes together."""
    width, height = resized_size(size, network[1])
    (channels, rows, columns), largest = map_sizes(network[0], height, width)
    return channels, rows * columns, largest


def _vector_bytes(profile: Profile, row: DenseRow) -> int:
    """Return the bytes that a compared method keeps of an image."""
    config = profile.comparison
    wide = min(config.dimensions, row.dimensions)
    if row.method == "vlad-plain":  # not compressed
        wide = config.vlad_words * _map(_main(profile), (400, 300))[0]
    return wide * row.bytes_per_value
