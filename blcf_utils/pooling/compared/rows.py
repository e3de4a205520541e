"""The rows of the comparison, declared: adding a row is one entry of ``ROWS``.

A row names its method, the network it needs and its vector's length; the labels say in which
tables it stands. The rows of the thesis come first, in its order; then the study's own.
"""

from __future__ import annotations

from typing import TypeVar

from blcf_utils.ground.errors import known
from blcf_utils.pooling.compared.row_kinds import (
    T10,
    T11,
    T13,
    AsmkRow,
    AugmentedRow,
    DenseRow,
    DetectorRow,
    OnlineCamRow,
    PatchSetRow,
    ReciprocalRow,
    Row,
    SiftRow,
    WordsRow,
)

_FC = "Off-the-shelf Fully connected / "
_CONV = "Off-the-shelf Convolutional / "
_TRAINED = "End-to-End Training / "
_HAND = "Hand-crafted methods / "

Kind = TypeVar("Kind", bound=Row)


def _row(kind: type[Kind], id: str, t13: str = "", t10: str = "", **options) -> Kind:
    labels = {T13: t13} if t13 else {}
    if t10:
        labels |= {T10: t10, T11: t10}
    return kind(id, labels, **options)


def _dense(id: str, method: str, t13: str = "", t10: str = "", **options) -> DenseRow:
    return _row(DenseRow, id, t13, t10, method=method, **options)


def _trained(id: str, method: str, t13: str = "", t10: str = "", **options) -> DenseRow:
    return _dense(id, method, t13, t10, off_the_shelf=False, **options)


# siaMAC and its like: the last convolution without the last pooling, and a whitening that was
# learned together with the network.
_SIAMAC = {"network": "vgg16", "layer": "conv5_3", "learned_whitening": True}

