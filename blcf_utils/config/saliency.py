"""Settings of the saliency models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from blcf_utils.ground.settings import Config

# The ICCV release's own constants; an explicit setting wins.
ICCV = {"max_dim": 600, "omega": 7, "kappa": 23, "sigma": 20, "whitening": False}
# The longer side for which each version's widths are published.
PUBLISHED_DIM = {"tpami": 400, "iccv": 600}

Level = Annotated[int, Field(ge=0, le=6)]
Delta = Annotated[int, Field(ge=1, le=6)]


class IttiKochConfig(Config):
    """Itti-Koch saliency; the defaults are the model of 1998."""

    normalisation: Literal["local_max", "iterative"] = Field(
        "local_max", description="N(.): by the mean of other maxima (1998), or iterative (2000)"
    )
    iterations: int = Field(3, ge=1, le=20, description="of the iterative normalisation")
    longest_side: int = Field(
        640,
        ge=64,
        le=4096,
        description="pixels; images are resized to it, for level 8 to have more than one pixel",
    )
    centre_levels: tuple[Level, ...] = Field(
        (2, 3, 4), min_length=1, description="pyramid levels of the centre, 0 is the image"
    )
    deltas: tuple[Delta, ...] = Field(
        (3, 4), min_length=1, description="how many levels coarser the surround is"
    )
    map_level: Level = Field(4, description="pyramid level of the saliency map")
    weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        (1.0, 1.0, 1.0), description="of intensity, colour and orientation"
    )

    @model_validator(mode="after")
    def _some_weight(self):
        if not any(self.weights):
            raise ValueError("weights: all zero; give one of them a positive value")
        return self


class BmsConfig(Config):
    """Boolean map saliency; defaults of the TPAMI release, or with version: iccv of that one."""

    version: Literal["tpami", "iccv"] = Field(
        "tpami", description="iccv brings its own max_dim, kappa and sigma, and does not whiten"
    )
    delta: int = Field(8, ge=1, le=255, description="grey levels between thresholds; 24 is fast")
    max_dim: int = Field(
        400, ge=16, le=4096, description="pixels of the longer side, to which images are resized"
    )
    omega: int = Field(
        7, ge=1, le=99, description="pixels, dilation of a Boolean map's regions; 1 is none"
    )
    kappa: int = Field(9, ge=1, le=199, description="pixels, dilation of the sum; 1 is none")
    sigma: int = Field(9, ge=0, le=99, description="pixels, Gaussian blur of the sum; 0 is none")
    whitening: bool = Field(True, description="decorrelate the colour channels, tpami only")
    lab: Literal["authors", "correct"] = Field(
        "authors", description="Lab of red and blue exchanged, as in the authors' code, or of RGB"
    )

    @model_validator(mode="before")
    @classmethod
    def _constants_of_the_version(cls, values):
        if isinstance(values, dict) and values.get("version") == "iccv":
            return {**ICCV, **values}
        return values

    @model_validator(mode="after")
    def _whitening_belongs_to_tpami(self):
        if self.version == "iccv" and self.whitening:
            raise ValueError("whitening belongs to version: tpami; leave it out with version: iccv")
        return self

    def scaled(self, pixels: int) -> int:
        """Return a width in pixels at ``max_dim``: widths are published for one image size.

        The default sizes leave every width as it is. Rounded as the authors' wrapper does.
        """
        return int(pixels * self.max_dim / PUBLISHED_DIM[self.version] + 0.5)


class SaliencyConfig(Config):
    """Saliency models."""

    itti_koch: IttiKochConfig = IttiKochConfig()
    bms: BmsConfig = BmsConfig()
    weights: dict[Literal["SalNet", "SalGAN", "SAM-VGG", "SAM-ResNet"], str] = Field(
        default_factory=dict,
        description="official model (SalNet, SalGAN, SAM-VGG, SAM-ResNet) to the path of its "
        "weights; found by their file names when not given",
    )
