"""The stages of a run and what each took: wall time, peak memory, disk, and how it would grow.

A run's record (``run.json``) says of every stage how long it took and what it held. Where a stage
computed something for the distinct images only, or with cheaper settings than those of another
profile, its time is *extrapolated* in proportion; what a machine with a GPU would need is
*predicted* from assumptions (``stages_forecast.py``). Measured, extrapolated and predicted numbers
stand in columns of their own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from blcf_utils.config.profile import Profile, load_profile
from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.tables import markdown
from blcf_utils.run.record import RUN_FILE, read_run, refuse_reference, results_folder
from blcf_utils.run.stages_forecast import Assumptions, predicted_seconds, runs_on

TABLE = "x10_stages"
COLUMNS = (
    "stage", "of", "images", "computed", "seconds", "resumed", "seconds_extrapolated",
    "extrapolated_by", "peak_rss_mb", "peak_own_mb", "bytes", "runs_on", "seconds_predicted",
)  # fmt: skip
# Of images with equal bytes these stages compute the first only; the others they compute for all.
ONCE_PER_CONTENT = (
    "assignment", "checks", "class-vectors", "descriptors", "detector", "features", "saliency",
    "sift", "sift_words", "weights",
)  # fmt: skip
# Every image of a dataset is gone through.
PER_IMAGE = (*ONCE_PER_CONTENT, "image-rankings")
# Not of the query images outside the database.
DATABASE_ONLY = (
    "class-vectors", "descriptors", "detector", "image-rankings", "saliency", "weights"
)  # fmt: skip
REST = "searching, scoring, plotting"


@dataclass(frozen=True)
class StageRow:
    """One stage of a run, or what a notebook did beside its stages.

    Attributes:
        stage: ``features`` ... or ``notebook``.
        of: the artefact's label, or the notebook's name.
        images: images of its dataset; 0 where it is not about the images of one.
        computed: how many of them were really computed (the others have the same bytes).
        seconds: wall time of making it, measured.
        resumed: it went on after a run that was killed, whose time is not in ``seconds``.
        factor: how many times longer it takes at full number and settings.
        why: where the factor comes from.
        peak_rss_mb: resident memory of the process while it was made, at its peak; measured.
        peak_own_mb: the same without pages of mapped files; sampled.
        bytes: size of its files, measured.
        settings: numbers of its configuration that say how much work it is.
    """

    stage: str
    of: str
    images: int = 0
    computed: int = 0
    seconds: float = 0.0
    resumed: bool = False
    factor: float = 1.0
    why: str = ""
    peak_rss_mb: int | None = None
    peak_own_mb: int | None = None
    bytes: int = 0
    settings: dict | None = None

    @property
    def extrapolated(self) -> float:
        """Seconds at the full number of images and full settings, on the same machine."""
        return self.seconds * self.factor


def stage_rows(record: dict, full: Profile | None = None) -> list[StageRow]:
    """Return every stage of a run once, in the order of the notebooks, and the rest of each.

    Args:
        record: of the run (``run.json``).
        full: the profile whose settings times are extrapolated to; the run's own when None.
    """
    datasets = {
        one["dataset"]: one
        for entry in record["notebooks"].values()
        for data in entry.get("datasets", [])
        for one in (data, *data.get("parts", []))  # a benchmark and its distractors
    }
    rows: dict[str, StageRow] = {}
    rest = []
    for name, entry in record["notebooks"].items():
        spent = 0.0
        for event in entry.get("stages", []):
            spent += event.get("seconds", 0.0)
            if event["key"] not in rows:
                rows[event["key"]] = _row(event, datasets)
        left = max(0.0, entry.get("seconds", 0.0) - spent)
        rest.append(
            StageRow("notebook", f"{name}: {REST}", seconds=left, peak_rss_mb=entry["peak_rss_mb"])
        )
    made = list(rows.values())
    if full is not None:
        ran = record["profile"]["document"]
        made = [_scaled(row, ran, full.document(), made) for row in made]
    return made + rest


def _row(event: dict, datasets: dict[str, dict]) -> StageRow:
    stage = event["stage"]
    images, distinct = _counts(event["label"], datasets, stage in DATABASE_ONLY)
    if stage not in PER_IMAGE:
        images = distinct = 0
    computed = distinct if stage in ONCE_PER_CONTENT else images
    factor, why = images / computed if computed else 1.0, "images"
    work = event.get("work", {})
    if work.get("pairs_matched"):  # what verification takes is matching pairs of images
        factor, why = work["pairs"] / work["pairs_matched"], "pairs of images"
    return StageRow(
        stage,
        event["label"],
        images,
        computed,
        event.get("made_in_seconds", event.get("seconds", 0.0)),
        bool(event.get("resumed")),
        factor,
        f"{why} x {factor:.3g}" if factor > 1 else "",
        event.get("peak_rss_mb"),
        event.get("peak_own_mb"),
        event.get("bytes", 0),
        event.get("settings", {}),
    )


def _counts(label: str, datasets: dict[str, dict], database_only: bool) -> tuple[int, int]:
    """Return how many images the dataset of a label has, and how many of them are distinct."""
    fitting = [name for name in datasets if label == name or label.startswith(f"{name}-")]
    if not fitting:
        return 0, 0
    name = max(fitting, key=len)
    data = datasets[name]
    if label.startswith(f"{name}-queries-"):
        images = data.get("query_images", 0)
        return images, data.get("distinct_query_images", images)
    images = data["images"] if database_only else data.get("all_images", data["images"])
    return images, min(images, data.get("distinct", images))


def _scaled(row: StageRow, ran: dict, full: dict, rows: Sequence[StageRow]) -> StageRow:
    """Extrapolate a stage that ran with cheaper settings than the full profile's."""
    factor, why = 1.0, []
    if row.stage in ("codebook", "sift_codebook"):
        group = "codebook" if row.stage == "codebook" else "sift"
        used, wanted = ran[group], full[group]
        have = _descriptors(row, rows)
        for what, ratio in (
            ("iterations", wanted["iterations"] / used["iterations"]),
            (
                "descriptors",
                min(wanted["max_descriptors"], have) / min(used["max_descriptors"], have),
            ),
            ("words", wanted["words"] / used["words"]),
        ):
            if ratio != 1:
                factor, why = factor * ratio, [*why, f"{what} x {ratio:.3g}"]
    if row.stage == "finetuned":
        used, wanted = ran["finetuning"]["training"], full["finetuning"]["training"]
        ratio = _examples(wanted) / max(1, _examples(used))
        if ratio != 1:
            factor, why = ratio, [f"training examples x {ratio:.3g}"]
    if factor == 1:
        return row
    return replace(row, factor=row.factor * factor, why=", ".join(filter(None, [row.why, *why])))


