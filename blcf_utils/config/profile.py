"""Typed configuration: every knob of the study, validated, frozen and hashable to a digest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from blcf_utils.config.comparison import ComparisonConfig
from blcf_utils.config.finetuning import FinetuningConfig
from blcf_utils.config.saliency import SaliencyConfig
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import project_root
from blcf_utils.ground.settings import Config

# What may stand in a table's row and in a file's name.
NAME = re.compile(r"[\w][\w .+()-]*")

Assignment = Literal["exact", "hnsw", "ivf"]
Resize = Literal["antialias", "plain"]
Alpha = Literal["white", "drop"]


class Normalisation(Config):
    """What is subtracted from RGB in [0, 1], and what the rest is divided by."""

    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class BackboneConfig(Config):
    """Which network, which layer, whose weights."""

    name: str = Field("vgg16", description="of the study's backbones, or timm:NAME")
    layer: str = Field("conv5_1", description="a layer name of the backbone, Caffe style for VGG")
    relu: Literal["post", "pre"] = Field("post", description="read the layer after or before ReLU")
    weights: str = Field(
        "auto",
        description="auto (local if there is a file, else torchvision or timm, else the embedded "
        "network), local (found in BLCF_WEIGHTS), torchvision or timm (downloaded), embedded, "
        "random, or the path of a state dict",
    )
    classifier: str = Field(
        "",
        description="second weights of the same network for the compared methods that read a "
        "classifier, which then use its trunk as well: torchvision, or the path of a state dict",
    )
    normalisation: Literal["auto", "imagenet", "caffe"] | Normalisation = Field(
        "auto", description="of the pixels; auto is what the weights say or are known by"
    )
    seed: int = Field(0, description="used by weights: random only")

    @property
    def label(self) -> str:
        """A short name for tables, such as ``vgg16 conv5_1 (torchvision)``."""
        origin = self.weights if "/" not in self.weights else Path(self.weights).name
        before = " before ReLU" if self.relu == "pre" else ""
        seed = f" {self.seed}" if self.weights == "random" and self.seed else ""
        return f"{self.name} {self.layer}{before} ({origin}{seed})"


class FeatureConfig(Config):
    """How images become feature maps."""

    backbone: BackboneConfig = BackboneConfig()
    longest_side: int = Field(340, ge=32, description="pixels; aspect kept, small images enlarged")
    resize: Resize = Field(
        "antialias", description="bilinear, over all pixels or between the nearest four (plain)"
    )
    alpha: Alpha = Field(
        "white", description="transparent images: shown on white, or the colours below (drop)"
    )
    batch_size: int = Field(8, ge=1, description="most images per forward pass")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = Field("auto", description="auto (GPU when present), cpu, cuda, cuda:1 ...")
    on_corrupt: Literal["error", "skip"] = Field("error", description="an unreadable image")


class WhiteningConfig(Config):
    """PCA whitening of the L2-normalised local descriptors."""

    dimensions: int = Field(512, ge=1)
    max_descriptors: int = Field(3_000_000, ge=1)


class CodebookConfig(Config):
    """k-means over whitened local descriptors."""

    words: int = Field(25_000, ge=2, le=65_535, description="K; assignment maps are uint16")
    iterations: int = Field(20, ge=1)
    max_descriptors: int = Field(3_000_000, ge=2)
    assignment: Assignment = Field(
        "exact", description="nearest word in each iteration of k-means: exact, hnsw or ivf"
    )
    assignment_effort: int = Field(0, ge=0, description="as that of encoding")
    min_gain: float = Field(
        1e-4, ge=0, lt=1, description="stop when an iteration gains less than this share of all"
    )

    def document(self) -> dict:
        """Return the settings as plain JSON values; ``min_gain`` has its own place in the key."""
        document = super().document()
        del document["min_gain"]
        return document


class EncodingConfig(Config):
    """How a feature map becomes an assignment map, and a map a histogram."""

    interpolate: int = Field(2, ge=1, le=4, description="bilinear upsampling before assignment")
    box: Literal["edges", "mask"] = Field(
        "edges", description="box to cells: floor and ceil of its edges, or cells half covered"
    )
    idf: bool = Field(False, description="weight words by log(N / images that hold the word)")
    index_weights: Literal["exact", "uint8"] = Field(
        "exact", description="what the index keeps of weights that are no counts: 16 bits, or 8"
    )
    assignment: Assignment = Field(
        "exact", description="nearest word of a descriptor: exact, or found by hnsw or ivf"
    )
    assignment_effort: int = Field(
        0, ge=0, description="efSearch of hnsw, cells looked at of ivf; 0 is 64 and 16"
    )


class RerankingConfig(Config):
    """Spatial re-ranking (R): windows of the assignment map against the query."""

    images: int = Field(100, ge=1, description="how many of the first images are re-ranked")
    sizes: tuple[Annotated[float, Field(ge=0.05, le=1)], ...] = Field(
        (1.0, 0.5, 0.25), min_length=1, description="window sides, as shares of the map's sides"
    )
    aspect: float = Field(
        0.4, ge=0, le=1, description="least ratio of the window's and the query's aspect ratios"
    )
    pyramid: bool = Field(True, description="compare the four quarters of the window as well")
    level_weights: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.5, 1.0), description="of the whole window and of its quarters; their sum becomes 1"
    )
    aggregation: Literal["mean", "max"] = Field(
        "mean", description="how the similarities of the four quarters become one"
    )
    query: Literal["box", "search"] = Field(
        "box", description="windows are compared with the query's box, or with what was searched"
    )


class ExpansionConfig(Config):
    """Query expansion (GQE, LQE): a second search with the first one's best images."""

    images: int = Field(
        10, ge=0, description="N, how many images join the query; 0 changes nothing"
    )
    alpha: float = Field(
        0.0, ge=0, description="an image weighs score ** alpha (alpha-QE); 0 is the plain average"
    )
    query_weight: float = Field(1.0, ge=0, description="of the query itself")


