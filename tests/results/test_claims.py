"""Claims evaluated on measured tables: the orderings, the rules, the reasons, the intervals."""

from __future__ import annotations

import pandas as pd
import pytest

from blcf_utils.ground.paths import project_root
from blcf_utils.results import claims
from blcf_utils.results.claims import evaluate_claims, load_claims, write_claims
from blcf_utils.results.comparisons import Claim
from blcf_utils.results.intervals import write_instances
from blcf_utils.results.tables import Measurement, write_table


def measure(folder, table_id, cells, per_query=None):
    """Write a run's table from {(row, column): value}."""
    items = [
        Measurement(row, column, value, per_query=(per_query or {}).get((row, column)))
        for (row, column), value in cells.items()
    ]
    write_table(table_id, items, folder)


def verdict(folder, claim_id):
    return evaluate_claims(folder).set_index("id").loc[claim_id]


@pytest.mark.parametrize("profile", ["mini", "photos"])
def test_the_committed_tables_give_the_committed_claims(profile):
    folder = project_root() / "results" / profile
    text = evaluate_claims(folder).to_csv(index=False, lineterminator="\n")
    assert text == (folder / "tables" / "claims.csv").read_text(encoding="utf-8")


def test_without_tables_every_claim_says_why_it_was_not_run(tmp_path):
    claims = evaluate_claims(tmp_path)
    assert list(claims["id"]) == list(load_claims()["id"])
    reasons = claims["measured"].str.startswith(("not run: this run has no table", "not testable"))
    assert reasons.all()
    assert (claims["measured_evidence"] == "").all()


def test_an_ordering_is_tested_on_the_runs_own_datasets(tmp_path):
    measure(
        tmp_path,
        "t02_blcf_search",
        {("GS", "instre-mini"): 0.37, ("LS", "instre-mini"): 0.55, ("LS", "dvd-mini"): 0.1},
    )
    found = verdict(tmp_path, "ls_beats_gs")
    assert found["measured"] == "holds"
    assert found["measured_evidence"] == "instre-mini: LS 0.550, GS 0.370 (+0.180)"
    assert "oxford5k: LS 0.738, GS 0.653 (+0.085)" in found["published_evidence"]
    assert verdict(tmp_path, "qe_beneficial")["measured"].startswith(
        "not run: t02_blcf_search has no measured GS + GQE"
    )
    measure(
        tmp_path,
        "t02_blcf_search",
        {
            ("GS", "instre-mini"): 0.37,
            ("LS", "instre-mini"): 0.55,
            ("GS", "dvd-mini"): 0.2,
            ("LS", "dvd-mini"): 0.1,
        },
    )
    assert verdict(tmp_path, "ls_beats_gs")["measured"] == "does not hold"
    # A mean over some of its rows would be another claim than the one the slides make.
    assert verdict(tmp_path, "ls_beats_gs_with_rest")["measured"] == (
        "not run: t02_blcf_search has no measured LS + R ; LS + GQE ; LS + R + GQE ; LS + R + LQE"
    )


def test_published_numbers_never_stand_in_for_measured_ones(tmp_path):
    measure(tmp_path, "t02_blcf_search", {("LS", "oxford5k"): 0.7})
    assert verdict(tmp_path, "ls_beats_gs")["measured"].startswith("not run")


def test_best_of_needs_every_rival_on_the_right(tmp_path):
    cells = {("merged", "mini-objects"): 0.5, ("BLCF", "mini-objects"): 0.4}
    measure(tmp_path, "t05_sift_fusion", cells)
    assert verdict(tmp_path, "merged_beats_both")["measured"].startswith("not run")
    measure(tmp_path, "t05_sift_fusion", {**cells, ("SIFT-BoW", "mini-objects"): 0.6})
    found = verdict(tmp_path, "merged_beats_both")
    assert found["measured"] == "does not hold"
    assert "SIFT-BoW (best of 2) 0.600 (-0.100)" in found["measured_evidence"]


