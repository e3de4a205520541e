"""Nothing that is found on stand-ins can be read as a measurement: tables, figures, report, record.

Every experiment runs on two tiny stand-ins. A way of writing a measured cell makes a test fail.
"""

import json
import os
import re
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from official import write_ground_truth

from blcf_utils import experiments, plots
from blcf_utils.datasets.stand_ins.writing import write_stand_ins
from blcf_utils.experiments.drawn.curves import SizedDatabase
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.intervals import show_intervals
from blcf_utils.results.rehearsal import RESULTS_MARKER, STAMP, STATUS, rehearsed_datasets
from blcf_utils.results.tables import Measurement, read_table, wide, write_table
from blcf_utils.results.verdicts import verdicts
from blcf_utils.study.study import open_study

PROFILE = """
    name: rehearsed
    datasets: [oxford5k, instre]
    dataset_options: {oxford5k: {partial: true}, instre: {partial: true}}
    features:
      backbone: {name: vgg-mini, layer: conv5_1, weights: embedded}
      longest_side: 64
      device: cpu
    whitening: {dimensions: 16}
    codebook: {words: 20, iterations: 2}
    reranking: {images: 5}
    sift: {words: 16, keypoints: 40, longest_side: 128, verification: {images: 3, least: 4}}
    sum_pooling: {full_longest_side: 64}
    comparison:
      dimensions: 8
      vlad_words: 4
      netvlad_words: 4
      rerank: 5
      learn_on: {oxford5k: instre, instre: oxford5k}
    compare_backbones: [{name: vgg-mini, layer: conv5_1, weights: random}]
    finetuning:
      oxford: oxford5k
      instre: instre
      folds: 1
      validation: 0.0
      saliency: Gaussian
      mining: {images: 6, positive: 2, negative: [0, 1], triplets: 8}
      projection: {dimensions: 300}
      training: {frozen: conv4_2, inputs: maps, steps: 1, batch: 2, device: cpu}
    seed: 1
"""
WEIGHTINGS = ("None", "Gaussian", "Itti-Koch")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    truth = write_ground_truth(folder / "truth")
    options = {"pictures": 5, "names": 30, "workers": 1, "datasets": ["oxford5k", "instre"]}
    write_stand_ins(folder / "data", truth, **options)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("BLCF_DATA", str(folder / "data"))
        patch.setenv("BLCF_RESULTS", str(folder / "results"))
        patch.setenv("BLCF_CACHE", str(folder / "cache"))
        patch.setenv("BLCF_STAGE_LOG", str(folder / "stages.jsonl"))
        path = folder / "rehearsed.yaml"
        path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
        made = open_study(str(path))
        made.path = path
        yield made


def _compared(study):
    return experiments.compare_methods(study)


def _grown(study):
    name = study.datasets[0]
    database = SizedDatabase(study, name)
    found = experiments.measure_scaling(database, 100)
    return experiments.scaling_table(study, name, database, found)


RUN = {
    "backbones_table": lambda s: [experiments.backbones_table(s)],
    "compactness_table": lambda s: [experiments.compactness_table(s, _compared(s))],
    "comparison_table": lambda s: [experiments.comparison_table(s, _compared(s))],
    "datasets_table": lambda s: [experiments.datasets_table(s)],
    "dimension_table": lambda s: [experiments.dimension_table(s, ["sum"], [4, 8])],
    "efficiency_table": lambda s: [experiments.efficiency_table(s)],
    "expansion_table": lambda s: [experiments.expansion_table(s, _compared(s))],
    "finetuned_instre_table": lambda s: [experiments.finetuned_instre_table(s)],
    "finetuned_oxford_table": lambda s: [experiments.finetuned_oxford_table(s)],
    "finetuned_words_table": lambda s: [experiments.finetuned_words_table(s)],
    "fusion_table": lambda s: [experiments.fusion_table(s)],
    "localisation_table": lambda s: [experiments.localisation_table(s)],
    "pooling_table": lambda s: [experiments.pooling_table(s)],
    "projection_table": lambda s: [experiments.projection_table(s)],
    "quantisation_table": lambda s: [experiments.quantisation_table(s, "sum", (2,))],
    "saliency_table": lambda s: [experiments.saliency_table(s)],
    "scaling_table": lambda s: [_grown(s)],
    "search_table": lambda s: [experiments.search_table(s)],
    "seen_instances_table": lambda s: [experiments.seen_instances_table(s)],
    "state_of_the_art_table": lambda s: [experiments.state_of_the_art_table(s, _compared(s))],
    "weighted_sum_pooling_table": lambda s: [experiments.weighted_sum_pooling_table(s, WEIGHTINGS)],
    "weighted_words_table": lambda s: [experiments.weighted_words_table(s, WEIGHTINGS)],
}
# Written from tables, or no table on disk.
DERIVED = {"claims_table", "intervals_table", "mining_table", "summary_table"}