class AugmentationConfig(Config):
    """Query augmentation (+Q_aug): the query image again, mirrored and closer."""

    flip: bool = Field(True, description="add the mirror image")
    zoom: float = Field(
        1.5, ge=1, description="add the centre, enlarged so many times (and its mirror); 1 is off"
    )


class VerificationConfig(Config):
    """Geometric verification of SIFT matches with a homography."""

    images: int = Field(
        100, ge=0, description="how many of the first images are verified; 0 is none"
    )
    ratio: float = Field(0.8, gt=0, le=1, description="nearest against second nearest descriptor")
    pixels: float = Field(5.0, gt=0, description="how far a match may lie from the homography")
    least: int = Field(8, ge=4, description="fewer inliers count as none")


class SiftConfig(Config):
    """SIFT bags of words, the rival and partner of convolutional words."""

    keypoints: int = Field(800, ge=1, description="most per image, strongest first")
    longest_side: int = Field(1024, ge=32, description="pixels; larger images are shrunk to it")
    root: bool = Field(True, description="RootSIFT instead of SIFT")
    dense: bool = Field(False, description="descriptors on a grid instead of at keypoints")
    words: int = Field(4096, ge=2, le=65_535, description="K of its own codebook")
    iterations: int = Field(20, ge=1)
    min_gain: float = Field(1e-4, ge=0, lt=1, description="as that of codebook")
    max_descriptors: int = Field(3_000_000, ge=2)
    idf: bool = Field(True, description="weight words by log(N / images that hold the word)")
    burstiness: Literal["sqrt", "none"] = Field(
        "sqrt", description="square root of counts, or counts as they are"
    )
    verification: VerificationConfig = VerificationConfig()


class FusionConfig(Config):
    """Late fusion of convolutional and SIFT words.

    The defaults are the fusion that the slides' numbers imply: "a score larger than 15 (sharing 30
    local SIFT matches)" is half of a cosine and half of the number of verified matches.
    """

    recipe: str = Field("LS + R + LQE", description="search of convolutional words that is fused")
    verified: bool = Field(True, description="SIFT with verified matches, or its words only")
    kind: Literal["score", "rank"] = "score"
    normalise: Literal["none", "max", "minmax", "zscore"] = Field(
        "none", description="of the scores of one ranking, before they are added"
    )
    weight: float = Field(0.5, ge=0, le=1, description="of the convolutional words")
    rank_constant: float = Field(60.0, gt=0, description="k of 1 / (k + rank), kind: rank only")


