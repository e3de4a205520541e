"""What stages would take on a machine with a GPU, from assumptions that are named, not measured."""

from __future__ import annotations

from pydantic import Field, ValidationError

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.settings import Config

VGG, NETWORK, MATRIX, CORES = "GPU (VGG-16)", "GPU (network)", "GPU (matrix)", "CPU"
_NETWORKS = ("class-vectors", "detector", "finetuned")
_MATRICES = ("codebook", "sift_codebook", "sift_words", "assignment", "whitening",
             "pooled-whitening", "dense-codebook", "mop-codebook")  # fmt: skip
_BY_HAND = ("Itti-Koch", "BMS")


class Assumptions(Config):
    """The machine that seconds are predicted for.

    Nothing of it was measured; a ratio says how many times faster it is than the machine that ran.
    """

    name: str = Field("one data-centre GPU, 16 cores", description="for people")
    vgg_megapixels_per_s: float = Field(
        90.0,
        gt=0,
        description="input of VGG-16 up to conv5_1: about 1,000 images/s at 340 x 255 pixels",
    )
    network_ratio: float = Field(100.0, gt=0, description="other networks, against this CPU")
    matrix_ratio: float = Field(
        200.0, gt=0, description="matrix products: 20 TFLOP/s float32 against 0.1"
    )
    cores: int = Field(16, ge=1, description="what runs on the CPU grows with its cores")
    efficiency: float = Field(0.7, gt=0, le=1, description="of that growth")

    def sentence(self) -> str:
        """Say what is assumed."""
        return (
            f"Assumed, for {self.name}: {self.vgg_megapixels_per_s:g} megapixels/s of VGG-16's "
            f"input, {self.network_ratio:g} times this machine's speed for other networks and "
            f"{self.matrix_ratio:g} times for matrix products, {self.cores} cores at "
            f"{self.efficiency:.0%} of their number for the rest; disks of the same speed."
        )


def read_assumptions(changes: dict) -> Assumptions:
    """Return the assumptions with some changed.

    Raises:
        StudyError: an unknown one, or a value out of range.
    """
    try:
        return Assumptions(**changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise StudyError(
            f"assumption {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; expected some "
            f"of {', '.join(Assumptions.model_fields)}"
        ) from None


def runs_on(stage: str, of: str) -> str:
    """Return where a stage would run."""
    if stage == "features":
        return VGG if "-vgg16-" in of else NETWORK
    if stage == "saliency":
        return CORES if of.endswith(_BY_HAND) else NETWORK
    if stage in _NETWORKS:
        return NETWORK
    return MATRIX if stage in _MATRICES else CORES


def predicted_seconds(
    extrapolated: float,
    images: int,
    side: int | None,
    on: str,
    cores: int,
    assumptions: Assumptions,
) -> float:
    """Return how long a stage at its full number of images and settings is assumed to take.

    Args:
        extrapolated: seconds of all of it on the machine that ran.
        images: how many it goes through.
        side: their longest side in pixels, where it has a setting for that.
        on: where it would run (see :func:`runs_on`).
        cores: of the machine that ran.
        assumptions: about the other one.
    """
    if on == VGG and images and side:
        # Photographs of 4:3; each is as long as its longest side says.
        return images * (side * side * 0.75 / 1e6) / assumptions.vgg_megapixels_per_s
    ratio = {
        VGG: assumptions.network_ratio,
        NETWORK: assumptions.network_ratio,
        MATRIX: assumptions.matrix_ratio,
        CORES: max(1.0, assumptions.efficiency * assumptions.cores / cores),
    }[on]
    return extrapolated / ratio