def _examples(training: dict) -> int:
    return training["steps"] * training["batch"] * training["accumulate"]


def _descriptors(row: StageRow, rows: Sequence[StageRow]) -> float:
    """Return about how many descriptors there are to learn from: by the size of their file."""
    before = {"codebook": "features", "sift_codebook": "sift"}[row.stage]
    made = [r for r in rows if r.stage == before and row.of.startswith(r.of)]
    if not made:
        return float("inf")
    # float16 of the layer's width; SIFT: 128 bytes and a keypoint of four float32.
    width = 144 if before == "sift" else 2 * _channels(made[0].settings or {})
    return made[0].bytes / width


def _channels(settings: dict) -> int:
    from blcf_utils.features.networks.backbones import layer_channels

    return layer_channels(settings["name"], settings["layer"])


def write_stages(
    profile: str,
    results: Path | None = None,
    *,
    full: str | None = None,
    assumptions: Assumptions | None = None,
) -> pd.DataFrame:
    """Write ``tables/x10_stages.csv`` and ``.md`` of a run and return the table.

    Args:
        profile: name of the profile that was run.
        results: the folder that holds one folder per profile, instead of ``results``.
        full: a profile whose settings times are extrapolated to; the run's own when None.
        assumptions: about the machine that seconds are predicted for.

    Raises:
        StudyError: nothing has been run.
    """
    folder = results_folder(profile, results)
    record = read_run(folder)
    if not record["notebooks"]:
        raise StudyError(f"{folder / RUN_FILE}: no run to tell of; run blcf run first")
    refuse_reference(folder, profile)
    assumptions = assumptions or Assumptions()
    rows = stage_rows(record, load_profile(full) if full else None)
    lines = [_line(row, record, assumptions) for row in rows]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines)
    write_text(folder / "tables" / f"{TABLE}.csv", out.getvalue())
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    write_text(folder / "tables" / f"{TABLE}.md", _page(profile, full, record, table, assumptions))
    return table


