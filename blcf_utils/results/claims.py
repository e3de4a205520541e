"""The claims of the thesis' slides, tested on their own numbers and on this run's tables.

What the slides say stands in ``data/published/claims.csv``; how each claim is tested stands here,
under its id.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import pandas as pd

from blcf_utils.ground.artefacts import write_text
from blcf_utils.ground.paths import published_dir
from blcf_utils.results.comparisons import Cells, Claim, Row
from blcf_utils.results.intervals import read_instances
from blcf_utils.results.published import load_published, number, read_published
from blcf_utils.results.shown import markdown
from blcf_utils.results.tables import read_per_query, read_table

HEADER = ("id", "claim", "slide", "remark")
EVALUATED = (
    "id", "claim", "slide", "table", "published_evidence", "published_holds",
    "measured_evidence", "measured", "interval", "remark",
)  # fmt: skip
UNTESTABLE = "not testable by a table: "

T02, T03, T04, T05 = "t02_blcf_search", "t03_trecvid", "t04_efficiency", "t05_sift_fusion"
T06, T07 = "t06_finetune_oxford", "t07_finetune_instre"
T08, T09 = "t08_saliency_sum_pooling", "t09_saliency_blcf"
T10, T11, T12 = "t10_comparison", "t11_comparison_expansion", "t12_blcf_finetuned"

# Columns, after the dataset's name.
QAUG, BOTH = ("", "+qaug"), ("/gs", "/ls")
WORDS = tuple(
    f"/{weighting}{mode}" for weighting in ("none", "gaussian", "saliency") for mode in BOTH
)

# Rows.
BEST: Row = ()
SEARCHES, EXPANDED = ["GS", "LS"], ["GS + GQE", "LS + GQE"]
RERANKED, RERANKED_REGIONS = ["GS + R", "LS + R"], ["GS + R + LQE", "LS + R + LQE"]
STEPS = ("", " + R", " + GQE", " + R + GQE", " + R + LQE")
OURS = ("Ours GS", "Ours LS")
SUMS, SUMS_OF_20, PLAIN_SUMS = (
    (f"Sum pool ({how}) GS", f"Sum pool ({how}) LS") for how in ("as ours", "as in [20]", "plain")
)
PLAIN, HAND_MADE = ("Gaussian", "L2-norm"), ("Itti-Koch", "BMS")
DEEP = ("SalNet", "SalGAN", "SAM-VGG", "SAM-ResNet")
MINI = ("salnet-mini", "salgan-mini", "sam-vgg-mini", "sam-resnet-mini")
WEIGHTINGS = ["None", *PLAIN, *HAND_MADE, *DEEP]
SALGAN, SALGAN_MINI, RMAC = "BLCF-SalGAN", "BLCF-salgan-mini", "R-MAC [43]"
POOLED, OFF_THE_SHELF = ("CroW [22]", RMAC), ("CroW [22]", "CAM [20]", RMAC)
TUNED = ("R-MAC [35]", "R-MAC-ResNet [14]")

# Datasets. The first of each is what the slides speak of, the others are of its kind.
OXFORD = ("oxford5k", "monuments-mini", "mini-buildings")
NOT_OXFORD = ("paris6k", "instre-mini", "dvd-mini", "mini-objects")
INSTRE = ("instre", "instre-mini", "mini-objects")
NOT_INSTRE = ("oxford5k", "paris6k", "monuments-mini", "dvd-mini", "mini-buildings")
BUILDINGS = ("oxford5k", "paris6k", "monuments-mini", "mini-buildings")
BOXED = ("oxford5k", "paris6k", "instre-mini", "monuments-mini", "mini-buildings", "mini-objects")

# What the differences must be, where not all above 0.
MEAN, LOSS_SOMEWHERE = {"rule": "mean"}, {"rule": "any", "relation": "<"}
LITTLE = {"rule": "mean", "relation": "<=", "bound": 0.02}
SAME, NEARLY_SAME = ({"relation": "within", "bound": bound} for bound in (0.005, 0.01))
CLOSE = {"only": BUILDINGS, "relation": ">=", "bound": -0.05}
COSTS = {"rule": "mean", "relation": "<", "bound": -0.005}

CLAIMS = {
    # Search, re-ranking and expansion
    "ls_beats_gs": Claim(T02, "LS", "GS", QAUG),
    "ls_beats_gs_boxed": Claim(T02, "LS", "GS", QAUG, only=BOXED),
    "ls_beats_gs_with_rest": Claim(
        T02, [f"LS{step}" for step in STEPS], [f"GS{step}" for step in STEPS], QAUG, **MEAN
    ),
    "ls_beats_gs_trecvid_table": Claim(T03, "Ours LS", "Ours GS"),
    "ls_beats_gs_weightings": Claim(T09, WEIGHTINGS, WEIGHTINGS, ("/ls",), ("/gs",)),
    "qe_beneficial": Claim(
        T02,
        [*EXPANDED, "GS + R + GQE", "LS + R + GQE", *RERANKED_REGIONS],
        [*SEARCHES, *RERANKED, *RERANKED],
        QAUG,
        **MEAN,
    ),
    "rerank_small": Claim(T02, RERANKED, SEARCHES, QAUG, **LITTLE),
    "rerank_after_ls": Claim(T02, "LS + R", "LS", QAUG, **NEARLY_SAME),
    "rerank_feeds_qe": Claim(T02, RERANKED_REGIONS, EXPANDED, QAUG),
    "rerank_good_regions": Claim("x02_localisation", "re-ranking's window", "the whole image"),
    "qaug_helps_gs_ls": Claim(T02, SEARCHES, SEARCHES, ("+qaug",), ("",)),
    # Against direct pooling
    "ours_beats_sum_pooling": Claim(T03, OURS, (*SUMS, *SUMS_OF_20)),
    "ours_beats_sum_pooling_same_maps": Claim(T03, [*OURS], [*SUMS]),
    "ours_beats_plain_sum_pooling": Claim(T03, [*OURS], [*PLAIN_SUMS]),
    "blcf_beats_sum_pooling_weightings": Claim(T09, BEST, BEST, BOTH, right_table=T08),
    "blcf_beats_off_the_shelf": Claim(T10, SALGAN, POOLED),
    "blcf_beats_off_the_shelf_mini": Claim(T10, SALGAN_MINI, POOLED),
    # Efficiency
    "words_sparse": Claim(T04, "words/image", relation="<", bound=1250),
    "efficient": Claim(T04, "query/time (s)", relation="<", bound=0.1),
    "memory_below_sum_pooling": Claim(
        T04, "memory (MB)", "memory (MB), sum pooling of the same maps", relation="<"
    ),
    "rerank_bottleneck": Claim(T04, "re-ranking (s)", "query/time (s)", right_columns=(None,)),
    # SIFT and CNN
    "merged_beats_both": Claim(T05, "merged", ("BLCF", "SIFT-BoW")),
    "sift_better_planar": Claim(T05, "SIFT-BoW", "BLCF", only=(*OXFORD, "dvd-mini")),
    "sift_better_buildings": Claim(T05, "SIFT-BoW", "BLCF", only=(*BUILDINGS, "dvd-mini")),
    "sift_better_covers": Claim(T05, "SIFT-BoW", "BLCF", only=("dvd-mini",)),
    "cnn_better_objects": Claim(T05, "BLCF", "SIFT-BoW", only=INSTRE),
    # Fine-tuning
    "baseline_b_beats_a": Claim(T06, "Baseline B", "Baseline A"),
    "baseline_b_beats_a_instre": Claim(T07, "Baseline B", "Baseline A"),
    "network_b_not_trained": Claim(T06, "(F)Network B", "Baseline B", **SAME),
    "finetuning_gains_target": Claim(T06, "(F)Network A", "Baseline A", only=OXFORD),
    "finetuning_hurts_other": Claim(
        T06, "(F)Network A", "Baseline A", only=NOT_OXFORD, **LOSS_SOMEWHERE
    ),
    "class_labels_help": Claim(T07, "(F+cl)Network B", ("Baseline B", "(F)Network B"), only=INSTRE),
    "class_labels_specialise": Claim(
        T07, "(F+cl)Network B", "Baseline B", only=NOT_INSTRE, **LOSS_SOMEWHERE
    ),
    "similarity_no_gain": Claim(
        T07,
        ["(F)Network A", "(F)Network B"],
        ["Baseline A", "Baseline B"],
        only=INSTRE,
        relation="<=",
    ),
    # Saliency
    "saliency_useful_blcf": Claim(T09, "SalGAN", "None", BOTH),
    "saliency_useful_sum_pooling": Claim(T08, "SalGAN", "None", BOTH),
    "saliency_beats_center_blcf": Claim(T09, HAND_MADE + DEEP, PLAIN, BOTH),
    "salgan_beats_center_blcf": Claim(T09, "SalGAN", PLAIN, BOTH),
    "quality_blcf": Claim(T09, [*DEEP], HAND_MADE, BOTH),
    "quality_blcf_best": Claim(T09, DEEP, HAND_MADE, BOTH),
    "quality_monotone": Claim(T09, ["SAM-VGG", "SAM-ResNet"], "SalGAN", BOTH),
    "hand_made_saliency_useful_blcf": Claim(T09, "BMS", "None", BOTH),
    "mini_saliency_useful_blcf": Claim(T09, [*MINI], "None", BOTH, **MEAN),
    "saliency_hurts_sum_pooling_buildings": Claim(
        T08, [*HAND_MADE], "None", BOTH, only=BUILDINGS, **COSTS
    ),
    "mini_saliency_hurts_sum_pooling_buildings": Claim(
        T08, [*MINI], "None", BOTH, only=("monuments-mini", "mini-buildings"), **COSTS
    ),
    "mini_saliency_beats_center_blcf": Claim(T09, MINI, PLAIN, BOTH),
    "best_weighting_differs_blcf": Claim(T09, BEST, columns=("/ls",), rule="differ"),
    "best_weighting_differs_sum_pooling": Claim(T08, BEST, columns=("/ls",), rule="differ"),
    # Against other approaches
    "sota_instre": Claim(T10, SALGAN, BEST, only=INSTRE),
    "sota_instre_expansion": Claim(T11, SALGAN, BEST, only=INSTRE),
    "competitive": Claim(T10, SALGAN, OFF_THE_SHELF, **CLOSE),
    "competitive_mini": Claim(T10, SALGAN_MINI, OFF_THE_SHELF, **CLOSE),
    "competitive_expansion": Claim(T11, SALGAN, OFF_THE_SHELF, **CLOSE),
    "competitive_expansion_mini": Claim(T11, SALGAN_MINI, OFF_THE_SHELF, **CLOSE),
    "competitive_finetuned": Claim(T10, SALGAN, BEST, **CLOSE),
    "no_finetuning_needed": Claim(T10, SALGAN, TUNED),
    "expansion_gains_salgan": Claim(T11, SALGAN, SALGAN, right_table=T10),
    "expansion_gains_mini": Claim(T11, SALGAN_MINI, SALGAN_MINI, right_table=T10),
    "no_region_analysis": Claim(T10, SALGAN, RMAC),
    "no_region_analysis_mini": Claim(T10, SALGAN_MINI, RMAC),
    "finetuned_blcf_gains": Claim(T12, "fine-tuned", "off-the-shelf", WORDS),
}


def load_claims() -> pd.DataFrame:
    """Return ``data/published/claims.csv`` as text: columns id, claim, slide and remark."""
    return read_published(published_dir() / "claims.csv", HEADER)


def published_cells(table_id: str) -> Cells:
    """Return the numbers of a published table."""
    table = load_published(table_id)
    values = {(c.row, c.column): number(c.value) for c in table.itertuples()}
    return Cells(table_id, {key: v for key, v in values.items() if v is not None})


def measured_cells(table_id: str, folder: Path) -> Cells | None:
    """Return the measured numbers of a run's table, or None when the run has no such table."""
    if not (Path(folder) / "tables" / f"{table_id}.csv").is_file():
        return None
    table = read_table(table_id, folder)
    ran = table[table["status"] == "measured"]
    values = {(c.row, c.column): c.measured for c in ran.itertuples()}
    numeric = {key: value for key, value in values.items() if isinstance(value, float)}
    return Cells(table_id, numeric, read_per_query(table_id, folder), read_instances(folder))


