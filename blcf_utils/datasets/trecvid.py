"""TRECVID Instance Search: shots of a video collection, topics given as frames with masks.

The videos are licensed to participants, so the user supplies keyframes. Layout::

    keyframes/<shot>/<frame>.jpg                 as many frames a shot as wanted
    queries/<topic>.<n>.src.png                  the topic's example frames (.bmp as published)
    queries/<topic>.<n>.mask.png                 white where the instance is
    qrels.txt (or one other *qrels* file)        lines "topic 0 shot relevance"

Each example frame is a query of its own; shots are ranked, not frames.

Over et al., TRECVID 2013 - An Overview of the Goals, Tasks, Data, Evaluation Mechanisms, and
Metrics.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from blcf_utils.datasets.base import Box, Dataset, Protocol, Query
from blcf_utils.datasets.files import absolute_folder, by_stem, find_images, read_lines, some_names
from blcf_utils.datasets.images import UnreadableImage, image_size, read_image
from blcf_utils.ground.errors import StudyError

_FRAME = re.compile(r"(?P<topic>[^.]+)\.(?P<number>\d+)\.src")


def load_trecvid(
    root: Path | str, *, name: str = "trecvid-ins", qrels: Path | str | None = None
) -> Dataset:
    """Load user-supplied keyframes, topics and relevance judgements.

    Args:
        root: the folder described above.
        name: registry name.
        qrels: the judgements, when not the only ``*qrels*`` file in ``root``.

    Relevant shots without a keyframe here are left out of the positives, and frames of topics
    that have no relevant shot here are skipped; both are said in a warning.

    Raises:
        StudyError: something is missing or malformed, or a mask is empty or of another size.
    """
    root = absolute_folder(root, name)
    keyframes = absolute_folder(root / "keyframes", name)
    images = find_images(keyframes)
    loose = [path.name for path in images if path.parent == keyframes]
    if loose or not images:
        raise StudyError(
            f"{keyframes}: expected keyframes in one sub-folder per shot, found "
            f"{some_names(loose) or 'no image'} directly in it: sort them into shots"
        )
    units = tuple(path.relative_to(keyframes).parts[0] for path in images)
    shots = {shot: i for i, shot in enumerate(dict.fromkeys(units))}
    relevant = parse_qrels(Path(qrels) if qrels else _only_qrels(root))
    frames = _topic_frames(absolute_folder(root / "queries", name), name)

    queries, said = [], []
    for topic in dict.fromkeys(topic for topic, *_ in frames):
        judged = relevant.get(topic, ())
        absent = [shot for shot in judged if shot not in shots]
        if absent:
            said.append(
                f"topic {topic}: {len(absent):,} of {len(judged):,} relevant shots have no "
                f"keyframe here: {some_names(absent, 3)}"
            )
    without = []
    for topic, number, image, mask in frames:
        positives = sorted(shots[shot] for shot in relevant.get(topic, ()) if shot in shots)
        if not positives:
            without.append(f"{topic}.{number}")
            continue
        queries.append(
            Query(
                id=f"{topic}.{number}",
                image=image,
                box=mask_box(mask, image),
                positives=tuple(positives),
                instance=topic,
                mask=mask,
            )
        )
    if without:
        said.append(f"frames skipped because no relevant shot is here: {some_names(without)}")
    if not queries:
        raise StudyError(f"{name}: no topic can be used in {root}: {'; '.join(said)}")
    for sentence in said:
        warnings.warn(f"{name}: {sentence}", stacklevel=2)
    return Dataset(
        name=name,
        root=root,
        images=tuple(images),
        queries=tuple(queries),
        protocol=Protocol("rectangular", "absent", "TRECVID INS, trec_eval"),
        units=units,
        domain="television",
        notes="; ".join(said),
    )


def parse_qrels(path: Path) -> dict[str, tuple[str, ...]]:
    """Read relevance judgements, lines of ``topic 0 shot relevance``.

    Returns:
        For each topic the shots of relevance above 0, in file order.

    Raises:
        StudyError: the file is missing or a line is malformed.
    """
    relevant: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        try:
            topic, _, shot, relevance = words
            judged = int(relevance) > 0
        except ValueError:
            raise StudyError(
                f"{path}, line {number}: expected 'topic 0 shot relevance', found {line!r}: "
                "mend the line"
            ) from None
        shots = relevant.setdefault(topic, [])
        if judged and shot not in shots:
            shots.append(shot)
    return {topic: tuple(shots) for topic, shots in relevant.items()}


def mask_box(mask: Path, image: Path) -> Box:
    """Return the box (x1, y1, x2, y2) that encloses a mask's white pixels.

    Raises:
        StudyError: a file cannot be read, the mask is all black, or the sizes differ.
    """
    try:
        white, size = read_image(mask, alpha="drop").max(axis=2) > 0, image_size(image)
    except UnreadableImage as error:
        raise StudyError(f"mask of {image.name}: {error}") from None
    if white.shape != (size[1], size[0]):
        raise StudyError(
            f"{mask}: is {white.shape[1]} x {white.shape[0]} pixels, expected the "
            f"{size[0]} x {size[1]} of {image.name}: supply the mask of that frame"
        )
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    if rows.size == 0:
        raise StudyError(f"{mask}: expected white pixels where the instance is, found none")
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _only_qrels(root: Path) -> Path:
    found = sorted(p for p in root.iterdir() if p.is_file() and "qrels" in p.name)
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise StudyError(
            f"{root}: expected one file of relevance judgements with qrels in its name, found "
            f"{listed}: put it there or name it by the loader's option qrels"
        )
    return found[0]


def _topic_frames(folder: Path, name: str) -> list[tuple[str, int, Path, Path]]:
    images = by_stem(find_images(folder), name)
    frames = []
    for stem, path in images.items():
        if stem.endswith(".mask"):
            continue
        match = _FRAME.fullmatch(stem)
        if not match:
            raise StudyError(
                f"{path}: expected a name like 9069.1.src{path.suffix} (topic, number, src) or "
                f"9069.1.mask{path.suffix}: rename or remove the file"
            )
        mask = images.get(f"{stem.removesuffix('.src')}.mask")
        if mask is None:
            raise StudyError(
                f"{path}: its mask {stem.removesuffix('.src')}.mask{path.suffix} is missing: "
                "expected it beside the frame"
            )
        frames.append((match["topic"], int(match["number"]), path, mask))
    if not frames:
        raise StudyError(
            f"{folder}: expected topic frames such as 9069.1.src.png, found none: put them there"
        )
    return sorted(frames, key=lambda frame: frame[:2])
