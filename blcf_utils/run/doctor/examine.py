"""All checks of a profile, in the order in which a user would mend what they find."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.features.networks.weight_files import settled
from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, datasets_dir, results_dir, weights_path
from blcf_utils.pooling.compared.rows import ROWS, Row
from blcf_utils.run import hardware
from blcf_utils.run.doctor import machine, room, weights
from blcf_utils.run.doctor.datasets import Counts, look_at_dataset
from blcf_utils.run.doctor.findings import Finding, of_error
from blcf_utils.saliency.weighting import NONE
from blcf_utils.study.comparison import teacher_of
from blcf_utils.study.study import Study
from blcf_utils.study.weightings import weighting_names

SLOW_IMAGES = 5000  # from so many images on, a run without a GPU is slow


def examine(
    profile: str = "mini",
    settings: dict[str, Any] | None = None,
    *,
    connects: Callable[[str], bool] = weights.reachable,
) -> list[Finding]:
    """Check everything that a run of a profile depends on; nothing is computed or downloaded.

    Args:
        profile: a name in data/profiles, or the path of a YAML file.
        settings: changes to the profile.
        connects: whether an address can be reached.

    Raises:
        StudyError: the profile itself is wrong.
    """
    asked = load_profile(profile, settings)
    log = logging.getLogger("blcf")
    level = log.level
    log.setLevel(logging.ERROR)  # the findings say what stages would warn of
    try:
        resolved = settled(asked, weights.obtainable(connects))
        return _examine(resolved, connects, weights.check_auto(asked.features.backbone, connects))
    finally:
        log.setLevel(level)


def _examine(
    profile: Profile, connects: Callable[[str], bool], replaced: list[Finding]
) -> list[Finding]:
    taught_by = [teacher_of(profile, name) for name in profile.all_datasets]
    teachers = [*profile.learn_on.values(), *filter(None, taught_by)]
    names = dict.fromkeys([*profile.all_datasets, *teachers])
    looked = {name: look_at_dataset(profile, name) for name in names}
    counts = [found for _, found in looked.values() if found]
    gpus, device = hardware.gpu_memory(), profile.features.device
    slow = sum(one.images for one in counts) >= SLOW_IMAGES
    backbone, others = profile.features.backbone, profile.compare_backbones
    findings = [
        machine.check_packages(),
        machine.check_torch(),
        machine.check_processor(usable_cores(), os.cpu_count() or 1),
        machine.check_device(device, gpus, slow),
        _folders(),
        machine.check_writable(cache_dir(), "cache", "BLCF_CACHE"),
        machine.check_writable(results_dir(profile.name), "results", "BLCF_RESULTS"),
        *(finding for finding, _ in looked.values()),
        *replaced,
        weights.check_backbone(backbone, "weights", connects),
        *(weights.check_backbone(o, f"weights {o.name}", connects, compared=True) for o in others),
    ]
    rows: list[Row] = []
    weightings: list[str] = []
    try:
        study = Study(profile)
    except StudyError as error:
        findings.append(of_error("settings", error))
    else:
        reasons = weighting_names(profile)
        comparison = study.comparison(profile.datasets[0])
        compared = [(row, row.unavailable_because(comparison)) for row in ROWS]
        findings += weights.check_weightings(
            profile,
            reasons,
            lambda name, row: study.open(name).weightings.unavailable_because(row),
        )
        findings += weights.check_compared(compared)
        rows = [row for row, why in compared if not why]
        weightings = [name for name, why in reasons.items() if name != NONE and not why]
    unknown = [name for name, (_, found) in looked.items() if found is None]
    if unknown:
        said = f"the images of {', '.join(unknown)} are not counted in what follows"
        findings.append(Finding("room", "warning", said, "see the datasets above"))
    if counts:
        try:
            findings += _room(profile, counts, rows, weightings, gpus if device != "cpu" else [])
        except (StudyError, RuntimeError) as error:  # no such layer, or images too small for it
            findings.append(of_error("room", error))
    return findings


def _folders() -> Finding:
    given = weights_path()
    if given is not None and not given.exists():
        mend = "set BLCF_WEIGHTS to the folder that holds the weights, or unset it"
        said = f"BLCF_WEIGHTS names {given}, which is not there"
        return Finding("folders", "problem", said, mend)
    of_weights = f"weights in {given}" if given else "BLCF_WEIGHTS is not set"
    return Finding("folders", "ok", f"datasets in {datasets_dir()}, {of_weights}")


def _room(
    profile: Profile,
    counts: Sequence[Counts],
    rows: Sequence[Row],
    weightings: Sequence[str],
    gpus: list[tuple[str, int]],
) -> list[Finding]:
    folder, parts = cache_dir(), {part for one in counts for part in one.parts}
    needs = room.disk_needs(profile, counts, rows, weightings)
    there = machine.bytes_there(folder, sorted({*parts, *(one.name for one in counts)}))
    findings = [room.check_disk(needs, folder, machine.free_bytes(folder), there)]
    needs, forward = room.memory_needs(profile), room.forward_needs(profile, counts)
    if gpus:
        size = gpus[0][1]
        findings.append(room.check_memory(forward, size, size, "gpu memory"))
    else:
        needs |= forward
    return [*findings, room.check_memory(needs, *hardware.memory())]
