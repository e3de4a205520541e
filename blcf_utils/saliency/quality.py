"""How well a saliency map tells where people look: CC, SIM, KL, NSS and AUC-Judd.

The formulas are those of the MATLAB code of the MIT saliency benchmark, surveyed by Bylinskii et
al., "What do different evaluation metrics tell us about saliency models?" (arXiv:1604.03605).
Where that code and the Python package pysaliency differ, MATLAB's choice is taken throughout: NSS
divides by the sample standard deviation (n - 1; pysaliency n), and SIM stretches both maps to
[0, 1] before it makes their sums 1 (pysaliency only makes their sums 1). What MATLAB leaves
undefined is defined here: a map that is the same everywhere says nothing, so its CC and NSS are 0,
its AUC is 0.5, and for SIM and KL it is the uniform distribution.

No eye was tracked in this study. ``fixation_density`` and ``sample_fixations`` make stand-ins from
the mask of an object, and ``judge`` scores a map against them; such scores rank models on the
same scenes and must not be compared with published ones.
"""

from __future__ import annotations

import cv2
import numpy as np

from blcf_utils.ground.errors import StudyError

EPSILON = float(np.finfo(np.float64).eps)  # MATLAB's eps, 2.2204e-16
# A choice: on a 640 x 480 image 27 pixels, enough to smooth an outline but not to lose an object.
SIGMA = 1 / 24


def cc(saliency: np.ndarray, density: np.ndarray) -> float:
    """Return Pearson's correlation of a map and a fixation density, in [-1, 1].

    Args:
        saliency: the predicted map (H, W), on any scale.
        density: the fixation density (H, W), at least 0, not 0 everywhere.

    Returns:
        The correlation; 0 where one of the two is constant.

    Raises:
        StudyError: not two finite maps of one shape, or an empty density.
    """
    saliency = _map(saliency)
    density = _density(density, saliency)
    if _constant(saliency) or _constant(density):
        return 0.0
    a, b = _unit_range(saliency), _unit_range(density)
    a, b = (a - a.mean()).ravel(), (b - b.mean()).ravel()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def sim(saliency: np.ndarray, density: np.ndarray) -> float:
    """Return the histogram intersection of a map and a fixation density, in [0, 1].

    sum min(S', G'), where both maps were stretched to [0, 1] and then divided by their sums; a
    constant map counts as uniform. Arguments and errors are those of ``cc``.
    """
    saliency = _map(saliency)
    density = _density(density, saliency)
    a, b = _distribution(_unit_range(saliency)), _distribution(_unit_range(density))
    return float(np.minimum(a, b).sum())


def kl(saliency: np.ndarray, density: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of a map from a fixation density; lower is better.

    sum G' log(eps + G' / (S' + eps)), both maps divided by their sums, which forbids a map with
    negative values: such a one is first shifted to start at 0, as pysaliency does. A map that is
    0 everywhere counts as uniform. Arguments and errors are those of ``cc``.
    """
    saliency = _map(saliency)
    density = _density(density, saliency)
    saliency = saliency - min(saliency.min(), 0.0)
    a, b = _distribution(saliency), _distribution(density)
    return float((b * np.log(EPSILON + b / (a + EPSILON))).sum())


def nss(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Return the normalised scanpath saliency: the mean z-score of a map where people looked.

    Args:
        saliency: the predicted map (H, W), on any scale.
        fixations: the fixated pixels (H, W), bool.

    Returns:
        Standard deviations above the map's mean; 0 for a constant map.

    Raises:
        StudyError: not a finite map and fixations of one shape, or no fixation.
    """
    saliency = _map(saliency)
    fixations = _fixations(fixations, saliency)
    if _constant(saliency):
        return 0.0
    saliency = _unit_range(saliency)
    return float((saliency[fixations].mean() - saliency.mean()) / saliency.std(ddof=1))


def auc_judd(saliency: np.ndarray, fixations: np.ndarray, *, seed: int = 0) -> float:
    """Return the area under the ROC curve of Judd et al., in [0, 1].

    Thresholds are the map's values at the n fixations. At the i-th largest of them the rate of
    hits is i / n, that of false alarms (#{S >= threshold} - i) / (N - n); the curve goes from
    (0, 0) to (1, 1) in straight lines. MATLAB adds uniform noise of 1e-7 so that no two pixels
    are equal. Here that noise orders equal pixels only, which is the same for 8-bit maps and
    makes the result independent of the map's scale.

    Args:
        saliency: the predicted map (H, W), on any scale.
        fixations: the fixated pixels (H, W), bool; at least one pixel is none.
        seed: of the noise.

    Returns:
        The area; 0.5 for a constant map.

    Raises:
        StudyError: not a finite map and fixations of one shape, no fixation or nothing else.
    """
    saliency = _map(saliency)
    fixations = _fixations(fixations, saliency)
    total, hits = fixations.size, int(fixations.sum())
    if hits == total:
        raise StudyError(
            f"AUC-Judd: all {total:,} pixels are fixations, expected some that are not; give fewer "
            "fixations"
        )
    if _constant(saliency):
        return 0.5
    noise = np.random.default_rng(seed).random(total)
    order = np.lexsort((noise, saliency.ravel()))[::-1]
    at_least = np.flatnonzero(fixations.ravel()[order]) + 1  # pixels up to each fixation
    found = np.arange(1, hits + 1)
    true_rate = np.concatenate(([0], found / hits, [1]))
    false_rate = np.concatenate(([0], (at_least - found) / (total - hits), [1]))
    return float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2).sum())


