"""The report's page of claims: what this run tested first, then what it did not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

UNTESTABLE = "not testable by a table"
VERDICTS = ("holds", "undecided", "does not hold", "not run", UNTESTABLE)
COLUMNS = {
    "claim": "claim",
    "published_holds": "slides",
    "measured": "this run",
    "interval": "difference and interval",
    "measured_evidence": "numbers of this run",
}


def claim_groups(path: Path) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the claims of ``tables/claims.csv`` by heading, and how many got which verdict."""
    claims = pd.read_csv(path, dtype=str, keep_default_na=False)
    verdict = claims["measured"].str.partition(":")[0].str.strip()
    waiting, beyond = verdict == "not run", verdict == UNTESTABLE
    claims = claims.reindex(columns=[*COLUMNS, "table", "slide"], fill_value="")
    claims["claim"] = [
        f"{claim} ({', '.join(filter(None, where))})" if any(where) else claim
        for claim, *where in claims[["claim", "table", "slide"]].itertuples(index=False)
    ]
    shown = claims[list(COLUMNS)].rename(columns=COLUMNS)
    groups = {
        "Tested by this run": shown[~waiting & ~beyond],
        "Not run yet": shown.loc[waiting, ["claim", "slides", "this run"]],
        "No table can test": shown.loc[beyond, ["claim", "this run"]],
    }
    counts = verdict.value_counts()
    known = [name for name in VERDICTS if name in counts]
    return groups, counts[known].rename_axis("verdict").reset_index(name="claims")