def test_claims_about_a_kind_of_dataset_look_at_that_kind_only(tmp_path):
    measure(
        tmp_path,
        "t05_sift_fusion",
        {
            ("SIFT-BoW", "instre-mini"): 0.3,
            ("BLCF", "instre-mini"): 0.5,
            ("SIFT-BoW", "monuments-mini"): 0.6,
            ("BLCF", "monuments-mini"): 0.5,
        },
    )
    assert verdict(tmp_path, "cnn_better_objects")["measured"] == "holds"
    found = verdict(tmp_path, "sift_better_planar")
    assert found["measured"] == "holds"
    assert "instre-mini" not in found["measured_evidence"]


def test_columns_are_compared_across_variants_and_tables(tmp_path):
    measure(
        tmp_path,
        "t09_saliency_blcf",
        {
            ("None", "instre-mini/gs"): 0.3,
            ("None", "instre-mini/ls"): 0.6,
            ("SalGAN", "instre-mini/gs"): 0.4,
            ("SalGAN", "instre-mini/ls"): 0.59,
        },
    )
    assert verdict(tmp_path, "ls_beats_gs_weightings")["measured"] == "holds"
    assert verdict(tmp_path, "saliency_useful_blcf")["measured"] == "does not hold"
    assert verdict(tmp_path, "blcf_beats_sum_pooling_weightings")["measured"] == (
        "not run: this run has no table t08_saliency_sum_pooling"
    )
    measure(
        tmp_path,
        "t08_saliency_sum_pooling",
        {("SalGAN", "instre-mini/gs"): 0.35, ("SalGAN", "instre-mini/ls"): 0.5},
    )
    found = verdict(tmp_path, "blcf_beats_sum_pooling_weightings")
    assert found["measured"] == "holds"
    assert "SalGAN in t08_saliency_sum_pooling 0.350" in found["measured_evidence"]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(0.5, "holds"), (0.503, "holds"), (0.505, "holds"), (0.506, "does not hold")],
)
def test_within_is_two_sided_and_exact_at_its_bound(tmp_path, trained, expected):
    cells = {("Baseline B", "mini-objects"): 0.5, ("(F)Network B", "mini-objects"): trained}
    measure(tmp_path, "t06_finetune_oxford", cells)
    assert verdict(tmp_path, "network_b_not_trained")["measured"] == expected


def test_a_threshold_and_the_worst_of_a_row(tmp_path):
    measure(
        tmp_path,
        "t04_efficiency",
        {
            ("query/time (s)", "mini-objects"): 0.0004,
            ("query/time (s)", "instre-mini"): 0.25,
            ("re-ranking (s)", "mini-objects"): 0.2,
            ("memory (MB)", "mini-objects"): 1.0,
            ("memory (MB), sum pooling of the same maps", "mini-objects"): 2.0,
        },
    )
    found = verdict(tmp_path, "efficient")
    assert found["measured"] == "does not hold"
    assert found["measured_evidence"] == (
        "mini-objects: query/time (s) 0.0004 (threshold 0.1); "
        "instre-mini: query/time (s) 0.250 (threshold 0.1)"
    )
    assert verdict(tmp_path, "rerank_bottleneck")["measured"] == "does not hold"  # 0.2 < 0.25
    found = verdict(tmp_path, "memory_below_sum_pooling")
    assert (found["measured"], found["published_holds"]) == ("holds", "no value in the slides")


def test_intervals_come_from_the_per_query_aps(tmp_path):
    local = {f"q{i}": 0.5 + 0.01 * (i % 5) for i in range(50)}
    globally = {f"q{i}": 0.4 + 0.02 * (i % 5) for i in range(50)}
    cells = {("LS", "instre-mini"): 0.52, ("GS", "instre-mini"): 0.44}
    aps = {("LS", "instre-mini"): local, ("GS", "instre-mini"): globally}
    measure(tmp_path, "t02_blcf_search", cells, aps)
    interval = verdict(tmp_path, "ls_beats_gs")["interval"]
    assert interval.startswith("instre-mini: +0.080 [+0.07")
    assert interval.endswith("] over 50 queries")
    measure(tmp_path, "t02_blcf_search", cells, {("LS", "instre-mini"): local})
    assert verdict(tmp_path, "ls_beats_gs")["interval"] == ""