def test_every_experiment_is_rehearsed_here():
    tables = {name for name in experiments.__all__ if name.endswith("_table")}
    assert set(RUN) == tables - DERIVED


def test_experiments_write_through_the_study():
    """Only the study knows whether its datasets are stand-ins."""
    for path in Path(experiments.__file__).parent.glob("*.py"):
        assert not re.search(r"(?<!study\.)\bwrite_table\b", path.read_text(encoding="utf-8")), path


def _assert_nothing_measured(study):
    for path in (study.results / "tables").glob("[tx]*.csv"):
        table = read_table(path.stem, study.results)
        assert table["measured"].isna().all(), path.stem
        assert table["seconds"].isna().all(), path.stem
        assert not (table["status"] == "measured").any(), path.stem
    assert not list((study.results / "per_query").glob("*"))


@pytest.mark.parametrize("name", sorted(RUN))
def test_an_experiment_measures_nothing(study, name):
    (table,) = RUN[name](study)
    assert table["measured"].isna().all()
    gave = table["status"].str.extract(rf"^{STATUS} \(the pipeline gave (.+)\)$")[0].dropna()
    assert len(gave), table["status"].unique()
    _assert_nothing_measured(study)


def test_what_is_drawn_from_tables_says_that_nothing_was_measured(study):
    experiments.weighted_words_table(study, WEIGHTINGS)
    experiments.weighted_sum_pooling_table(study, WEIGHTINGS)
    gains = experiments.weighting_gains(study, "t09_saliency_blcf")
    assert gains.empty
    figures = [
        plots.plot_gains(gains),
        plots.plot_gains(experiments.method_gains(study)),
        plots.plot_query_gains(
            experiments.query_gains(study, "t09_saliency_blcf", "Gaussian"), "AP gain"
        ),
        plots.plot_bars(wide(experiments.backbones_table(study))),
        plots.plot_dimensions(wide(experiments.dimension_table(study, ["sum"], [4])), "oxford5k"),
        plots.plot_costs(experiments.compactness_table(study, []), "oxford5k"),
    ]
    experiments.saliency_table(study)
    figures.append(plots.plot_quality(experiments.quality_against_map(study)))
    for figure in figures:
        (text,) = figure.axes[0].texts
        assert "nothing" in text.get_text()
    assert experiments.finetuning_gains(study, "t07_finetune_instre").empty


def test_overview_intervals_claims_and_verdicts_show_no_measured_value(study):
    experiments.search_table(study)
    ids = experiments.complete_tables(study)
    assert (experiments.summary_table(study, ids)["measured cells"] == 0).all()
    intervals = experiments.intervals_table(study, ids)
    assert intervals.empty
    assert show_intervals(intervals, "t02_blcf_search").empty
    claims = experiments.claims_table(study)
    assert claims["measured"].str.match("not (run|testable)").all()
    assert (claims["measured_evidence"] == "").all()
    assert (claims["interval"] == "").all()
    for table_id in ids:
        judged = verdicts(table_id, study.results, {"backbone": "vgg16 conv5_1 (torchvision)"})
        assert judged["verdict"].str.startswith("not ").all()
        assert judged["difference"].isna().all()
    _assert_nothing_measured(study)


