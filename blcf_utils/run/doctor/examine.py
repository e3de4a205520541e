"""All checks of a profile, in the order in which a user would mend what they find."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from blcf_utils.config.profile import BackboneConfig, Profile, load_profile
from blcf_utils.datasets.images import resized_size
from blcf_utils.features.forward import resolve_device
from blcf_utils.features.networks.backbones import load_backbone, map_sizes
from blcf_utils.ground.cores import usable_cores
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, datasets_dir, results_dir, weights_path
from blcf_utils.pooling.compared.methods import METHODS
from blcf_utils.pooling.compared.rows import ROWS, Row
from blcf_utils.run.doctor import machine, room, weights
from blcf_utils.run.doctor.datasets import Seen, look_at_dataset
from blcf_utils.run.doctor.findings import Finding, of_error
from blcf_utils.run.doctor.needs import Workload
from blcf_utils.saliency.models import MODELS
from blcf_utils.saliency.weighting import NONE
from blcf_utils.study.study import Study

SLOW_IMAGES = 5000  # from so many on a run without a GPU deserves a word


def examine(
    profile: str = "mini",
    settings: dict[str, Any] | None = None,
    *,
    measure: bool = True,
    connects: Callable[[str], bool] = weights.reachable,
) -> list[Finding]:
    """Check everything that a run of a profile depends on; nothing is computed or downloaded.

    Args:
        profile: a name in data/profiles, or the path of a YAML file.
        settings: changes to the profile.
        measure: run the network for a second to estimate how long the run takes.
        connects: whether an address can be reached.

    Raises:
        StudyError: the profile itself is wrong.
    """
    resolved = load_profile(profile, settings)
    log = logging.getLogger("blcf")
    level = log.level
    log.setLevel(logging.ERROR)  # stages warn as they run; here findings say it
    try:
        return _examine(resolved, measure, connects)
    finally:
        log.setLevel(level)


def _examine(resolved: Profile, measure: bool, connects: Callable[[str], bool]) -> list[Finding]:
    findings = [machine.check_python(), machine.check_packages(), machine.check_torch()]
    findings.append(machine.check_processor(usable_cores(), os.cpu_count() or 1))
    looked = [look_at_dataset(resolved, name) for name in resolved.all_datasets]
    known = [one for _, one in looked]
    seen = tuple(one for one in known[: len(resolved.datasets)] if one is not None)
    compared = tuple(one for one in known[len(resolved.datasets) :] if one is not None)
    gpus = machine.gpu_memory()
    large = sum(one.images for one in (*seen, *compared)) >= SLOW_IMAGES
    findings.append(machine.check_device(resolved.features.device, gpus, large))
    findings += [_places(), *(finding for finding, _ in looked)]
    findings += _teachers(resolved)
    findings += _weights(resolved, connects)
    study, wrong = _open(resolved)
    findings += wrong
    if study is not None:
        findings += weights.check_saliency(study)
        findings += weights.check_compared(_reasons(study))
    workload = _workload(resolved, study, seen, compared)
    findings += _room(workload, gpus)
    if measure and seen:
        findings += _time(workload)
    return findings


@cache
def _reasons(study: Study) -> tuple[tuple[Row, str], ...]:
    """Return every row of the comparison with why it cannot run on the first dataset."""
    dataset = study.profile.datasets[0]
    return tuple((row, study.why_not_compared(dataset, row)) for row in ROWS)


def _places() -> Finding:
    given = weights_path()
    said = f"datasets in {datasets_dir()}"
    said += f", weights in {given}" if given else ", BLCF_WEIGHTS is not set"
    if given is not None and not given.exists():
        mend = "set BLCF_WEIGHTS to the folder that holds the weights, or unset it"
        return Finding(
            "folders", "problem", f"BLCF_WEIGHTS names {given}, which is not there", mend
        )
    return Finding("folders", "ok", said)


def _teachers(profile: Profile) -> list[Finding]:
    """Return what is wrong with the datasets from which others learn."""
    findings = []
    for name, teacher in profile.learn_on.items():
        if teacher not in profile.all_datasets:
            said = f"learn_on.{name}: {teacher} is none of the profile's datasets"
            mend = f"one of {', '.join(profile.all_datasets)}"
            findings.append(Finding("learn_on", "problem", said, mend))
    return findings


def _weights(profile: Profile, connects: Callable[[str], bool]) -> list[Finding]:
    findings = [weights.check_backbone(profile.features.backbone, "weights", connects)]
    for backbone in profile.compare_backbones:
        found = weights.check_backbone(backbone, f"weights {backbone.name}", connects)
        if backbone.weights == "random":  # there for comparison
            found = Finding(found.topic, "ok", found.says)
        findings.append(found)
    return findings


def _open(profile: Profile) -> tuple[Study | None, list[Finding]]:
    try:
        return Study(profile), []
    except StudyError as error:
        return None, [of_error("settings", error)]


@cache
def _shapes(backbone: BackboneConfig, side: int, size: tuple[int, int]):
    width, height = resized_size(size, side)
    return map_sizes(backbone, height, width)


def _workload(
    profile: Profile, study: Study | None, seen: tuple[Seen, ...], compared: tuple[Seen, ...]
) -> Workload:
    rows, weightings, classes = (), (), 0
    if study is not None:
        rows = tuple(row for row, why in _reasons(study) if not why)
        weightings = tuple(n for n, why in study.weightings().items() if n != NONE and not why)
        if any(row.method in METHODS and METHODS[row.method].kind == "online" for row in rows):
            classes = len(study.head().linear)
    models = sum(name in MODELS for name in weightings)
    return Workload(profile, seen, rows, weightings, models, _shapes, classes, compared)


def _room(workload: Workload, gpus: list[tuple[str, int]]) -> list[Finding]:
    profile, seen = workload.profile, workload.seen
    cache_folder, results = cache_dir(), results_dir(profile.name)
    findings = [
        room.check_writable(cache_folder, "cache"),
        room.check_writable(results, "results"),
    ]
    unknown = [name for name in profile.datasets if name not in {one.name for one in seen}]
    if unknown:
        said = f"nothing is predicted for {', '.join(unknown)}, whose images are not counted"
        findings.append(Finding("predictions", "warning", said, "see the datasets above"))
    if not seen:
        return findings
    try:
        disk, memory = workload.disk(), workload.memory()
    except (StudyError, RuntimeError) as error:
        return [*findings, of_error("predictions", error)]
    there = room.bytes_there(cache_folder, [one.name for one in seen])
    free = room.free_bytes(cache_folder)
    findings.append(room.check_disk(disk, cache_folder, free, there))
    if gpus and profile.features.device != "cpu":
        forward = max(need.amount for need in memory if need.what.startswith("forward"))
        findings.append(room.check_gpu_memory(forward, gpus[0][1]))
        memory = [need for need in memory if not need.what.startswith("forward")]
    findings.append(room.check_memory(memory, *machine.memory()))
    return findings


def _time(workload: Workload) -> list[Finding]:
    features = workload.profile.features
    try:
        device = resolve_device(features.device)
        untrained = features.backbone.model_copy(update={"weights": "random"})  # as fast as any
        size = resized_size((4, 3), features.longest_side)
        pace = room.measure_network(load_backbone(untrained), size, device)
        needs = workload.seconds(pace, room.measure_products(device))
    except (StudyError, RuntimeError) as error:
        return [of_error("time", error, state="warning")]
    return [room.tell_time(needs)]