def published_evidence(claim: Claim) -> tuple[str, str]:
    """Return a claim's evidence in the slides' own numbers, and its verdict.

    The verdict is ``holds``, ``does not hold`` or ``no value in the slides``.
    """
    evidence, verdict, _ = claim.tested(published_cells)
    return evidence, verdict if evidence else "no value in the slides"


def evaluate_claims(folder: Path) -> pd.DataFrame:
    """Test every claim of the slides on the published and on a run's tables.

    Args:
        folder: the profile's results folder.

    Returns:
        Columns id, claim, slide, table, published_evidence, published_holds, measured_evidence,
        measured (``holds``, ``does not hold``, ``undecided`` or ``not run: <why>``), interval
        (95 %, of the mean difference by dataset), remark. Both verdicts of a claim that no table
        can test are its remark, ``not testable by a table: <why>``.
    """
    cells, lines = cache(partial(measured_cells, folder=folder)), []
    for said in load_claims().itertuples(index=False):
        found = ("", "", said.remark, "", said.remark, "")
        if claim := CLAIMS.get(said.id):
            found = (claim.table, *published_evidence(claim), *claim.tested(cells))
        lines.append((said.id, said.claim, said.slide, *found, said.remark))
    return pd.DataFrame(lines, columns=list(EVALUATED))


def write_claims(folder: Path) -> pd.DataFrame:
    """Write ``tables/claims.csv`` and ``tables/claims.md``; return :func:`evaluate_claims`."""
    claims = evaluate_claims(folder)
    tables = Path(folder) / "tables"
    write_text(tables / "claims.csv", claims.to_csv(index=False, lineterminator="\n"))
    page = [
        "# The slides' claims\n",
        "Each claim tested on the slides' own numbers and on this run's. Datasets differ: an "
        "ordering is compared, not a number. A claim is undecided when the interval that decides "
        "it (95 %, in brackets) holds both what it says and the contrary.\n",
        markdown(claims.drop(columns=["slide"]), index=False),
    ]
    write_text(tables / "claims.md", "\n".join(page))
    return claims