def test_a_query_counts_once_however_many_cells_it_is_in(tmp_path):
    aps = {
        ("LS", "instre-mini"): {"a": 0.6, "b": 0.8},
        ("GS", "instre-mini"): {"a": 0.5, "b": 0.5},
        ("LS", "instre-mini+qaug"): {"a": 0.9, "b": 0.7},
        ("GS", "instre-mini+qaug"): {"a": 0.6, "b": 0.6},
    }
    cells = {key: sum(value.values()) / 2 for key, value in aps.items()}
    measure(tmp_path, "t02_blcf_search", cells, aps)
    # Averages over the two columns: a 0.75 - 0.55, b 0.75 - 0.55: no spread is left.
    assert verdict(tmp_path, "ls_beats_gs")["interval"] == (
        "instre-mini: +0.200 [+0.200, +0.200] over 2 queries"
    )


def apart(mean: float, spread: float, queries: int = 40) -> tuple[dict, dict]:
    """Return APs of two systems whose differences have a mean and alternate by the spread."""
    right = {f"q{i}": 0.5 for i in range(queries)}
    left = {q: 0.5 + mean + spread * (-1) ** i for i, q in enumerate(right)}
    return left, right


# The interval of 40 differences that alternate by s is about +-2.05 * s * sqrt(40 / 39) / sqrt(40).
@pytest.mark.parametrize(
    ("mean", "spread", "expected"),
    [
        (0.05, 0.1, "holds"),
        (0.02, 0.1, "undecided"),
        (-0.02, 0.1, "undecided"),
        (-0.05, 0.1, "does not hold"),
        (0.0, 0.0, "undecided"),  # one search under two names: its interval holds 0
    ],
)
def test_an_interval_decides_an_ordering(tmp_path, mean, spread, expected):
    measure_apart(tmp_path, "t02_blcf_search", ("LS", "GS"), {"a-mini": (mean, spread)})
    assert verdict(tmp_path, "ls_beats_gs")["measured"] == expected


def measure_apart(folder, table, rows, sets):
    aps = {}
    for name, (mean, spread) in sets.items():
        for row, values in zip(rows, apart(mean, spread), strict=True):
            aps[row, name] = values
    measure(folder, table, {key: sum(v.values()) / len(v) for key, v in aps.items()}, aps)


@pytest.mark.parametrize(
    ("means", "every", "any_loss"),
    [
        ((0.1, 0.1), "holds", "does not hold"),
        ((0.1, 0.01), "undecided", "undecided"),
        ((0.1, -0.1), "does not hold", "holds"),
        ((0.01, -0.1), "does not hold", "holds"),
        ((0.01, -0.01), "undecided", "undecided"),
        ((-0.1, -0.1), "does not hold", "holds"),
    ],
)
def test_all_and_any_of_several_comparisons(tmp_path, means, every, any_loss):
    sets = {f"{name}-mini": (mean, 0.1) for name, mean in zip("ab", means, strict=True)}
    measure_apart(tmp_path, "t02_blcf_search", ("LS", "GS"), sets)
    assert verdict(tmp_path, "ls_beats_gs")["measured"] == every
    claim = Claim("t02_blcf_search", "LS", "GS", **claims.LOSS_SOMEWHERE)
    assert claim.tested(lambda table: claims.measured_cells(table, tmp_path))[1] == any_loss


@pytest.mark.parametrize(
    ("mean", "spread", "expected"),
    [
        (0.002, 0.005, "holds"),  # -0.001 to 0.005
        (0.004, 0.02, "undecided"),  # one end beyond 0.005
        (0.0, 0.1, "undecided"),  # both ends beyond it, on either side
        (-0.05, 0.1, "does not hold"),  # -0.08 to -0.02
    ],
)
def test_within_a_bound_has_two_sides(tmp_path, mean, spread, expected):
    rows = ("(F)Network B", "Baseline B")
    measure_apart(tmp_path, "t06_finetune_oxford", rows, {"a-mini": (mean, spread)})
    assert verdict(tmp_path, "network_b_not_trained")["measured"] == expected