def test_figures_are_stamped_and_the_rest_says_what_it_is(study, capsys):
    dataset = study.dataset("oxford5k")
    figure = plots.show_queries(dataset, dataset.queries[:1], positives=2)
    before = len(figure.texts)
    shown = study.save_figure("00_problem", figure)
    assert [text.get_text() for text in shown.texts[before:]] == [STAMP]
    assert (study.results / "figures" / "00_problem.png").is_file()
    assert (study.describe()["pictures"] == STAMP).all()


def test_a_readers_own_table_measures_nothing_either(study):
    cell = Measurement("mine", "oxford5k", 0.5, per_query={"q": 0.5})
    assert study.write_table("x98_mine", [cell])["measured"].isna().all()
    # Past the study: the folder itself is marked.
    table = write_table("x99_mine", [cell], study.results)
    assert table["measured"].isna().all()
    assert table["status"].tolist() == [f"{STATUS} (the pipeline gave 0.5)"]
    _assert_nothing_measured(study)


def test_a_study_on_another_backbone_or_taught_by_a_stand_in_is_a_rehearsal(study, toy):
    other = study.with_words(12)
    assert other.stand_ins == ("oxford5k", "instre")
    taught = open_study("mini")
    taught.dataset = lambda name: toy
    assert taught.stand_ins == ()
    taught._stand_ins["instre"] = None  # a teacher that was loaded on the way
    assert taught.stand_ins == ("instre",)


def test_measuring_comes_back_with_the_datasets_own_pictures(study, toy, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path))
    cell = Measurement("row", "oxford5k", 0.5)
    assert study.write_table("x98_mine", [cell])["measured"].isna().all()
    real = open_study("mini")
    real.dataset = lambda name: toy
    monkeypatch.setattr(type(real), "results", study.results)
    table = real.write_table("x98_mine", [cell])
    assert table["measured"].tolist() == [0.5]
    assert not (study.results / RESULTS_MARKER).exists()


def test_the_stage_log_knows_stand_ins_and_what_was_computed(study):
    events = _events()
    datasets = {event["dataset"]: event for event in events if "dataset" in event}
    assert all(event["stand_in"] for event in datasets.values())
    assert datasets["oxford5k"]["distinct"] <= 6 < datasets["oxford5k"]["all_images"]
    assert datasets["instre"]["distinct_query_images"] < datasets["instre"]["query_images"]
    made = [event for event in events if event.get("stage") == "features"]
    assert made
    assert all(event["bytes"] > 0 for event in made)


def test_what_is_made_once_for_copies_is_what_each_would_get(study):
    from blcf_utils.pooling.aml import localise_all
    from blcf_utils.pooling.sum_pooling import database_sums

    features = study.comparison_maps("crow").features("oxford5k")
    same = features.distinct[: features.n_database]
    assert len(np.unique(same)) < len(same)
    ready, found = study.compared_method("oxford5k", "crow"), study.described("oxford5k", "crow")
    for image in range(features.n_database):
        own = ready.describe(features.map(image)[None])[0]
        np.testing.assert_allclose(found[image], own, atol=1e-5)
    sums = database_sums(features)
    network = study.network_descriptors("oxford5k", "Baseline A").database
    for image, first in enumerate(same):
        np.testing.assert_array_equal(sums[image], features.map(image).sum(axis=(1, 2)))
        np.testing.assert_array_equal(network[image], network[first])
    query = np.ones(features.channels, np.float32)
    windows, scores = localise_all(features, range(len(same)), query, 1.3)
    for image, first in enumerate(same):
        assert windows[image].tolist() == windows[first].tolist()
        assert scores[image] == scores[first]


def _events():
    with open(os.environ["BLCF_STAGE_LOG"], encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_a_damaged_marker_of_results_is_said(tmp_path):
    assert rehearsed_datasets(tmp_path) == ()
    (tmp_path / RESULTS_MARKER).write_text("[]", encoding="utf-8")
    with pytest.raises(StudyError, match="expected the marker of a rehearsal's results"):
        rehearsed_datasets(tmp_path)
