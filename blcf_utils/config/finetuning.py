"""Configuration of fine-tuning: which images train, mining, the networks and their training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blcf_utils.ground.settings import Config

Negatives = Literal["range", "hardest", "random"]


class MiningConfig(Config):
    """Triplets from the rankings of the fused system, as the slides draw them.

    "Positive pair: two images with a score larger than 15 (sharing 30 local SIFT matches)": a
    match counts one half. "A negative image is randomly selected from scores between 1 and 0.5":
    read as the cosine of words of an image without matches. The slides do not say how the two
    scores are added; this is the reading in which both sentences hold. Nor do they say whether
    the anchor is the image whose ranking was drawn or another of its images above the threshold
    ("positive pair (anchor and positive) two images with a score larger than 15"): ``anchor``.
    """

    recipe: str = Field("GS", description="search of convolutional words that ranks the images")
    images: int = Field(
        50, ge=1, description="first images of each search, by SIFT and by words, that are kept"
    )
    word_weight: float = Field(1.0, ge=0, description="of the cosine of convolutional words")
    match_weight: float = Field(0.5, ge=0, description="of one verified SIFT match")
    positive: float = Field(15.0, description="a positive scores more")
    anchor: Literal["query", "listed"] = Field(
        "query",
        description="the image that was ranked, or one of two images of its ranking that both "
        "score as positives do",
    )
    negative: tuple[float, float] = Field(
        (0.5, 1.0), description="a negative scores from the first to the second"
    )
    negatives: Negatives = Field(
        "range",
        description="drawn from the range above, from the best scores without a match, or from "
        "every training image without a match",
    )
    label_negatives: Negatives = Field(
        "hardest", description="the same where class labels choose the positives"
    )
    hardest: int = Field(10, ge=1, description="how many of the best scores negatives: hardest is")
    triplets: int = Field(2000, ge=1, description="how many are drawn")

    def document(self) -> dict:
        """Return the settings as plain JSON values; a default anchor keeps older keys valid."""
        document = super().document()
        if self.anchor == "query":
            del document["anchor"]
        return document

    @model_validator(mode="after")
    def _thresholds_in_order(self):
        low, high = self.negative
        if not low <= high < self.positive:
            raise ValueError(
                f"expected negative: [low, high] with low <= high < positive, found {low}, {high} "
                f"and {self.positive}"
            )
        return self


class ProjectionConfig(Config):
    """The projection of network B to a higher dimension."""

    dimensions: int = Field(4096, ge=1)
    place: Literal["pooled", "local"] = Field(
        "pooled", description="project the pooled descriptor, or every local one before the sum"
    )
    relu: bool = Field(False, description="rectify what was projected")
    seed: int = Field(0, description="of its random weights")

    def with_seed(self, number: int) -> ProjectionConfig:
        """Return the projection of a training's seed; number 0 is the untrained network's."""
        return self.model_copy(update={"seed": self.seed + number})


class FinetuneTrainingConfig(Config):
    """How the networks learn from triplets."""

    frozen: str = Field("", description="layer up to which weights stay; all are trained if empty")
    inputs: Literal["maps", "pixels"] = Field(
        "pixels",
        description="images are read and varied again at each step, or the frozen layers' maps "
        "are stored once: many times faster, without changes of colour or size",
    )
    size: int = Field(224, ge=32, description="side of the square crops, pixels; inputs: pixels")
    crop: float = Field(0.7, gt=0, le=1, description="least share of a side that a crop keeps")
    flip: bool = Field(True, description="mirror every second image")
    colour: float = Field(
        0.2, ge=0, lt=1, description="most change of brightness and contrast; inputs: pixels"
    )
    margin: float = Field(0.1, gt=0, description="alpha of the triplet loss")
    distance: Literal["squared", "euclidean"] = "squared"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0, description="highest rate of the cosine schedule")
    projection_rate: float = Field(10.0, gt=0, description="of the projection, times the rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0)
    batch: int = Field(8, ge=1, description="triplets at once")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    steps: int = Field(1000, ge=0)
    warmup: int = Field(20, ge=0, description="steps of linear warm-up")
    validate_every: int = Field(50, ge=1, description="steps between looks at held-out queries")
    validation_images: int = Field(
        200, ge=0, description="images beside the positives among which those queries search"
    )
    patience: int = Field(
        0, ge=0, description="stop after so many validations without a gain; 0 never stops"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights of the best validation after step 0, or of the last step"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    threads: int = Field(2, ge=0, description="most torch threads; 0 is as many as elsewhere")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"


class FinetuningConfig(Config):
    """Fine-tuning from the fused ranking (tables t06, t07 and t12)."""

    oxford: str = Field("", description="dataset that stands for Oxford, t06 and t12 train on it")
    instre: str = Field("", description="dataset that stands for INSTRE, t07 trains on it")
    folds: int = Field(
        3,
        ge=1,
        description="parts that instances are dealt to: the networks that answer a query never saw "
        "its instance; 1 is the slides' way: every image trains and every query tests",
    )
    tested: int = Field(0, ge=0, description="how many of the folds are tested; 0 is all")
    validation: float = Field(
        0.25, ge=0, lt=1, description="share of the training instances whose queries are held out"
    )
    saliency: str = Field("", description="row of t09 that t12 weighs words with; none when empty")
    mining: MiningConfig = MiningConfig()
    projection: ProjectionConfig = ProjectionConfig()
    training: FinetuneTrainingConfig = FinetuneTrainingConfig()
    seed: int = Field(0, description="of folds; the trainings' seeds follow from it")
    seeds: int = Field(
        3,
        ge=1,
        description="trainings of each network that tables take the mean of: they draw other "
        "triplets in another order, other crops, another projection; the folds stay",
    )

    @model_validator(mode="after")
    def _maps_need_frozen_layers(self):
        if self.training.inputs == "maps" and not self.training.frozen:
            raise ValueError(
                "training.inputs: maps stores the maps of frozen layers; name the last one in "
                "training.frozen, or set training.inputs: pixels"
            )
        return self

    @model_validator(mode="after")
    def _tested_folds_exist(self):
        if self.tested > self.folds:
            raise ValueError(f"tested: expected at most folds = {self.folds}, found {self.tested}")
        return self
