"""The rows of the comparison, declared: adding a row is one entry of ``ROWS``.

A row names its method, the network it needs and its vector's length; the labels say in which
tables it stands. The rows of the thesis come first, in its order; then the study's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blcf_utils.ground.errors import known

T10, T11, T13 = "t10_comparison", "t11_comparison_expansion", "t13_state_of_the_art"
_FC = "Off-the-shelf Fully connected / "
_CONV = "Off-the-shelf Convolutional / "
_TRAINED = "End-to-End Training / "
_HAND = "Hand-crafted methods / "


@dataclass(frozen=True)
class Row:
    """One row of the comparison.

    Attributes:
        id: names it in ``comparison.weights`` and on the command line.
        method: a name of ``comparison.methods.METHODS``, or ``words``, ``sift``, ``detector``.
        labels: table to the row's label there.
        dimensions: the most values of its vector after PCA.
        network, layer: a network other than the profile's own; empty for that.
        weights: where its weights are; ``comparison.weights`` must give them when empty.
        recipe, expanded: recipes of words without and with expansion.
        weighting: weighting of words, a row of table t09.
        off_the_shelf: nothing was trained for retrieval.
        never: why no run of this study can measure it.
        bulky: what it keeps of an image, where that is too much for 100,000 distractors.
    """

    id: str
    method: str
    labels: dict[str, str] = field(default_factory=dict)
    dimensions: int = 512
    network: str = ""
    layer: str = ""
    weights: str = ""
    recipe: str = "LS"
    expanded: str = "LS + GQE"
    weighting: str = "None"
    off_the_shelf: bool = True
    never: str = ""
    bulky: str = ""

    @property
    def label(self) -> str:
        """Its label in the table of all methods: that of t13 without the group, or of t10."""
        text = self.labels.get(T13) or self.labels.get(T10) or self.id
        return text.split(" / ")[-1]


def _row(id: str, method: str, t13: str = "", t10: str = "", **options) -> Row:
    labels = {T13: t13} if t13 else {}
    if t10:
        labels |= {T10: t10, T11: t10}
    return Row(id, method, labels, **options)


def _trained(id: str, method: str, t13: str = "", t10: str = "", **options) -> Row:
    return _row(id, method, t13, t10, off_the_shelf=False, **options)


# What has a classifier on every machine.
_MINI = {"network": "vgg-mini", "layer": "conv5_1", "weights": "embedded"}

ROWS: tuple[Row, ...] = (
    _row("neural-codes", "neural-codes", _FC + "Neural Codes [10]", dimensions=128),
    _row("astounding", "astounding", _FC + "CNNastounding [23]", dimensions=500),
    _row("mop", "mop", _FC + "MOP [76]", dimensions=2048),
    _row("spoc", "spoc", _CONV + "SPoC [18]", dimensions=256),
    _row("ng", "vlad", _CONV + "Ng et al [83]", dimensions=128),
    _row("razavian", "razavian", _CONV + "Razavian [78]"),
    _row("rmac", "rmac", _CONV + "R-MAC [19]", "R-MAC [43]"),
    _row("cam", "cam", _CONV + "CAM [87]"),
    _row(
        "cam-online",
        "cam-online",
        "",
        "CAM [20]",
        bulky="a vector for each of 1,000 classes, 1 MB of an image",
    ),
    _row("crow", "crow", _CONV + "CroW [20]", "CroW [22]"),
    _trained("rmac-siamac", "rmac", "", "R-MAC [35]", network="vgg16", layer="pool5"),
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
    _trained("faster-rcnn", "detector", _TRAINED + "Faster-RCNN [85]", network="detector"),
    _trained(
        "netvlad-trained",
        "netvlad-trained",
        _TRAINED + "NetVLAD [22]",
        network="vgg16",
        layer="conv5_3",
        dimensions=256,
    ),
    _trained("mac-trained", "mac", _TRAINED + "MAC [21]", network="vgg16", layer="pool5"),
    _trained("rmac-trained", "rmac", _TRAINED + "R-MAC [11]", network="vgg16", layer="pool5"),
    _trained(
        "rmac-resnet-trained",
        "rmac",
        _TRAINED + "R-MAC (ResNet101) [11]",
        network="resnet101",
        layer="layer4",
        dimensions=2048,
    ),
    _row(
        "bow-1m",
        "sift",
        _HAND + "BoW(1M)+QE [73]",
        never="needs one million SIFT words, and sift.words goes to 65,535; see SIFT-BoW",
    ),
    _row(
        "arandjelovic",
        "sift",
        _HAND + "Arandjelović [15]",
        never="needs RootSIFT at affine regions with discriminative query expansion, which this "
        "study does not have; see SIFT-BoW",
    ),
    _row("blcf-salgan", "words", "", "BLCF-SalGAN", weighting="SalGAN"),
    # The study's own rows.
    _row("sum", "sum", _CONV + "sum pooling (uCroW)"),
    _row("sum-plain", "sum-plain", _CONV + "sum pooling, no whitening"),
    _row("mac", "mac", _CONV + "MAC, off-the-shelf"),
    _row("mac-plain", "mac-plain", _CONV + "MAC, no whitening"),
    _row("gem", "gem", _CONV + "GeM, off-the-shelf"),
    _row("rmac-plain", "rmac-plain", _CONV + "R-MAC, no whitening"),
    _row("vlad-plain", "vlad-plain", _CONV + "VLAD, not compressed"),
    _row("netvlad", "netvlad", _CONV + "NetVLAD, k-means only", dimensions=256),
    _row("cam-vgg-mini", "cam", _CONV + "CAM, vgg-mini", **_MINI),
    _row("neural-codes-vgg-mini", "neural-codes", _FC + "Neural Codes, vgg-mini", **_MINI),
    _row("rmac-vgg-mini", "rmac", _CONV + "R-MAC, vgg-mini", **_MINI),
    _row(
        "rmac-resnet18",
        "rmac",
        _CONV + "R-MAC, ResNet-18",
        network="resnet18",
        layer="layer3",
        weights="local",
        dimensions=256,
    ),
    _row(
        "sift",
        "sift",
        _HAND + "SIFT-BoW, verified",
        bulky="every keypoint for geometric verification, 290 KB of an image",
    ),
    _row("blcf", "words", _CONV + "BLCF LS", "BLCF"),
    _row(
        "blcf-rerank",
        "words",
        _CONV + "BLCF LS + R",
        recipe="LS + R",
        expanded="LS + R + LQE",
    ),
    _row(
        "blcf-gaussian", "words", _CONV + "BLCF-Gaussian LS", "BLCF-Gaussian", weighting="Gaussian"
    ),
    _row(
        "blcf-salgan-mini",
        "words",
        _CONV + "BLCF-salgan-mini LS",
        "BLCF-salgan-mini",
        weighting="salgan-mini",
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