def test_a_mean_is_decided_over_all_datasets_together(tmp_path):
    claim = Claim("t02_blcf_search", "LS", "GS", rule="mean")

    def tested(**sets):
        measure_apart(
            tmp_path, "t02_blcf_search", ("LS", "GS"), {f"{k}-mini": v for k, v in sets.items()}
        )
        return claim.tested(lambda table: claims.measured_cells(table, tmp_path))

    assert tested(a=(0.1, 0.1), b=(-0.04, 0.1))[1] == "holds"  # mean +0.03, half width 0.023
    evidence, found, interval = tested(a=(0.1, 0.1), b=(-0.09, 0.1))
    assert found == "undecided"
    assert evidence.endswith("mean difference +0.005")
    assert "all: +0.005 [" in interval
    assert interval.endswith("over 80 queries")
    assert "all:" not in tested(a=(0.1, 0.1))[2]


def test_instances_can_undo_what_queries_say(tmp_path):
    """Two of three objects gain, one loses: 30 queries of each seem sure, three objects are not."""
    right = {f"{name}{i}": 0.5 for name in "abc" for i in range(30)}
    left = {q: 0.5 + {"a": 0.2, "b": 0.1, "c": -0.05}[q[0]] for q in right}
    aps = {("LS", "a-mini"): left, ("GS", "a-mini"): right}
    measure(tmp_path, "t02_blcf_search", {k: sum(v.values()) / 90 for k, v in aps.items()}, aps)
    found = verdict(tmp_path, "ls_beats_gs")
    assert found["measured"] == "holds"
    assert found["interval"].endswith("over 90 queries")
    write_instances(tmp_path, {"a-mini": {query: query[0] for query in right}})
    found = verdict(tmp_path, "ls_beats_gs")
    assert found["measured"] == "undecided"
    assert found["interval"].endswith("over 3 instances")


def test_best_rows_differ_undecided(tmp_path):
    table, claim = "t09_saliency_blcf", "best_weighting_differs_blcf"

    def found(*leads):
        sets = {f"{name}-mini/ls": (lead, 0.1) for name, lead in zip("ab", leads, strict=True)}
        measure_apart(tmp_path, table, ("BMS", "None"), sets)
        return verdict(tmp_path, claim)["measured"]

    assert found(0.1, -0.1) == "holds"
    assert found(0.1, 0.1) == "does not hold"
    assert found(0.1, -0.01) == "undecided"  # BMS may be the best of both
    assert found(0.1, 0.01) == "undecided"  # None may be the best of the second


def test_write_claims_gives_the_same_bytes(tmp_path):
    measure(tmp_path, "t02_blcf_search", {("GS", "mini"): 0.3, ("LS", "mini"): 0.4})
    written = write_claims(tmp_path)
    first = [(tmp_path / "tables" / f"claims.{kind}").read_bytes() for kind in ("csv", "md")]
    write_claims(tmp_path)
    again = [(tmp_path / "tables" / f"claims.{kind}").read_bytes() for kind in ("csv", "md")]
    assert first == again
    back = pd.read_csv(tmp_path / "tables/claims.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(back, written, check_dtype=False)
    page = first[1].decode()
    assert page.count("\n| ") == len(written) + 2
    assert "| mini: LS 0.400, GS 0.300 (+0.100) | holds |" in page


def test_the_best_row_differs_or_not(tmp_path):
    table, claim = "t09_saliency_blcf", "best_weighting_differs_blcf"
    one = {("None", "a-mini/ls"): 0.5, ("BMS", "a-mini/ls"): 0.6}
    measure(tmp_path, table, one)
    assert verdict(tmp_path, claim)["measured"] == "not run: one dataset cannot differ"
    measure(tmp_path, table, {**one, ("None", "b-mini/ls"): 0.3, ("BMS", "b-mini/ls"): 0.4})
    found = verdict(tmp_path, claim)
    assert found["measured"] == "does not hold"
    assert found["measured_evidence"] == "a-mini/ls: BMS 0.600; b-mini/ls: BMS 0.400"
    measure(tmp_path, table, {**one, ("None", "b-mini/ls"): 0.5, ("BMS", "b-mini/ls"): 0.4})
    assert verdict(tmp_path, claim)["measured"] == "holds"