def fixation_density(mask: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Return a stand-in for where people look: the mask of an object, blurred.

    Args:
        mask: the object's pixels (H, W), bool or non-zero.
        sigma: of the Gaussian, as a share of the longer side. Its default is a choice.

    Returns:
        The density (H, W), float64, with sum 1. Outside the image there is nothing, so an object
        at the border loses what is blurred across it.

    Raises:
        StudyError: not a mask (H, W), an empty one, or a sigma that is not above 0.
    """
    mask = _fixations(mask, None, "mask")
    if not 0 < sigma < np.inf:
        raise StudyError(f"fixation density: sigma is {sigma}, expected a share above 0; change it")
    pixels = sigma * max(mask.shape)
    side = 2 * int(np.ceil(4 * pixels)) + 1
    density = cv2.GaussianBlur(
        mask.astype(np.float64), (side, side), pixels, borderType=cv2.BORDER_CONSTANT
    )
    return density / density.sum()


def sample_fixations(density: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw different pixels with probabilities proportional to a density.

    Args:
        density: at least 0, not 0 everywhere (H, W).
        count: how many pixels; all with a density above 0 where there are fewer.
        seed: of the draws.

    Returns:
        The drawn pixels (H, W), bool.

    Raises:
        StudyError: no finite density, an empty one, or a count below 1.
    """
    density = _density(density, None)
    if count < 1:
        raise StudyError(f"fixations: {count} are asked for, expected at least 1; change the count")
    chances = _distribution(density).ravel()
    drawn = np.random.default_rng(seed).choice(
        chances.size, size=min(count, np.count_nonzero(chances)), replace=False, p=chances
    )
    fixations = np.zeros(density.shape, bool)
    fixations.flat[drawn] = True
    return fixations


def judge(
    saliency: np.ndarray, mask: np.ndarray, *, seed: int, fixations: int = 100
) -> dict[str, float]:
    """Score a saliency map against the object that a scene shows.

    Args:
        saliency: the predicted map (H, W), on any scale.
        mask: the object's pixels (H, W), bool or non-zero.
        seed: of the fixations that stand in for real ones, and of the noise of AUC-Judd.
        fixations: how many.

    Returns:
        CC, SIM, KL (lower is better), NSS and AUC-Judd.

    Raises:
        StudyError: wrong shapes, an empty mask, or no pixel that is not a fixation.
    """
    density = fixation_density(mask)
    looks, noise = np.random.SeedSequence(seed).generate_state(2)
    fixated = sample_fixations(density, fixations, int(looks))
    return {
        "CC": cc(saliency, density),
        "SIM": sim(saliency, density),
        "KL": kl(saliency, density),
        "NSS": nss(saliency, fixated),
        "AUC-Judd": auc_judd(saliency, fixated, seed=int(noise)),
    }


def _map(values: np.ndarray, what: str = "saliency map") -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "buif":
        raise StudyError(
            f"{what}: has shape {values.shape} and type {values.dtype}, expected one number for "
            "each pixel (H, W); give one channel"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise StudyError(f"{what}: has values that are not finite; mend what made it")
    return values


def _same_shape(values: np.ndarray, saliency: np.ndarray | None, what: str) -> None:
    if saliency is not None and values.shape != saliency.shape:
        raise StudyError(
            f"{what}: has shape {values.shape}, expected the saliency map's {saliency.shape}; "
            "resize one of the two"
        )


def _density(values: np.ndarray, saliency: np.ndarray | None) -> np.ndarray:
    values = _map(values, "fixation density")
    _same_shape(values, saliency, "fixation density")
    if values.min() < 0 or values.max() == 0:
        raise StudyError(
            f"fixation density: has values from {values.min():g} to {values.max():g}, expected "
            "none below 0 and some above; leave images without fixations out"
        )
    return values


def _fixations(
    values: np.ndarray, saliency: np.ndarray | None, what: str = "fixations"
) -> np.ndarray:
    values = _map(values, what) != 0
    _same_shape(values, saliency, what)
    if not values.any():
        raise StudyError(f"{what}: no pixel is set, expected at least one; leave the image out")
    return values


def _constant(values: np.ndarray) -> bool:
    return bool(values.min() == values.max())


def _unit_range(values: np.ndarray) -> np.ndarray:
    if _constant(values):
        return np.zeros_like(values)
    values = values / np.abs(values).max()  # so that huge and tiny ranges stay numbers
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def _distribution(values: np.ndarray) -> np.ndarray:
    largest = values.max()
    if largest == 0:
        return np.full(values.shape, 1 / values.size)
    values = values / largest  # so that the sum of huge values stays finite
    return values / values.sum()
