"""The room a profile takes on the disk and in memory, from the counts of images.

An image of w x h pixels becomes a map of P positions and C channels; f is the interpolation of
assignment maps. Every image is counted once. Bytes on the disk for one image:

| what | bytes |
|---|---|
| feature maps | 2 P C (float16), for each network and size |
| visual words | 5 P f^2: 2 in the assignment map, 3 in the inverted file |
| weightings | 4 P (f^2 + 1), and 4 P f^2 in the inverted file, for each |
| saliency maps | 0.3 w h (PNG, measured), for each model |
| SIFT | 146 a keypoint: descriptor 128, place 16, word 2 |
| compared methods | those of a row's vector |

Of datasets that only join the comparison, such as those with distractors, a run keeps what the
comparison reads. While k-means learns, its descriptors (4 bytes a value) come on top. Small parts
are not counted: codebooks, maps of fine-tuned and of single rows' networks, results. ``MARGIN`` is
for them.

In memory, k-means holds two chunks of descriptors and three times its words; a forward pass
``batch_size`` times the largest input and output of a layer (4 bytes a value). The libraries come
on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.datasets.images import resized_size
from blcf_utils.features.networks.backbones import map_sizes
from blcf_utils.pooling.compared.row_kinds import DenseRow, Row, WordsRow
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
    kept = [row for row in rows if not row.too_large_because]
    compared = {row.weighting for row in kept if isinstance(row, WordsRow)} & set(weightings)
    main, full = networks = _networks(profile)
    others = [(backbone, main[1]) for backbone in profile.compare_backbones]
    needs, counted, positions = Counter(), set(), 0
    for one in sorted(counts, key=lambda one: one.name not in profile.datasets):
        images = sum(n for part, n in one.parts.items() if part not in counted)
        counted |= set(one.parts)
        if one.name in profile.datasets:
            each = _image_bytes(profile, one.size, {*networks, *others}, rows, weightings)
            each["SIFT"] = profile.sift.keypoints * KEYPOINT_BYTES
            positions = max(positions, one.images * _map(main, one.size)[1])
        else:
            each = _image_bytes(profile, one.size, {main, full}, kept, compared)
        for what, size in each.items():
            needs[what] += images * size
    learned = min(positions, profile.codebook.max_descriptors)
    needs["descriptors of k-means, while it learns"] = learned * profile.whitening.dimensions * 4
    return needs


def memory_needs(profile: Profile) -> Counter[str]:
    """Return the bytes that k-means holds, as ``disk_needs`` does."""
    words = profile.codebook.words
    size = (2 * CHUNK + 3 * words) * profile.whitening.dimensions * 4
    return Counter({f"k-means of {words:,} words (codebook.words)": size + LIBRARIES})


def forward_needs(profile: Profile, counts: Sequence[Counts]) -> Counter[str]:
    """Return the bytes that the largest forward pass holds, as ``disk_needs`` does."""
    batch = profile.features.batch_size
    values = max(_map(network, one.size)[2] for network in _networks(profile) for one in counts)
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


def _image_bytes(profile: Profile, size, networks, rows, weightings) -> Counter[str]:
    """Return what is kept of an image of ``size`` pixels (width, height)."""
    needs = Counter()
    for network in networks:
        channels, positions, _ = _map(network, size)
        what = f"feature maps of {network[0].label} at {network[1]} pixels"
        needs[what] = 2 * positions * channels
    positions, f2 = _map(_networks(profile)[0], size)[1], profile.encoding.interpolate**2
    needs["visual words"] = 5 * positions * f2
    needs["weightings"] = len(weightings) * 4 * positions * (2 * f2 + 1)
    needs["saliency maps"] = len(set(weightings) & set(MODELS)) * size[0] * size[1] * PNG_BYTES
    wide = profile.comparison.dimensions
    needs["vectors of compared methods"] = sum(
        min(wide, row.dimensions) * row.bytes_per_value for row in rows if isinstance(row, DenseRow)
    )
    return needs


def _networks(profile: Profile) -> tuple[Network, Network]:
    """Return the profile's own network, and what sum pooling reads of it at full resolution."""
    backbone, pooling = profile.features.backbone, profile.sum_pooling
    full = backbone.model_copy(update={"layer": pooling.full_layer or backbone.layer})
    return (backbone, profile.features.longest_side), (full, pooling.full_longest_side)


@cache
def _map(network: Network, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return channels, positions, and the most values that a layer reads and writes together."""
    width, height = resized_size(size, network[1])
    (channels, rows, columns), largest = map_sizes(network[0], height, width)
    return channels, rows * columns, largest