def _line(row: StageRow, record: dict, assumptions: Assumptions) -> tuple:
    on = runs_on(row.stage, row.of)
    cores = record.get("provenance", {}).get("hardware", {}).get("cores") or 1
    side = (row.settings or {}).get("longest_side")
    seconds = predicted_seconds(row.extrapolated, row.images, side, on, cores, assumptions)
    return (
        row.stage,
        row.of,
        row.images or "",
        row.computed or "",
        round(row.seconds, 2),
        "yes" if row.resumed else "",
        round(row.extrapolated, 2),
        row.why,
        row.peak_rss_mb or "",
        row.peak_own_mb or "",
        row.bytes or "",
        on,
        round(seconds, 2),
    )


def _page(
    profile: str, full: str | None, record: dict, table: pd.DataFrame, assumptions: Assumptions
) -> str:
    hardware = record.get("provenance", {}).get("hardware", {})
    parts = [f"# {TABLE}: the stages of a run of {profile}\n"]
    stand_ins = record.get("rehearsal")
    if stand_ins:
        parts.append(f"**{stand_ins}** Times and sizes are those of the rehearsal.\n")
    parts.append(
        f"Measured on {hardware.get('cpu', 'an unknown machine')}, "
        f"{hardware.get('cores', '?')} cores, {hardware.get('memory_gb', '?')} GB: *seconds*, "
        "*peak MB* (resident memory of the process, all that it held), *own MB* (without pages of "
        "mapped files, which the system takes back when it needs them; sampled) and *MB on disk*. "
        "A *resumed* stage went on after a run that was killed, whose time is not counted.\n"
    )
    what = f"the settings of the profile {full}" if full else "its own settings"
    parts.append(
        "*Extrapolated*: the same machine, in proportion to the images that have the same bytes "
        f"as another one and were not computed again, and to {what}.\n"
    )
    parts.append(f"*Predicted* seconds are not measured. {assumptions.sentence()}\n")
    shown = pd.DataFrame(
        {
            "stage": table["stage"],
            "of": table["of"],
            "images": [_count(n) for n in table["images"]],
            "computed": [_count(n) for n in table["computed"]],
            "seconds": [
                _seconds(s) + (" (resumed)" if resumed else "")
                for s, resumed in zip(table["seconds"], table["resumed"], strict=True)
            ],
            "extrapolated": [
                _seconds(s) + (f" ({why})" if why else "")
                for s, why in zip(
                    table["seconds_extrapolated"], table["extrapolated_by"], strict=True
                )
            ],
            "peak MB": [_count(n) for n in table["peak_rss_mb"]],
            "own MB": [_count(n) for n in table["peak_own_mb"]],
            "MB on disk": [f"{n / 1e6:,.1f}" if n else "" for n in table["bytes"]],
            "runs on": table["runs_on"],
            "predicted": [_seconds(s) for s in table["seconds_predicted"]],
        }
    )
    sums = {
        "stage": "all",
        "of": "",
        "images": "",
        "computed": "",
        "seconds": _seconds(table["seconds"].sum()),
        "extrapolated": _seconds(table["seconds_extrapolated"].sum()),
        "peak MB": _count(max((n for n in table["peak_rss_mb"] if n), default="")),
        "own MB": _count(max((n for n in table["peak_own_mb"] if n), default="")),
        "MB on disk": f"{sum(n for n in table['bytes'] if n) / 1e6:,.1f}",
        "runs on": "",
        "predicted": _seconds(table["seconds_predicted"].sum()),
    }
    shown = pd.concat([shown, pd.DataFrame([sums])], ignore_index=True)
    parts.append(markdown(shown, index=False))
    unfinished = [
        f"{name} ({entry['status']})"
        for name, entry in record["notebooks"].items()
        if entry["status"] != "done"
    ]
    if unfinished:
        parts.append(f"Not finished: {', '.join(unfinished)}.\n")
    return "\n".join(parts)


def _count(number) -> str:
    return f"{number:,}" if number != "" else ""


def _seconds(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"
