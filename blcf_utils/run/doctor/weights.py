"""The weights a profile reads: are they here, do they load, and which rows want for some."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from blcf_utils.config.profile import BackboneConfig
from blcf_utils.features.networks.backbones import load_backbone, torchvision_source
from blcf_utils.ground.errors import StudyError
from blcf_utils.pooling.compared.rows import Row
from blcf_utils.run.doctor.findings import Finding, of_error
from blcf_utils.saliency.models import OFFICIAL
from blcf_utils.study.study import Study

SECONDS = 3.0
TRAINED = "needs weights trained for retrieval, which their authors hand out"


def reachable(url: str) -> bool:
    """Return whether the host of an address takes connections."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def check_backbone(
    config: BackboneConfig, topic: str = "weights", connects: Callable[[str], bool] = reachable
) -> Finding:
    """Return whether a backbone's weights are here and load, or can be downloaded.

    Args:
        config: the backbone.
        topic: of the finding.
        connects: whether an address can be reached.
    """
    said = f"{config.label}"
    try:
        if config.weights == "torchvision":
            url, path = torchvision_source(config.name)
            if not path.is_file():
                if connects(url):
                    return Finding(topic, "ok", f"{said}: downloaded at the first use from {url}")
                mend = (
                    f"put {path.name} into {path.parent} by hand, or set features.backbone.weights "
                    "to local with BLCF_WEIGHTS, or to the path of a state dict"
                )
                what = f"{said}: not downloaded yet, and {urlsplit(url).hostname} does not answer"
                return Finding(topic, "problem", what, mend)
        backbone = load_backbone(config)
    except StudyError as error:
        return of_error(topic, error)
    if config.weights == "random":
        mend = "set features.backbone.weights for results that mean something"
        return Finding(topic, "warning", f"{said}: an untrained network", mend)
    return Finding(topic, "ok", f"{said}: {backbone.origin} loads")


def check_saliency(study: Study) -> list[Finding]:
    """Return whether the saliency models have their weights, and what the run cannot do without."""
    profile, reasons = study.profile, study.weightings()
    missing = {name: why for name, why in reasons.items() if why}
    findings = []
    wanted = profile.finetuning.saliency
    if wanted and profile.finetuning.oxford and wanted in missing:
        why = missing[wanted].split("; run ")[0]
        findings.append(
            Finding(
                "weighting",
                "warning",
                f"finetuning.saliency is {wanted}, and {why}: columns of t12 say 'not run'",
                _fetch([wanted]) + f", or --set finetuning.saliency={wanted.lower()}-mini",
            )
        )
    elif wanted and wanted not in reasons:
        said = f"finetuning.saliency: {wanted} is no weighting"
        findings.append(Finding("weighting", "problem", said, f"one of {', '.join(reasons)}"))
    if missing:
        lacking = [name for name in OFFICIAL if name in missing]
        said = (
            f"{len(reasons) - len(missing)} of {len(reasons)} weightings can run; rows of t08 and "
            f"t09 that will say 'not run': {', '.join(missing)}"
        )
        findings.append(Finding("saliency", "warning", said, _fetch(lacking)))
    else:
        findings.append(Finding("saliency", "ok", f"all {len(reasons)} weightings can run"))
    for name in profile.weighting.folders:
        for dataset in profile.datasets:
            why = study.why_not(dataset, name)
            if why:
                said, _, mend = why.partition("; ")
                findings.append(Finding(f"maps {name}", "warning", f"{dataset}: {said}", mend))
    return findings


def _fetch(names: list[str]) -> str:
    return f"blcf weights fetch {' '.join(OFFICIAL[name] for name in names)}"


def check_compared(reasons: Sequence[tuple[Row, str]]) -> list[Finding]:
    """Return which rows of the comparison will say ``not run``, a line for each thing they lack.

    Args:
        reasons: rows, each with why it cannot run; blank where it can.
    """
    lacking: dict[str, list[str]] = {}
    for row, why in reasons:
        own = row.network and row.weights and why.endswith("see the other rows")
        if why and not row.never and not own:  # the others are no one's to mend
            trained = row.network and not row.weights
            lacking.setdefault(TRAINED if trained else why, []).append(row.id)
    ready = sum(not why for _, why in reasons)
    said = f"{ready} of {len(reasons)} methods of t10, t11 and t13 can run"
    findings = [Finding("comparison", "ok", said)]
    for why, ids in lacking.items():
        says, _, mend = why.partition("; ")
        if why == TRAINED:
            mend = "where you have them: --set comparison.weights.ROW=FILE"
        said = f"'not run' for {', '.join(ids)}: {says}"
        findings.append(Finding("comparison", "warning", said, mend))
    return findings