ROWS: tuple[Row, ...] = (
    _dense("neural-codes", "neural-codes", _FC + "Neural Codes [10]", dimensions=128),
    _row(
        PatchSetRow, "astounding", _FC + "CNNastounding [23]", method="astounding", dimensions=500
    ),
    _dense("mop", "mop", _FC + "MOP [76]", dimensions=2048),
    _dense("spoc", "spoc", _CONV + "SPoC [18]", dimensions=256),
    _dense("ng", "vlad", _CONV + "Ng et al [83]", dimensions=128),
    _row(PatchSetRow, "razavian", _CONV + "Razavian [78]", method="razavian"),
    _dense("rmac", "rmac", _CONV + "R-MAC [19]", "R-MAC [43]"),
    _dense("cam", "cam", _CONV + "CAM [87]"),
    _row(
        OnlineCamRow,
        "cam-online",
        "",
        "CAM [20]",
        method="cam-online",
        too_large_because="a vector for each of 1,000 classes, 1 MB of an image",
    ),
    _dense("crow", "crow", _CONV + "CroW [20]", "CroW [22]"),
    _trained("rmac-siamac", "rmac", "", "R-MAC [35]", **_SIAMAC),
    _trained(
        "rmac-resnet",
        "rmac",
        "",
        "R-MAC-ResNet [14]",
        network="resnet101",
        layer="layer4",
        dimensions=2048,
    ),
    _trained(
        "neural-codes-trained",
        "neural-codes",
        _TRAINED + "Neural Codes [10]",
        network="alexnet",
        layer="pool5",
        dimensions=128,
    ),
    _trained(
        "wan",
        "neural-codes",
        _TRAINED + "Wan [103]",
        network="alexnet",
        layer="pool5",
        dimensions=4096,
    ),
    _row(
        DetectorRow,
        "faster-rcnn",
        _TRAINED + "Faster-RCNN [85]",
        network="detector",
        off_the_shelf=False,
    ),
    _trained(
        "netvlad-trained",
        "netvlad-trained",
        _TRAINED + "NetVLAD [22]",
        network="vgg16",
        layer="conv5_3",
        relu="pre",
        dimensions=256,
    ),
    _trained("mac-trained", "mac", _TRAINED + "MAC [21]", **_SIAMAC),
    _trained("rmac-trained", "rmac", _TRAINED + "R-MAC [11]", **_SIAMAC),
    _trained(
        "rmac-resnet-trained",
        "rmac",
        _TRAINED + "R-MAC (ResNet101) [11]",
        network="resnet101",
        layer="layer4",
        dimensions=2048,
    ),
    _row(
        SiftRow,
        "bow-1m",
        _HAND + "BoW(1M)+QE [73]",
        impossible_because="needs one million SIFT words, and sift.words goes to 65,535; see "
        "SIFT-BoW",
    ),
    _row(
        SiftRow,
        "arandjelovic",
        _HAND + "Arandjelović [15]",
        impossible_because="needs RootSIFT at affine regions with discriminative query "
        "expansion, which this study does not have; see SIFT-BoW",
    ),
    _row(WordsRow, "blcf-salgan", "", "BLCF-SalGAN", weighting="SalGAN"),
    # The study's own rows.
    _dense("sum", "sum", _CONV + "sum pooling (uCroW)"),
    _dense("sum-plain", "sum-plain", _CONV + "sum pooling, no whitening"),
    _dense("mac", "mac", _CONV + "MAC, off-the-shelf"),
    _dense("mac-plain", "mac-plain", _CONV + "MAC, no whitening"),
    _dense("gem", "gem", _CONV + "GeM, off-the-shelf"),
    _dense("rmac-plain", "rmac-plain", _CONV + "R-MAC, no whitening"),
    _dense("vlad-plain", "vlad-plain", _CONV + "VLAD, not compressed"),
    _dense("netvlad", "netvlad", _CONV + "NetVLAD, k-means only", dimensions=256),
    _dense(
        "rmac-resnet18",
        "rmac",
        _CONV + "R-MAC, ResNet-18",
        network="resnet18",
        layer="layer3",
        weights="local",
        dimensions=256,
    ),
    _row(
        SiftRow,
        "sift",
        _HAND + "SIFT-BoW, verified",
        too_large_because="every keypoint for geometric verification, 290 KB of an image",
    ),
    _row(WordsRow, "blcf", _CONV + "BLCF LS", "BLCF"),
    _row(
        WordsRow,
        "blcf-rerank",
        _CONV + "BLCF LS + R",
        recipe="LS + R",
        expanded_recipe="LS + R + LQE",
    ),
    _row(
        WordsRow, "blcf-gaussian", _CONV + "BLCF-Gaussian LS", "BLCF-Gaussian", weighting="Gaussian"
    ),
    _row(
        WordsRow,
        "blcf-salgan-mini",
        _CONV + "BLCF-salgan-mini LS",
        "BLCF-salgan-mini",
        weighting="salgan-mini",
    ),
    _row(
        WordsRow,
        "blcf-elsewhere",
        _CONV + "BLCF LS, words learned elsewhere",
        "BLCF, words learned elsewhere",
        elsewhere=True,
    ),
    # The field after the thesis, on the same maps.
    _row(AugmentedRow, "rmac-dba", _CONV + "R-MAC, DBA", method="rmac"),
    _row(ReciprocalRow, "rmac-reciprocal", _CONV + "R-MAC, k-reciprocal", method="rmac"),
    _row(
        AsmkRow,
        "asmk",
        _CONV + "ASMK, BLCF's cells and words",
        too_large_because="a code for each of its words, up to 60 KB of an image",
    ),
)


def row(id: str) -> Row:
    """Return the row ``id``; an unknown one lists those there are."""
    found = [each for each in ROWS if each.id == id]
    if not found:
        raise known("row of the comparison", id, [each.id for each in ROWS])
    return found[0]


def rows_of(table_id: str) -> list[Row]:
    """Return the rows that stand in a table, in order."""
    return [each for each in ROWS if table_id in each.labels]
