"""The weights a profile reads: are they here, do they load, and which rows lack some."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.features.networks.backbones import load_backbone
from blcf_utils.features.networks.published import weights_dir
from blcf_utils.features.networks.weight_files import (
    candidate_files,
    choose_weights,
    published_source,
)
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.row_kinds import NetworkRow, Row
from blcf_utils.run.doctor.findings import Finding, of_error
from blcf_utils.saliency.models import OFFICIAL

TRAINED = (
    "needs weights trained for retrieval, which their authors hand out; where you have them: "
    "--set comparison.weights.ROW=FILE"
)


def reachable(url: str) -> bool:
    """Return whether the host of an address takes connections within three seconds."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=3.0).close()
    except OSError:
        return False
    return True


HUGGING_FACE = "https://huggingface.co"


def _address(config: BackboneConfig) -> str:
    """Return where a backbone's published weights would be downloaded from; "" from nowhere."""
    if config.weights == "timm":
        return HUGGING_FACE
    source = published_source(config.name) if config.weights == "torchvision" else None
    return source.file.urls[0] if source else ""


def obtainable(connects: Callable[[str], bool]) -> Callable[[BackboneConfig], None]:
    """Return what stands in for a download: whether the host of the weights answers."""

    def ask(config: BackboneConfig) -> None:
        if not connects(_address(config)):
            raise StudyError(f"{urlsplit(_address(config)).hostname} does not answer")

    return ask


def check_auto(config: BackboneConfig, connects: Callable[[str], bool]) -> list[Finding]:
    """Return what ``weights: auto`` comes to where it is another network than the one asked for."""
    try:
        taken, why = choose_weights(config, obtainable(connects))
    except StudyError as error:
        return [of_error("weights", error)]
    if taken.name == config.name:
        return []
    source = published_source(config.name)
    file = f"{source.file.name} into {weights_dir('backbone')}" if source else "its state dict"
    mend = f"put {file} or a state dict of {config.name} into the folder BLCF_WEIGHTS"
    said = f"{config.label}: {taken.name} {taken.layer} takes its place; {why}"
    return [Finding("weights", "warning", said, mend)]


def check_backbone(
    config: BackboneConfig,
    topic: str = "weights",
    connects: Callable[[str], bool] = reachable,
    *,
    compared: bool = False,
) -> Finding:
    """Return whether a backbone's weights are here and load, or can be downloaded.

    Args:
        config: the backbone.
        topic: of the finding.
        connects: whether an address can be reached.
        compared: it is one of ``compare_backbones``, where random weights are no warning.
    """
    said = config.label
    try:
        url = "" if candidate_files(config) else _address(config)
        if url and connects(url):
            return Finding(topic, "ok", f"{said}: downloaded at the first use from {url}")
        if url:
            source = published_source(config.name)
            by_hand = f"put {source.file.name} into {weights_dir('backbone')} by hand, or "
            mend = (
                f"{by_hand if source else ''}set features.backbone.weights to auto, to local with "
                "BLCF_WEIGHTS, or to the path of a state dict"
            )
            said += f": not downloaded yet, and {urlsplit(url).hostname} does not answer"
            return Finding(topic, "problem", said, mend)
        backbone = load_backbone(config)
    except StudyError as error:
        return of_error(topic, error)
    if config.weights != "random":
        return Finding(topic, "ok", f"{said}: {backbone.origin} loads")
    if compared:
        return Finding(topic, "ok", f"{said}: an untrained network")
    mend = "set features.backbone.weights for results that mean something"
    return Finding(topic, "warning", f"{said}: an untrained network", mend)


def check_weightings(
    profile: Profile, reasons: Mapping[str, str], why_not: Callable[[str, str], str]
) -> list[Finding]:
    """Return whether the saliency models have their weights, and what the run cannot do without.

    Args:
        profile: the settings.
        reasons: every weighting, with why it cannot run; blank where it can.
        why_not: dataset and weighting to why it cannot run there.
    """
    missing = {name: why for name, why in reasons.items() if why}
    said = f"{len(reasons) - len(missing)} of {len(reasons)} weightings can run"
    if missing:
        said += f"; rows of t08 and t09 that will say 'not run': {', '.join(missing)}"
        findings = [Finding("saliency", "warning", said, _fetch(missing))]
    else:
        findings = [Finding("saliency", "ok", said)]
    wanted = profile.finetuning.saliency
    if wanted and wanted not in reasons:
        said = f"finetuning.saliency: {wanted} is no weighting"
        findings.append(Finding("weighting", "problem", said, f"one of {', '.join(reasons)}"))
    elif wanted in missing and profile.finetuning.oxford:
        why = missing[wanted].partition("; ")[0]
        said = f"finetuning.saliency is {wanted}, and {why}: columns of t12 say 'not run'"
        mend = f"{_fetch([wanted])}, or --set finetuning.saliency={wanted.lower()}-mini"
        findings.append(Finding("weighting", "warning", said, mend))
    for name in profile.weighting.folders:
        for dataset in profile.datasets:
            says, _, mend = why_not(dataset, name).partition("; ")
            if says:
                findings.append(Finding(f"maps {name}", "warning", f"{dataset}: {says}", mend))
    return findings


def _fetch(names: Sequence[str] | Mapping[str, str]) -> str:
    return f"blcf weights fetch {' '.join(OFFICIAL[name] for name in names if name in OFFICIAL)}"


def check_compared(reasons: Sequence[tuple[Row, str]]) -> list[Finding]:
    """Return which rows of the comparison will say ``not run``, a line for each thing they lack.

    Args:
        reasons: rows, each with why it cannot run; blank where it can.
    """
    lacking: dict[str, list[str]] = {}
    for row, why in reasons:
        # A row that no run can measure, or that another row measures, lacks nothing.
        if why and not row.impossible_because and not why.endswith("see the other rows"):
            trained = isinstance(row, NetworkRow) and row.network and not row.weights
            lacking.setdefault(TRAINED if trained else why, []).append(row.id)
    ready = sum(not why for _, why in reasons)
    said = f"{ready} of {len(reasons)} methods of t10, t11 and t13 can run"
    findings = [Finding("comparison", "ok", said)]
    for why, ids in lacking.items():
        says, _, mend = why.partition("; ")
        said = f"'not run' for {', '.join(ids)}: {says}"
        findings.append(Finding("comparison", "warning", said, mend))
    return findings
