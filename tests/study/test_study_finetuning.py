"""Fine-tuning in a study: folds, its tables, and what must not be mixed up."""

import json
import shutil
import statistics
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
from PIL import Image

from blcf_utils import experiments
from blcf_utils.config.profile import load_profile
from blcf_utils.finetuning.splits import class_labels, images_of
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import evaluate_query
from blcf_utils.results.tables import read_per_query
from blcf_utils.study.study import open_study

PROFILE = """
    name: toy
    datasets: [toy, other]
    features:
      backbone: {name: squeezenet1_1, layer: fire9, weights: random}
      longest_side: 96
      batch_size: 4
      device: cpu
    whitening: {dimensions: 64}
    codebook: {words: 60, iterations: 6}
    sift: {words: 40, max_descriptors: 2000, verification: {least: 4}}
    finetuning:
      oxford: toy
      instre: other
      folds: 2
      validation: 0.0
      mining: {images: 8, positive: 2, negative: [0, 1], triplets: 12}
      projection: {dimensions: 300}
      training: {frozen: fire7, inputs: maps, steps: 3, batch: 2, device: cpu}
      seeds: 2
    seed: 1
"""


@pytest.fixture(scope="module")
def two_sets(toy_root, tmp_path_factory):
    """The small set, the same images in another order, and with two files that are damaged."""
    root = tmp_path_factory.mktemp("two")
    for name in ("toy", "other"):
        shutil.copytree(toy_root / "toy", root / name)
    described = json.loads((root / "other" / "groundtruth.json").read_text())
    described["images"].reverse()
    (root / "other" / "groundtruth.json").write_text(json.dumps(described))
    damaged = root / "damaged"
    shutil.copytree(root / "toy", damaged)
    described = json.loads((damaged / "groundtruth.json").read_text())
    whole = (damaged / "images" / described["images"][0]).read_bytes()
    for name, content in (("header.jpg", whole[: len(whole) // 3]), ("nothing.jpg", b"none")):
        (damaged / "images" / name).write_bytes(content)
        described["images"].append(name)
    (damaged / "groundtruth.json").write_text(json.dumps(described))
    return root


@pytest.fixture(scope="module")
def open_toy(tmp_path_factory, two_sets):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLCF_DATA", str(two_sets))
        patch.setenv("BLCF_RESULTS", str(folder / "results"))
        patch.setenv("BLCF_CACHE", str(folder / "cache"))
        path = folder / "toy.yaml"
        path.write_text(textwrap.dedent(PROFILE), encoding="utf-8")

        def opened(**settings):
            return open_study(str(path), settings)

        opened.profile = path
        yield opened


def measured(table):
    cells = table[table["status"] == "measured"].set_index(["row", "column"])["measured"]
    return cells.astype(float)


def test_no_tested_instance_trains_and_every_query_is_tested(open_toy):
    study = open_toy()
    dataset, splits = study.open("toy").dataset, study.finetuning("toy").splits
    tested = [query for split in splits for query in split.test]
    assert sorted(tested) == sorted(query.id for query in dataset.queries)
    for split in splits:
        queries = [query for query in dataset.queries if query.id in split.test]
        assert not set(images_of(dataset, queries)) & set(
            study.finetuning("toy").triplets(split.number).images.ravel()
        )


def test_the_tables_hold_what_the_networks_answer(open_toy):
    study = open_toy()
    t06, t07 = (
        measured(make(study))
        for make in (experiments.finetuned_oxford_table, experiments.finetuned_instre_table)
    )
    columns = {f"{name}{mode}" for name in ("toy", "other") for mode in ("", "/ls")}
    assert {column for _, column in t06.index} == columns
    assert len(t06) == 4 * len(columns)
    assert len(t07) == 5 * len(columns)
    # Baselines do not depend on what is trained; A is the sum pooling of the features notebook.
    for row in ("Baseline A", "Baseline B"):
        assert t06[row].equals(t07[row])
    plain = study.open("toy").evaluate(study.open("toy").sum_pooling("gs", whiten=False)).mean
    assert t06["Baseline A", "toy"] == pytest.approx(plain, abs=0.02)
    # A query of the dataset trained on is answered by its own fold's network.
    home, dataset = study.finetuning("toy"), study.open("toy").dataset
    for split in home.splits:
        answers = answered(home, dataset, split.number, seed=1)
        for query in split.test:
            ranking = home.rankings("(F)Network A", home, seed=1)[query].images
            assert ranking.tolist() == answers[query].tolist()
    gains = experiments.finetuning_gains(study, "t06_finetune_oxford")
    assert gains.loc[("toy", "(F)Network A"), "gain"] == pytest.approx(
        t06["(F)Network A", "toy"] - t06["Baseline A", "toy"]
    )
    each = [one.mean for one in home.evaluations("(F)Network A", home)]
    assert gains.loc[("toy", "(F)Network A"), "seeds"] == pytest.approx(statistics.stdev(each))


def answered(on, dataset, fold, seed, home=None, row="(F)Network A"):
    """Rank a dataset for every query with one training's stored descriptors."""
    found = on.descriptors(row, home or on, fold, seed)
    orders = np.argsort(-(found.queries["gs"] @ found.database.T), axis=1, kind="stable")
    return {query.id: order for query, order in zip(dataset.queries, orders, strict=True)}


def test_a_trained_cell_is_the_mean_over_seeds_and_every_seed_is_written(open_toy):
    study = open_toy()
    cells = {
        "t06_finetune_oxford": measured(experiments.finetuned_oxford_table(study)),
        "x08_seen_instances": measured(experiments.seen_instances_table(study)),
        "t12_blcf_finetuned": measured(experiments.finetuned_words_table(study)),
    }
    home, folder = study.finetuning("toy"), study.results.folder
    written = pd.read_csv(folder / "tables/seeds.csv")
    assert written.columns.tolist() == ["table", "row", "column", "seed", "value"]
    for table, means in cells.items():
        seeds = written[written["table"] == table].groupby(["row", "column"])
        trained = [cell for cell in means.index if cell[0].startswith(("(F", "fine-tuned"))]
        assert sorted(seeds.groups) == sorted(trained), table
        for cell, part in seeds:
            assert part["seed"].tolist() == [0, 1]
            assert part["value"].mean() == pytest.approx(means[cell])
        assert (seeds["value"].nunique() > 1).any(), table
    # By hand: at home each fold's network answers its own queries, elsewhere one answers all.
    here, there = study.open("toy").dataset, study.open("other").dataset
    values = written[written["table"] == "t06_finetune_oxford"].set_index(["row", "column", "seed"])
    aps = {}
    for seed in (0, 1):
        aps[seed] = {
            query.id: evaluate_query(
                here, query, answered(home, here, split.number, seed)[query.id]
            )
            for split in home.splits
            for query in here.queries
            if query.id in split.test
        }
        value = values.loc[("(F)Network A", "toy", seed), "value"]
        assert value == pytest.approx(np.mean(list(aps[seed].values())))
        away = study.finetuning("other")
        found = answered(away, there, seed, seed, home)  # another fold's with each seed
        expected = [evaluate_query(there, query, found[query.id]) for query in there.queries]
        value = values.loc[("(F)Network A", "other", seed), "value"]
        assert value == pytest.approx(np.mean(expected))
    queries = read_per_query("t06_finetune_oxford", folder)["(F)Network A", "toy"]
    assert queries == {
        query: pytest.approx((ap + aps[1][query]) / 2) for query, ap in aps[0].items()
    }


def test_another_seed_is_another_network_and_the_same_one_the_same(open_toy, monkeypatch, tmp_path):
    home = open_toy().finetuning("toy")
    made = {
        (fold, seed): home.trained("(F)Network B", fold, seed).artefact
        for fold in (0, 1)
        for seed in (0, 1)
    }
    assert len({artefact.key for artefact in made.values()}) == 4
    for name in ("trunk.safetensors", "projection.safetensors"):
        assert len({(artefact / name).read_bytes() for artefact in made.values()}) == 4
    drawn = [home.triplets(0, "fused", seed).images for seed in (0, 1)]
    assert not np.array_equal(*drawn)
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    again = open_toy().finetuning("toy").trained("(F)Network B", 0, 1).artefact
    assert again.key == made[0, 1].key
    assert not Path(again.folder).samefile(made[0, 1].folder)
    for name in ("trunk.safetensors", "projection.safetensors", "curve.csv"):
        assert (again / name).read_bytes() == (made[0, 1] / name).read_bytes()


def test_words_of_tuned_features(open_toy):
    study = open_toy()
    t12 = measured(experiments.finetuned_words_table(study))
    assert {column for _, column in t12.index} == {
        f"toy/{weighting}/{mode}" for weighting in ("none", "gaussian") for mode in ("gs", "ls")
    }
    plain = study.open("toy").evaluate(study.open("toy").search("LS")).mean
    assert t12["off-the-shelf", "toy/none/ls"] == pytest.approx(plain)
    tuned = study.finetuning("toy").tuned(fold=1)
    weights = study.finetuning("toy").trained(fold=1).weights
    assert tuned.profile.features.backbone.weights == str(weights)
    # Forwarded from the stored maps of the frozen layers: the same but for their 16 bits.
    whole = study.open("toy").changed({"features.backbone.weights": str(weights)}).features
    assert whole.key != tuned.features.key
    for image in range(len(whole)):
        expected, found = whole.map(image), tuned.features.map(image)
        assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert tuned.backbone.weights_digest != study.open("toy").backbone.weights_digest


def test_a_saliency_model_without_weights_leaves_its_columns_empty(open_toy, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    study = open_toy(**{"finetuning.saliency": "SalGAN"})
    table = experiments.finetuned_words_table(study).set_index(["row", "column"])
    empty = table.loc[[("off-the-shelf", "toy/saliency/ls")], "status"].iloc[0]
    assert empty.startswith("not run: the official weights are not here")
    assert len(measured(table.reset_index())) == 2 * 2 * 2


def test_a_random_linear_projection_changes_little(open_toy):
    study = open_toy(**{"finetuning.projection.dimensions": 4096})
    x07 = measured(experiments.projection_table(study))
    for column in ("toy/gs", "toy/ls"):
        plain = x07["no projection (A)", column]
        assert x07["pooled, linear", column] == pytest.approx(plain, abs=0.05)
    assert len(x07) == 4 * 4


def test_seen_instances_are_answered_by_a_network_of_all_images(open_toy):
    study = open_toy()
    x08 = measured(experiments.seen_instances_table(study))
    t06 = measured(experiments.finetuned_oxford_table(study))
    everything = study.changed({"finetuning.folds": 1})
    assert everything.finetuning("toy").splits[0].images.tolist() == list(range(18))
    assert everything.open("toy").dataset is study.open("toy").dataset
    for mode, column in (("gs", "toy"), ("ls", "toy/ls")):
        assert x08["Baseline A", f"toy/{mode}"] == t06["Baseline A", column]
        unseen = x08["(F)Network A, unseen instances", f"toy/{mode}"]
        assert unseen == t06["(F)Network A", column]
        seen = everything.finetuning("toy")
        found = [one.mean for one in seen.evaluations("(F)Network A", seen, mode)]
        cell = x08["(F)Network A, seen instances", f"toy/{mode}"]
        assert cell == pytest.approx(np.mean(found))
    keys = [one.finetuning("toy").trained().artefact.key for one in (study, everything)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    "inputs",
    [{}, {"inputs": "pixels", "size": 32}, {"inputs": "pixels", "size": 32, "frozen": ""}],
    ids=["maps", "pixels behind frozen layers", "all layers"],
)
def test_images_that_do_not_decode_neither_train_nor_ask(open_toy, inputs):
    settings = {"datasets": ["damaged"], "features.on_corrupt": "skip"}
    for part in ("oxford", "instre"):
        settings[f"finetuning.{part}"] = "damaged"
    settings |= {"finetuning.mining.negatives": "random", "finetuning.mining.triplets": 200}
    settings |= {f"finetuning.training.{key}": value for key, value in inputs.items()}
    study = open_toy(**settings)
    assert len(study.open("damaged").dataset.images) == 20
    rankings = study.finetuning("damaged").image_rankings
    assert (rankings.images[18:] == -1).all()
    assert (rankings.images[:18] >= 0).any(axis=1).all()
    drawn = np.concatenate([study.finetuning("damaged").triplets(fold).images for fold in (0, 1)])
    assert set(drawn.ravel().tolist()) <= set(range(18))
    t06 = measured(experiments.finetuned_oxford_table(study))
    assert t06.between(0, 1).all()
    assert not study.finetuning("damaged").descriptors("Baseline A").database[18:].any()


def test_what_there_is_to_mine_on_both_datasets(open_toy):
    found = experiments.mining_table(open_toy())
    assert found.columns.tolist() == [
        (name, source) for name in ("toy", "other") for source in ("fused", "labels")
    ]
    assert (found.loc["triplets"] == 12).all()


def test_mined_triplets_come_with_statistics_and_pictures(open_toy):
    study = open_toy()
    for source in ("fused", "labels"):
        judged = study.finetuning("toy").judged_triplets(1, source)
        told = json.loads((judged / "statistics.json").read_text())
        assert list(told.items()) == list(
            study.finetuning("toy").mining_statistics(1)[source].items()
        )
        triplets = study.finetuning("toy").triplets(1, source)
        labels = class_labels(study.open("toy").dataset)
        shown = [
            {name for name, images in labels.items() if image in images}
            for image in range(len(study.open("toy").dataset.images))
        ]
        known = [row for row in triplets.images.tolist() if shown[row[0]]]
        assert told["anchors of known instance"] == pytest.approx(len(known) / 12)
        right = [bool(shown[a] & shown[p]) for a, p, _ in known]
        assert told["right positives"] == pytest.approx(np.mean(right))
        with Image.open(judged / "triplets.jpg") as sheet:
            pixels = np.asarray(sheet.convert("RGB")).astype(int)
        # Twelve triplets in two bands of ten columns; the first frame is an anchor's.
        assert pixels.shape[:2] == (2 * 406, 10 * 122)
        assert np.abs(pixels[1, 10] - (0, 0x72, 0xB2)).max() < 40
        same = bool(shown[triplets.images[0, 0]] & shown[triplets.images[0, 1]])
        expected = (0, 0x9E, 0x73) if same else (0xD5, 0x5E, 0)
        if shown[triplets.images[0, 0]]:
            assert np.abs(pixels[133, 10] - expected).max() < 40


SLOWLY = """
import json, sys, time
from blcf_utils.finetuning.training import Trainer
from blcf_utils.study.study import open_study

advance = Trainer.advance

def slowly(self, loaded):
    advance(self, loaded)
    time.sleep(0.2)

Trainer.advance = slowly
open_study(sys.argv[1], json.loads(sys.argv[2])).finetuning("toy").trained("(F)Network B")
"""


def test_a_training_that_is_killed_ends_with_the_same_files(open_toy, tmp_path, monkeypatch):
    settings = {"finetuning.training.steps": 30, "finetuning.training.checkpoint_every": 3}
    settings |= {"finetuning.validation": 0.5, "finetuning.training.validate_every": 4}
    whole = open_toy(**settings).finetuning("toy").trained("(F)Network B").artefact
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path / "cache"))
    asked = [str(open_toy.profile), json.dumps(settings)]
    child = processes.start(SLOWLY, *asked)
    try:
        until = time.monotonic() + 300
        while not (found := list(tmp_path.glob("cache/finetuned/*.partial/checkpoint.pt"))):
            assert child.is_alive(), "the training ended before its first checkpoint"
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)  # into the steps behind the checkpoint
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -9
    assert found[0].is_file()
    again = open_toy(**settings).finetuning("toy").trained("(F)Network B").artefact
    assert again.key == whole.key
    assert Path(again.folder).is_relative_to(tmp_path)
    names = ["curve.csv", "projection.safetensors", "trunk.safetensors"]
    for name in names:
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(p.name for p in again.folder.iterdir() if p.suffix != ".json") == names


def test_trainings_of_other_settings_are_other_artefacts(open_toy):
    first = open_toy().finetuning("toy").trained().artefact
    assert open_toy().finetuning("toy").trained().artefact.key == first.key
    assert (
        open_toy(**{"finetuning.training.device": "auto"}).finetuning("toy").trained().artefact.key
        == first.key
    )
    for key, value in {"training.margin": 0.2, "mining.triplets": 13, "seed": 4}.items():
        other = open_toy(**{f"finetuning.{key}": value}).finetuning("toy").trained().artefact
        assert other.key != first.key, key


def test_a_profile_without_fine_tuning_says_so(open_toy):
    study = open_toy(**{"finetuning.oxford": ""})
    table = experiments.finetuned_oxford_table(study)
    assert set(table["status"]) == {"not run: finetuning.oxford names no dataset in profile toy"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finetuning.mining.positive": 1e6}, r"above 1e\+06.*lower finetuning.mining.positive"),
        ({"finetuning.mining.negative": [1.5, 1.9]}, "widen finetuning.mining.negative"),
        ({"finetuning.folds": 5}, "at least as many instances as finetuning.folds = 5, found 4"),
        ({"finetuning.oxford": "nowhere"}, "unknown dataset of finetuning.oxford 'nowhere'"),
        ({"finetuning.training.frozen": "conv9"}, "unknown layer of squeezenet1_1 'conv9'"),
        ({"finetuning.training.frozen": "fire9"}, "expected a layer before fire9"),
    ],
)
def test_degenerate_settings_say_what_to_change(open_toy, settings, message):
    with pytest.raises(StudyError, match=message):
        experiments.finetuned_oxford_table(open_toy(**settings))


def test_settings_that_contradict_each_other_are_refused():
    for settings, message in (
        ({"finetuning.training.frozen": ""}, "training.inputs: maps stores the maps of frozen"),
        ({"finetuning.tested": 3}, "expected at most folds = 2"),
        ({"finetuning.mining.positive": 0.5}, "low <= high < positive"),
    ):
        with pytest.raises(StudyError, match=message):
            load_profile("mini", settings)