class SumPoolingConfig(Config):
    """Sum pooling of the same feature maps, the study's dense baseline."""

    whiten: bool = Field(
        False, description="PCA-whiten the pooled vectors (table t03 measures both)"
    )
    dimensions: int = Field(512, ge=1, description="at most; fewer on a small database")
    full_layer: str = Field(
        "", description="layer of the rows at full resolution; the backbone's own when empty"
    )
    full_longest_side: int = Field(1024, ge=32, description="pixels, of the same rows")


class WeightingConfig(Config):
    """Spatial weighting of database images (tables t08 and t09)."""

    search: str = Field(
        "None", description="the weighting of every search of the study, a row of table t09"
    )
    box: Literal["", "edges", "mask"] = Field(
        "", description="encoding.box of tables t09 to t13 and x04; the same when empty"
    )
    gaussian: Literal["minmax", "plain", "linear", "inverse"] = Field(
        "minmax", description="formula of the centre prior"
    )
    sigma: float = Field(
        1 / 3, gt=0, description="of the centre prior, as a share of the map's shorter side"
    )
    rmac_levels: int = Field(3, ge=1, le=6, description="scales of R-MAC's regions")
    folders: dict[str, str] = Field(
        default_factory=dict,
        description="row name to a folder of precomputed saliency maps; {dataset} in it is the "
        "dataset's name",
    )

    @model_validator(mode="after")
    def _folders_have_names_of_their_own(self):
        for name in self.folders:
            if name in ("None", "Gaussian", "L2-norm", "R-MAC") or not NAME.fullmatch(name):
                raise ValueError(
                    f"folders: {name!r} cannot be the name of saliency maps; take a word that is "
                    "not None, Gaussian, L2-norm or R-MAC"
                )
        return self


class DistractorConfig(Config):
    """Benchmarks among 100,071 distractors (Oxford105k, Paris106k)."""

    datasets: tuple[str, ...] = Field(
        (),
        description="measured in the comparison only (t10, t11, t13 and x04); one that stands in "
        "the profile's datasets is in every table",
    )


class Profile(Config):
    """One complete configuration of the study (``data/profiles/<name>.yaml``)."""

    name: str
    description: str = ""
    datasets: tuple[str, ...] = Field(min_length=1)
    learn_on: dict[str, str] = Field(
        default_factory=dict,
        description="dataset whose images teach whitening and codebook; itself when not named",
    )
    features: FeatureConfig = FeatureConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    codebook: CodebookConfig = CodebookConfig()
    encoding: EncodingConfig = EncodingConfig()
    reranking: RerankingConfig = RerankingConfig()
    expansion: ExpansionConfig = ExpansionConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    sift: SiftConfig = SiftConfig()
    fusion: FusionConfig = FusionConfig()
    sum_pooling: SumPoolingConfig = SumPoolingConfig()
    weighting: WeightingConfig = WeightingConfig()
    saliency: SaliencyConfig = SaliencyConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    compare_backbones: tuple[BackboneConfig, ...] = Field(
        (), description="further backbones for table x01"
    )
    distractors: DistractorConfig = DistractorConfig()
    dataset_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="options of a dataset's loader, by dataset name"
    )
    notebooks: tuple[str, ...] = Field((), description="which notebooks run; all when empty")
    parameters: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="notebook parameters, by notebook name"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _options_belong_to_datasets(self):
        for key in ("learn_on", "dataset_options"):
            for name in getattr(self, key):
                if name not in self.all_datasets:
                    raise ValueError(
                        f"{key} names {name}, which is not one of datasets "
                        f"({', '.join(self.all_datasets)})"
                    )
        return self

    @property
    def all_datasets(self) -> tuple[str, ...]:
        """The datasets, and then those that are measured in the comparison only."""
        return tuple(dict.fromkeys(self.datasets + self.distractors.datasets))

    def changed(self, settings: Mapping[str, Any]) -> Profile:
        """Return this profile with dotted settings changed: ``{"codebook.words": 512}``.

        Another backbone takes the place of the whole group, and of the layer that sum pooling
        uses at full resolution: a layer name of one network means nothing in another.

        Raises:
            StudyError: unknown key, or a value of the wrong type or range.
        """
        values = apply_settings(self.document(), _as_json(settings))
        after = values["features"]["backbone"]["name"]
        if after != self.features.backbone.name and "sum_pooling.full_layer" not in settings:
            values["sum_pooling"] = {**values["sum_pooling"], "full_layer": ""}
        return _validated(self.name, values)

    def at_full_resolution(self) -> Profile:
        """Return this profile on the layer and size at which Kalantidis et al. pool."""
        pooling, features = self.sum_pooling, self.features
        return self.changed(
            {
                "features.backbone.layer": pooling.full_layer or features.backbone.layer,
                "features.longest_side": pooling.full_longest_side,
            }
        )

    def teacher_of(self, dataset: str) -> str:
        """Return the dataset on which ``dataset``'s whitening and codebook are learned."""
        return self.learn_on.get(dataset, dataset)


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        # A change of backbone replaces the whole group: a layer name of one network means
        # nothing in another.
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "backbone"
        merged[key] = _merge(base[key], value) if nested else value
    return merged


