"""Words against vectors under several networks, sizes of codebooks, and the numbers of pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from blcf_utils import experiments
from blcf_utils.config.profile import Profile
from blcf_utils.experiments.conclusion import CLAIMS
from blcf_utils.pooling.compared.rows import row
from blcf_utils.results.folder import Results
from blcf_utils.results.intervals import bootstrap, differences, paired_bootstrap
from blcf_utils.results.published import load_published
from blcf_utils.results.tables import Measurement
from blcf_utils.study.study import Study

SETTINGS = {
    "name": "toy",
    "datasets": ["toy"],
    "features": {
        "backbone": {"name": "squeezenet1_1", "layer": "fire3", "weights": "random"},
        "longest_side": 96,
        "device": "cpu",
    },
    "whitening": {"dimensions": 32},
    "codebook": {"words": 30, "iterations": 4},
    "comparison": {"same_dataset": True, "dimensions": 32},
    "compare_backbones": [{"name": "squeezenet1_1", "layer": "conv1", "weights": "random"}],
}


@pytest.fixture
def study(toy_root, store, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path / "results"))
    return Study(Profile(**SETTINGS), store)


def test_networks_are_compared_as_table_t10_compares(study):
    table = experiments.backbones_table(study)
    assert (table["status"] == "measured").all()
    cells = table.set_index(["row", "column"])["measured"]
    networks = [f"squeezenet1_1 {layer} (random)" for layer in ("fire3", "conv1")]
    assert list(dict.fromkeys(table["row"])) == networks
    ids = {"whitened-ls": "sum", "rmac-ls": "rmac", "crow-ls": "crow"}
    changed = study.changed({"features.backbone": study.profile.compare_backbones[0]})
    for network, one in zip(networks, (study, changed), strict=True):
        for compared in experiments.compare_methods(one, [row(id) for id in ids.values()]):
            ending = next(end for end, id in ids.items() if id == compared.row.id)
            expected = compared.scores["ls", False][0].mean
            assert cells[network, f"toy/{ending}"] == pytest.approx(expected, abs=1e-12)
    gains = experiments.network_gains(study)
    assert len(gains) == 2 * 4
    aps = study.results.per_query("x01_backbones")
    pair = aps[networks[1], "toy/ls"], aps[networks[1], "toy/rmac-ls"]
    assert tuple(gains.loc[("toy", networks[1], "R-MAC")]) == paired_bootstrap(*pair)


def test_codebook_sizes_say_what_they_cost(study):
    table = experiments.codebook_size_table(study, "toy", (10, 40), exact=35)
    assert list(dict.fromkeys(table["row"])) == ["10", "30", "40"]  # the profile's own among them
    cells = table.set_index(["row", "column"])["measured"]
    small = study.open("toy").changed({"codebook.words": 10})
    words = [len(np.unique(small.maps.map(i))) for i in range(18)]
    assert cells["10", "toy/distinct words an image"] == pytest.approx(np.mean(words))
    assert cells["10", "toy/bytes an image"] == pytest.approx(small.index().nbytes / 18)
    expected = small.evaluate(small.search("LS")).mean
    assert cells["10", "toy/ls"] == pytest.approx(expected, abs=1e-12)
    recalls = [name for name in cells.index if name[1] == "toy/recall of assignment"]
    assert recalls == [("40", "toy/recall of assignment")]  # the only one beyond `exact`
    assert 0.5 < cells[recalls[0]] <= 1


def results_of(folder, tables, instances=None):
    """A study of which the results alone are there: table to (row, column) to APs.

    ``instances`` are those of the queries; each query shows its own when None.
    """
    results = Results(folder)
    for table, cells in tables.items():
        results.table(
            table,
            [
                Measurement(row, column, float(np.mean(list(aps.values()))), per_query=aps)
                for (row, column), aps in cells.items()
            ],
        )
    asked = [SimpleNamespace(id=id, instance=of) for id, of in (instances or {}).items()]
    dataset = SimpleNamespace(dataset=SimpleNamespace(queries=asked))
    return SimpleNamespace(results=results, datasets=("a", "b"), open=lambda name: dataset)


def test_claims_are_differences_of_cells_of_one_dataset(tmp_path):
    ls, gs, augmented = ({"q": x, "r": y} for x, y in ((0.9, 0.5), (0.2, 0.4), (0.1, 0.1)))
    study = results_of(
        tmp_path,
        {
            "t02_blcf_search": {
                ("LS", "a"): ls,
                ("GS", "a"): gs,
                ("GS", "a+qaug"): augmented,
                ("LS", "b"): ls,
            },
            "t03_trecvid": {
                ("Ours LS", "a"): ls,
                ("Sum pool (as ours) LS", "a"): augmented,
                ("Sum pool (plain) LS", "a"): gs,
            },
            "t09_saliency_blcf": {
                ("salgan-mini", "a/ls"): ls,
                ("Gaussian", "a/ls"): gs,
                ("salgan-mini", "b/ls"): augmented,
                ("SalGAN", "b/ls"): ls,
                ("Gaussian", "b/ls"): gs,
                ("Gaussian", "b/gs"): ls,
            },
        },
    )
    found = experiments.claim_differences(study)
    run = found.xs("run", level="origin")
    expected = paired_bootstrap(ls, gs)
    assert set(run.index) == {
        ("local over global search", "a"),  # b has no GS
        ("words over the best sums", "a"),
        ("saliency over a centre prior", "a"),
        ("saliency over a centre prior", "b"),
    }
    for line in run.itertuples(index=False):  # the best sums, and SalGAN before its stand-in
        assert tuple(line) == expected
    thesis = found.xs("thesis", level="origin")
    # Slide by slide: LS .738 and GS .653 on Oxford; SalGAN .698 and R-MAC .523 on INSTRE; sums as
    # in [20], .683, are the best ones on Oxford, BLCF .739.
    assert thesis.loc[("local over global search", "oxford5k"), "difference"] == 0.085
    assert thesis.loc[("words with saliency over R-MAC", "instre"), "difference"] == 0.175
    assert thesis.loc[("words over the best sums", "oxford5k"), "difference"] == 0.056
    assert thesis[["low", "high"]].isna().all(axis=None)
    assert "dim" not in thesis.index.get_level_values("dataset")


def test_queries_of_few_objects_make_an_interval_wider(tmp_path):
    # Two objects: the twelve queries of one gain .2 or .3, those of the other lose .1 or nothing.
    gained = {f"q{k}": (0.2, 0.3)[k % 2] if k < 12 else (-0.1, 0.0)[k % 2] for k in range(24)}
    gs = dict.fromkeys(gained, 0.5)
    ls = {query: 0.5 + value for query, value in gained.items()}
    tables = {"t02_blcf_search": {("LS", "a"): ls, ("GS", "a"): gs}}
    instances = {query: "xy"[k // 12] for k, query in enumerate(gained)}
    of_objects = experiments.claim_differences(results_of(tmp_path, tables, instances))
    found = tuple(of_objects.loc[("local over global search", "run", "a")])
    by_instance = bootstrap([differences(ls, gs)], [instances])
    assert found == (by_instance.mean, by_instance.low, by_instance.high)
    by_query = paired_bootstrap(ls, gs)
    assert found[2] - found[1] > 1.5 * (by_query[2] - by_query[1])
    steps = experiments.search_ladder(results_of(tmp_path, tables, instances)).loc["run"]
    low, high = steps.loc[("a", "LS"), ["low", "high"]]
    assert (low, high) == pytest.approx((0.45, 0.75))  # one of the objects, drawn twice
    alone = experiments.claim_differences(results_of(tmp_path, tables, dict.fromkeys(gained, "x")))
    assert alone.loc[("local over global search", "run", "a")].isna().tolist() == [
        False,
        True,
        True,
    ]


def test_each_claim_has_numbers_of_the_thesis(tmp_path):
    found = experiments.claim_differences(results_of(tmp_path, {}))
    assert list(found.index.get_level_values("claim").unique()) == [claim.said for claim in CLAIMS]
    assert len(CLAIMS) == 10
    for claim in CLAIMS:
        assert {claim.left[0], claim.right[0]} <= set(load_published(claim.table)["row"])


def test_ladder_leaves_out_single_steps(tmp_path):
    aps = {"q": 0.2, "r": 0.6}
    tables = {
        "t02_blcf_search": {("GS", "a"): aps, ("LS", "a"): {"q": 1.0, "r": 1.0}, ("GS", "b"): aps},
        "t05_sift_fusion": {("merged", "a"): aps},
    }
    found = experiments.search_ladder(results_of(tmp_path, tables))
    run = found.loc["run"]
    assert set(run.index) == {("a", "GS"), ("a", "LS"), ("a", "+ SIFT")}
    assert tuple(run.loc[("a", "GS")]) == pytest.approx((0.4, 0.2, 0.6))
    assert tuple(run.loc[("a", "LS")]) == (1, 1, 1)
    thesis = found.loc["thesis"]["mAP"]
    assert thesis.loc["oxford5k"].to_dict() == {
        "GS": 0.653, "LS": 0.738, "+ R": 0.734, "+ LQE": 0.788, "+ SIFT": 0.901,
    }  # fmt: skip
    assert "instre" not in thesis.index.get_level_values("dataset")  # its merged value alone
