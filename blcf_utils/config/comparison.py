"""Configuration of the compared methods: R-MAC and the rest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blcf_utils.ground.settings import Config


class ComparisonConfig(Config):
    """The methods that BLCF is compared with (tables t10, t11, t13 and x04)."""

    maps: Literal["same", "full"] = Field(
        "same", description="the maps that words are made of, or the last layer at full resolution"
    )
    learn_on: dict[str, str] = Field(
        default_factory=dict,
        description="dataset whose images teach a dataset's whitening and codebooks of the "
        "compared methods; the profile's first other dataset when not named",
    )
    same_dataset: bool = Field(
        False, description="allow a dataset to be its own teacher, which the field does not"
    )
    dimensions: int = Field(512, ge=1, description="at most, after PCA whitening")
    whiten_with: Literal["regions", "images"] = Field(
        "regions",
        description="vectors that teach a whitening: the R-MAC regions of the teacher's images, or "
        "one vector per image as the papers do, which needs thousands of images",
    )
    rmac_levels: int = Field(3, ge=1, le=7, description="scales of R-MAC's regions")
    rmac_whole: bool = Field(False, description="add the whole image to R-MAC's regions")
    gem_power: float = Field(3.0, ge=1, description="p of GeM; 1 is the mean")
    vlad_words: int = Field(100, ge=2, description="K of VLAD on local descriptors")
    netvlad_words: int = Field(64, ge=2, description="K of NetVLAD")
    cam_classes: int = Field(64, ge=1, description="how many classes CAM adds up")
    expansion: int = Field(10, ge=0, description="images that join the query in expansion")
    rerank: int = Field(1000, ge=0, description="images that R-MAC's AML re-ranks")
    rmac_expansion: int = Field(5, ge=0, description="the same as expansion, after AML")
    query: Literal["map", "pixels"] = Field(
        "map",
        description="what local search describes: the box's part of the query's feature map, or "
        "the map of the box cut out of the image, as the papers do except CAM's",
    )
    weights: dict[str, str] = Field(
        default_factory=dict,
        description="id of a fine-tuned row to the state dict that it needs",
    )
    whitening: dict[str, str] = Field(
        default_factory=dict,
        description="id of a fine-tuned row to a file with its learned whitening, tensors m (C) "
        "and P (D, C), in place of PCA",
    )

    @model_validator(mode="after")
    def _teachers_are_other_datasets(self):
        for dataset, teacher in self.learn_on.items():
            if dataset == teacher and not self.same_dataset:
                raise ValueError(
                    f"learn_on: {dataset} would be its own teacher, which the compared methods do "
                    "not allow; name another dataset or set comparison.same_dataset: true"
                )
        return self
