"""What a check found, and how findings are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tqdm import tqdm


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        topic: what was looked at, ``dataset oxford5k``.
        state: ``ok``; ``warning``: it runs, but something is missing or slow; ``problem``: the run
            will fail.
        says: what was found, one sentence.
        mend: what to do about it; blank when nothing is to be done.
    """

    topic: str
    state: Literal["ok", "warning", "problem"]
    says: str
    mend: str = ""


def of_error(topic: str, error: Exception, mend: str = "") -> Finding:
    """Return an error as a problem; how to mend it stands behind the error's semicolon.

    Args:
        topic: of the finding.
        error: what was raised.
        mend: what to do, instead of what the error says.
    """
    says, _, tail = " ".join(str(error).split()).partition("; ")
    return Finding(topic, "problem", says[:300], mend or tail)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 when something will fail, else 0."""
    return int(any(finding.state == "problem" for finding in findings))


def as_json(findings: Sequence[Finding]) -> str:
    """Return findings as a JSON list of objects, in ASCII, which every output can write."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


def as_text(findings: Sequence[Finding], profile: str) -> str:
    """Return a line for each finding, what mends it below, and a last line that sums up."""
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:7}  {finding.topic:{width}}  {finding.says}")
        if finding.mend:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.mend}")
    states = [finding.state for finding in findings]
    problems, warnings = states.count("problem"), states.count("warning")
    noted = f"{warnings} warning{'s' * (warnings != 1)}" if warnings else "no warnings"
    if problems:
        found = "1 problem stops" if problems == 1 else f"{problems} problems stop"
        last = f"{found} blcf run --profile {profile}; {noted}"
    else:
        last = f"blcf run --profile {profile} can start; {noted}"
    return "\n".join([*lines, "", last])


def bytes_text(count: float) -> str:
    """Return a number of bytes as people read it: 12.3GB."""
    return tqdm.format_sizeof(count, "B")
