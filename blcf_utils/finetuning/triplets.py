"""Mining triplets (anchor, positive, negative) from rankings of the fused system.

As the slides say: a ranking is drawn at random; its image is the anchor; a positive is drawn from
the images that score more than 15 (30 matches), a negative from those that score 0.5 to 1. With
class labels the positive is another image of the anchor's instance instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from blcf_utils.config.finetuning import MiningConfig, Negatives
from blcf_utils.datasets.base import Dataset
from blcf_utils.finetuning.image_rankings import ImageRankings
from blcf_utils.finetuning.splits import Split, class_labels
from blcf_utils.ground.artefacts import ArtefactStore, Stage, atomic_path
from blcf_utils.ground.errors import StudyError, known

Source = Literal["fused", "labels"]
SOURCES = ("fused", "labels")
STAGE = Stage("triplets", version=1)


@dataclass(frozen=True)
class Triplets:
    """Mined triplets.

    Attributes:
        images: (m, 3) int32 numbers of anchor, positive and negative.
        scores: (m, 2) float32 fused scores of the positive and of the negative with the anchor; 0
            where the fused system did not rank the image.
        key: digest of what made them.
    """

    images: np.ndarray
    scores: np.ndarray
    key: str = ""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Candidates:
    """What may be drawn from one ranking: image numbers.

    Attributes:
        anchor: the image that was ranked; None where the anchor is one of the positives.
        positives: two at least where the anchor is one of them.
        pool: what negatives are drawn from.
        excluded: which of the pool are none, each once. Of random negatives the pool is every
            training image, one array for all rankings, since one each would fill the memory.
    """

    anchor: int | None
    positives: np.ndarray
    pool: np.ndarray
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def negatives(self) -> np.ndarray:
        """Numbers of the images that negatives are drawn from."""
        return np.setdiff1d(self.pool, self.excluded) if len(self.excluded) else self.pool

    @property
    def negative_count(self) -> int:
        """How many they are."""
        return len(self.pool) - len(self.excluded)


def mine_triplets(
    dataset: Dataset,
    rankings: ImageRankings,
    split: Split,
    source: Source,
    config: MiningConfig,
    store: ArtefactStore,
    seed: int,
) -> Triplets:
    """Draw triplets among the training images of a fold; the same seed draws the same.

    Args:
        dataset: whose images they are; its labels are read with ``source="labels"`` only.
        rankings: of all its images.
        split: which images train.
        source: what says that two images show the same: the ``fused`` score, or class ``labels``.
        config: thresholds, which negatives, how many.
        store: where artefacts live.
        seed: of the drawing.

    Raises:
        StudyError: nothing can be drawn, with the threshold to move.
    """
    if source not in SOURCES:
        raise known("source of triplets", source, SOURCES)
    document = {
        "rankings": rankings.key,
        "images": split.images.tolist(),
        "source": source,
        "mining": config.document(),
        "seed": seed,
    }
    if source == "labels":
        document["labels"] = dataset.ground_truth_digest

    def make(folder: Path) -> None:
        candidates = triplet_candidates(dataset, rankings, split, source, config)
        images = draw_triplets(candidates, config.triplets, seed)
        with atomic_path(folder / "triplets.npz") as path:
            np.savez(path, images=images, scores=_scores(rankings, images))
        named = [[dataset.images[i].name for i in row] for row in images]
        table = pd.DataFrame(named, columns=["anchor", "positive", "negative"])
        table[["positive score", "negative score"]] = _scores(rankings, images)
        with atomic_path(folder / "triplets.csv") as path:
            table.to_csv(path, index=False, lineterminator="\n")

    label = f"{dataset.name}-fold{split.number}-{source}"
    artefact = store.get_or_make(STAGE, label, document, make)
    with np.load(artefact / "triplets.npz") as stored:
        return Triplets(stored["images"], stored["scores"], artefact.key)


def triplet_candidates(
    dataset: Dataset,
    rankings: ImageRankings,
    split: Split,
    source: Source,
    config: MiningConfig,
) -> list[Candidates]:
    """Return what can be drawn for every training image that has positives and a negative.

    One positive is enough, two are needed where ``config.anchor`` is one of them.

    Raises:
        StudyError: no image has both, with the threshold to move.
    """
    trains = np.zeros(len(rankings), bool)
    trains[split.images] = True
    if len(split.images) < 3:
        raise StudyError(
            f"{dataset.name}: a triplet needs three training images, found {len(split.images)}; "
            "use a larger dataset"
        )
    labels = _training_labels(dataset, split) if source == "labels" else None
    kind = config.label_negatives if labels is not None else config.negatives
    found, paired, highest = [], 0, 0.0
    listed = config.anchor == "listed"
    for anchor in split.images:
        images, scores, matches = _ranked(rankings, int(anchor), trains)
        # The score that the threshold would have to be below for this ranking.
        best = np.sort(scores)[::-1][int(listed) :]
        highest = max(highest, float(best.max(initial=0)))
        if labels is None:
            positives = images[scores > config.positive]
            same = positives
        else:
            positives = same = labels.get(int(anchor), np.empty(0, np.int64))
        if len(positives) < 1 + listed:
            continue
        paired += 1
        # With labels a verified match of another class is the very negative to learn from.
        unlike = labels is not None
        allowed = ~np.isin(images, same) & (unlike | (matches == 0))
        if kind == "random":
            ruled_out = [anchor, *same, *([] if unlike else images[matches > 0])]
            negatives = split.images, np.unique(ruled_out)
        else:
            negatives = (_negatives(kind, images[allowed], scores[allowed], config),)
        one = Candidates(None if listed else int(anchor), positives, *negatives)
        if one.negative_count:
            found.append(one)
    if not found:
        raise _nothing(dataset.name, labels is not None, paired, highest, kind, config)
    return found


def _ranked(rankings: ImageRankings, anchor: int, trains: np.ndarray):
    images = rankings.images[anchor]
    kept = (images >= 0) & trains[images] & (images != anchor)
    return images[kept], rankings.scores[anchor][kept], rankings.matches[anchor][kept]


def _training_labels(dataset: Dataset, split: Split) -> dict[int, np.ndarray]:
    """Return for each labelled training image the others of its class."""
    known_classes = [images for images in class_labels(dataset).values() if len(images) > 1]
    classes = [np.intersect1d(images, split.images) for images in known_classes]
    classes = [images for images in classes if len(images) > 1]
    if len(classes) < 2:
        mend = "raise finetuning.folds, so that more instances train, or lower "
        mend += "finetuning.validation"
        if len(known_classes) < 2:
            mend = "the whole dataset has no more: name another in finetuning.instre"
        raise StudyError(
            f"{dataset.name}: class labels need two instances with two training images each, found "
            f"{len(classes)}; {mend}"
        )
    others: dict[int, set[int]] = {}
    for images in classes:
        for image in images.tolist():
            others.setdefault(image, set()).update(images.tolist())
    return {image: np.array(sorted(same - {image})) for image, same in others.items()}


def _negatives(
    kind: Negatives, images: np.ndarray, scores: np.ndarray, config: MiningConfig
) -> np.ndarray:
    if kind == "range":
        low, high = config.negative
        return images[(scores >= low) & (scores <= high)]
    return images[: config.hardest]


def _nothing(name, labelled, paired, highest, kind, config: MiningConfig) -> StudyError:
    if paired == 0 and config.anchor == "listed":
        mend = f"the highest second is {highest:.2f}; lower finetuning.mining.positive or "
        return StudyError(
            f"{name}: no training image has two others "
            + ("of its class; " if labelled else f"with a fused score above {config.positive:g}, ")
            + ("" if labelled else mend)
            + "set finetuning.mining.anchor: query"
        )
    if paired == 0 and not labelled:
        return StudyError(
            f"{name}: no training image has another with a fused score above {config.positive:g}, "
            f"the highest is {highest:.2f}; lower finetuning.mining.positive"
        )
    low, high = config.negative
    if kind == "range":
        return StudyError(
            f"{name}: none of the {paired} training images with a positive has a negative that "
            f"scores {low:g} to {high:g}; widen finetuning.mining.negative or set "
            f"finetuning.mining.{'label_' * labelled}negatives: hardest"
        )
    return StudyError(
        f"{name}: none of the {paired} training images with a positive has a negative; use more "
        "images or raise finetuning.mining.images"
    )


def draw_triplets(candidates: list[Candidates], count: int, seed: int) -> np.ndarray:
    """Draw triplets (count, 3) int32: a ranking, one of its positives, one of its negatives."""
    draw = np.random.default_rng(seed)
    rows = np.empty((count, 3), np.int32)
    for row, which in zip(rows, draw.integers(len(candidates), size=count), strict=True):
        one = candidates[which]
        if one.anchor is None:
            pair = draw.choice(one.positives, 2, replace=False)
        else:
            pair = one.anchor, draw.choice(one.positives)
        row[:] = *pair, draw.choice(one.negatives)
    return rows


def _scores(rankings: ImageRankings, triplets: np.ndarray) -> np.ndarray:
    """Return the fused scores of positives and negatives with their anchors, (m, 2)."""
    lists = rankings.images[triplets[:, 0]]
    scores = rankings.scores[triplets[:, 0]]
    columns = [((lists == triplets[:, k, None]) * scores).sum(axis=1) for k in (1, 2)]
    return np.stack(columns, axis=1).astype(np.float32)


def judge(dataset: Dataset, triplets: Triplets) -> tuple[np.ndarray, np.ndarray]:
    """Hold triplets against the ground truth.

    Returns:
        Whether an instance of the anchor is known, (m,), and whether positive and negative are
        known to show one of them, (m, 2); both boolean.
    """
    labels = class_labels(dataset)
    member = np.zeros((len(labels), len(dataset.images)), bool)
    for row, images in zip(member, labels.values(), strict=True):
        row[images] = True
    shown = member[:, triplets.images[:, 0]]
    same = [(shown & member[:, triplets.images[:, k]]).any(axis=0) for k in (1, 2)]
    return shown.any(axis=0), np.stack(same, axis=1)


def mining_statistics(
    dataset: Dataset, triplets: Triplets, split: Split, candidates: list[Candidates]
) -> dict[str, float]:
    """Return what there was to draw from and how right the draws are, by the ground truth.

    ``right positives`` and ``right negatives`` are shares of the triplets whose anchor has a known
    instance; the others cannot be judged.
    """
    judged, (same, wrong) = (part.T for part in judge(dataset, triplets))
    shares = {
        "right positives": same[judged].mean() if judged.any() else float("nan"),
        "right negatives": 1 - wrong[judged].mean() if judged.any() else float("nan"),
    }
    return {
        "training images": len(split.images),
        "rankings to draw from": len(candidates),
        "positives a ranking": float(np.mean([len(c.positives) for c in candidates])),
        "negatives a ranking": float(np.mean([c.negative_count for c in candidates])),
        "triplets": len(triplets),
        "different pairs": len(np.unique(np.sort(triplets.images[:, :2], axis=1), axis=0)),
        "anchors of known instance": float(judged.mean()),
        **{name: float(value) for name, value in shares.items()},
    }