def profile_names() -> list[str]:
    """Return the names of the profiles in ``data/profiles``."""
    return sorted(p.stem for p in (project_root() / "data" / "profiles").glob("*.yaml"))


def _read_profile(name: str, seen: tuple[str, ...] = ()) -> dict:
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else project_root() / "data" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise known("profile", name, profile_names())
    if name in seen:
        raise StudyError(f"{path}: extends itself through {' -> '.join([*seen, name])}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not valid YAML ({error})".replace("\n", " ")) from None
    if not isinstance(values, dict):
        raise StudyError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    values.setdefault("name", path.stem)
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        raise StudyError(f"{path}: extends: expected the name of a profile, found {base!r}")
    return _merge(_read_profile(base, (*seen, name)), values) if base else values


def apply_settings(values: dict, settings: dict[str, Any]) -> dict:
    """Return ``values`` with dotted keys replaced: ``{"codebook.words": 512}``."""
    for dotted, value in settings.items():
        nested: dict = {}
        inner = nested
        *groups, last = dotted.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
        if groups == ["features", "backbone"]:  # single backbone settings are merged, not replaced
            current = dict(values.get("features", {}).get("backbone", {}))
            nested = {"features": {"backbone": {**current, last: value}}}
        values = _merge(values, nested)
    return values


def load_profile(name: str, settings: dict[str, Any] | None = None) -> Profile:
    """Read a profile by name or YAML path, follow ``extends`` and apply dotted settings.

    Args:
        name: a name in ``data/profiles`` or the path of a YAML file.
        settings: changes such as ``{"codebook.words": 2048}``.

    Raises:
        StudyError: unknown profile, unknown key, or a value of the wrong type or range.
    """
    return _validated(name, apply_settings(_read_profile(name), settings or {}))


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with groups, such as a backbone, as plain values."""
    return {
        key: value.document() if isinstance(value, Config) else value
        for key, value in settings.items()
    }


def _validated(name: str, values: dict) -> Profile:
    try:
        return Profile(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        said = first["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        if first["type"] == "extra_forbidden":
            said = f"unknown key; expected one of {', '.join(_keys_beside(first['loc']))}"
        raise StudyError(f"profile {name}: {key}: {said}") from None


def _keys_beside(place: tuple) -> list[str]:
    """Return the keys a profile knows where ``place`` (a path of keys) ends."""
    group: Any = Profile
    for part in place[:-1]:
        found = group.model_fields[part].annotation if isinstance(part, str) else group
        # A tuple of groups, such as compare_backbones, stands for the group it holds.
        group = found if isinstance(found, type) else get_args(found)[0]
    return list(group.model_fields)
