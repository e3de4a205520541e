"""The parsers on the benchmarks' official ground-truth files, and the loaders on full layouts.

The photographs are not needed: a loader only joins names with files, so empty files stand in.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from blcf_utils.datasets import load_dataset
from blcf_utils.datasets.base import Dataset, Protocol, Query
from blcf_utils.datasets.holidays import name_holidays, parse_holidays
from blcf_utils.datasets.instre import misread, parse_instre
from blcf_utils.datasets.matlab import read_mat, strings
from blcf_utils.datasets.revisited import parse_revisited, queries_for
from blcf_utils.datasets.vgg_groundtruth import PARIS_CORRUPT, parse_vgg_groundtruth
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.evaluation import evaluate

pytestmark = pytest.mark.photos


@pytest.fixture(scope="module")
def truth(shared_data) -> Path:
    return shared_data / "groundtruth"


def touch(folder: Path, names) -> None:
    """Create empty files."""
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def count_lines(folder: Path, kind: str) -> int:
    return sum(len(p.read_text().split()) for p in folder.glob(f"*_{kind}.txt"))


def test_oxford_counts(truth):
    queries = parse_vgg_groundtruth(truth / "oxford5k")
    assert len(queries) == 55
    assert len({q.instance for q in queries}) == 11
    assert sum(len(q.positives) for q in queries) == 1_360 + 1_480
    assert count_lines(truth / "oxford5k", "good") == 1_360
    assert sum(len(q.junk) for q in queries) == 1_495


def test_oxford_first_query(truth):
    first = parse_vgg_groundtruth(truth / "oxford5k")[0]
    assert (first.id, first.instance) == ("all_souls_1", "all_souls")
    assert first.image == "all_souls_000013"
    assert first.box == (136.5, 34.1, 648.5, 955.7)


def test_paris_counts(truth):
    queries = parse_vgg_groundtruth(truth / "paris6k")
    assert len(queries) == 55
    assert count_lines(truth / "paris6k", "good") == 0
    assert sum(len(q.positives) for q in queries) == 8_955
    assert sum(len(q.junk) for q in queries) == 8_245


@pytest.mark.parametrize("name", ["oxford5k", "paris6k"])
def test_vgg_query_image_is_a_positive_and_no_positive_is_junk(truth, name):
    for query in parse_vgg_groundtruth(truth / name):
        assert query.image in query.positives
        assert not set(query.positives) & set(query.junk)


def test_corrupt_paris_files_are_in_no_ground_truth(truth):
    assert len(PARIS_CORRUPT) == 20
    for query in parse_vgg_groundtruth(truth / "paris6k"):
        assert not PARIS_CORRUPT & {*query.positives, *query.junk}
    names, _ = parse_revisited(truth / "gnd_rparis6k.mat")
    assert not PARIS_CORRUPT & set(names)


@pytest.mark.parametrize(("name", "images"), [("roxford5k", 4_993), ("rparis6k", 6_322)])
def test_revisited_counts(truth, name, images):
    names, labelled = parse_revisited(truth / f"gnd_{name}.mat")
    assert len(names) == len(set(names)) == images
    assert len(labelled) == 70
    assert not {q.image for q in labelled} & set(names)


def test_revisited_indices_are_one_based(truth):
    path = truth / "gnd_roxford5k.mat"
    names, labelled = parse_revisited(path)
    raw = read_mat(path, ("gnd",))["gnd"][0, 0]
    assert raw["easy"][0, 0] == 31
    assert labelled[0].labels["easy"][0] == names[30]
    # The landmark's name in the file names is an independent witness of the indexing.
    named = sum(n.startswith("all_souls") for n in labelled[0].labels["easy"])
    shifted = sum(names[i].startswith("all_souls") for i in raw["easy"].ravel())
    assert named > len(labelled[0].labels["easy"]) / 2 > shifted


def test_revisited_setups(truth):
    _, labelled = parse_revisited(truth / "gnd_roxford5k.mat")
    sizes = {label: len(labelled[0].labels[label]) for label in ("easy", "hard", "junk")}
    assert sizes == {"easy": 65, "hard": 38, "junk": 33}
    found = {
        setup: (len(q.positives), len(q.junk))
        for setup in ("easy", "medium", "hard")
        for q in queries_for(labelled, setup)[:1]
    }
    assert found == {"easy": (65, 71), "medium": (103, 33), "hard": (38, 98)}


def test_instre_counts(truth):
    names, queries = parse_instre(truth / "gnd_instre.mat")
    assert len(names) == len(set(names)) == 27_293
    assert len(queries) == len({q.id for q in queries}) == 1_250
    assert not {q.image for q in queries} & set(names)
    assert queries[0].image == "INSTRE-S1/01a_canada_book/013.jpg"
    assert queries[0].box == (326, 219, 670, 493)


def test_instre_indices_are_one_based(truth):
    _, queries = parse_instre(truth / "gnd_instre.mat")
    single = [q for q in queries if q.image.startswith("INSTRE-S")]
    assert len(single) == 1_000
    # Positives outside INSTRE-M lie in the query's own folder; one off, the next folder shows.
    for query in single:
        folders = {p.rpartition("/")[0] for p in query.positives}
        assert {f for f in folders if not f.startswith("INSTRE-M")} == {query.instance}


def test_holidays_counts_and_naming_rule(truth):
    names, queries = parse_holidays(truth / "gnd_holidays.mat")
    assert len(names) == 1_491
    assert len(queries) == 500
    assert sum(len(q.positives) for q in queries) == 991
    assert all(q.junk == (q.image,) for q in queries)
    assert name_holidays(names) == (names, queries)


def test_oxford_full_layout(truth, tmp_path):
    root = tmp_path / "oxford5k"
    shutil.copytree(truth / "oxford5k", root / "groundtruth")
    queries = parse_vgg_groundtruth(truth / "oxford5k")
    known = {n for q in queries for n in (*q.positives, *q.junk)}
    filler = {f"oxford_9{i:05d}" for i in range(5_063 - len(known))}
    touch(root, {f"{n}.jpg" for n in known | filler})
    dataset = load_dataset("oxford5k", root=root)
    assert (len(dataset.images), len(dataset.queries)) == (5_063, 55)
    assert dataset.protocol.query_image == "positive"
    assert dataset.extra_images == ()
    assert dataset.images[dataset.queries[0].positives[0]].stem in queries[0].positives
    assert sum(len(q.positives) for q in dataset.queries) == 2_840

    (root / "all_souls_000013.jpg").unlink()
    with pytest.raises(StudyError, match=r"1 of 5,063 images are missing.*all_souls_000013"):
        load_dataset("oxford5k", root=root)
    with pytest.warns(UserWarning, match=r"found 5,062 database images, expected the published"):
        partial = load_dataset("oxford5k", root=root, partial=True)
    assert len(partial.queries) == 54


def test_paris_full_layout_drops_the_corrupt_files(truth, tmp_path):
    root = tmp_path / "paris6k"
    shutil.copytree(truth / "paris6k", root / "gt")
    queries = parse_vgg_groundtruth(truth / "paris6k")
    known = {n for q in queries for n in (*q.positives, *q.junk)}
    filler = {f"paris_general_9{i:05d}" for i in range(6_392 - len(known))}
    touch(root, {f"paris/{n.split('_')[1]}/{n}.jpg" for n in known | filler | PARIS_CORRUPT})
    dataset = load_dataset("paris6k", root=root)
    assert (len(dataset.images), len(dataset.queries)) == (6_392, 55)
    assert sum(len(q.positives) for q in dataset.queries) == 8_955
    assert not PARIS_CORRUPT & {p.stem for p in dataset.images}


def test_roxford_full_layout_finds_the_photographs_beside_it(truth, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    (tmp_path / "roxford5k").mkdir()
    shutil.copy(truth / "gnd_roxford5k.mat", tmp_path / "roxford5k")
    names, labelled = parse_revisited(truth / "gnd_roxford5k.mat")
    touch(tmp_path / "oxford5k", {f"{n}.jpg" for n in (*names, *(q.image for q in labelled))})
    with pytest.warns(UserWarning, match=r"skipped because they have no positive \(2\)"):
        easy = load_dataset("roxford5k-easy")
    medium = load_dataset("roxford5k-medium")
    hard = load_dataset("roxford5k-hard")
    assert [len(d.queries) for d in (easy, medium, hard)] == [68, 70, 70]
    assert len(medium.images) == 4_993
    assert len(medium.extra_images) == 70
    assert medium.images[30].stem == names[30]
    assert len(hard.queries[0].junk) == 98


def test_instre_full_layout(truth, tmp_path):
    shutil.copy(truth / "gnd_instre.mat", tmp_path)
    content = read_mat(truth / "gnd_instre.mat", ("imlist", "qimlist"))
    names, asked = (strings(content, one, tmp_path) for one in ("imlist", "qimlist"))
    touch(tmp_path / "images", [*names, *asked])
    dataset = load_dataset("instre", root=tmp_path)
    assert (len(dataset.images), len(dataset.queries)) == (27_293, 1_250)
    assert len(dataset.extra_images) == 1_250
    assert dataset.images[10_000] == tmp_path / "images" / names[10_000]
    assert dataset.queries[0].positives[0] == 0


def test_instre_read_off_by_one_costs_a_good_ranking_a_little(truth):
    names, queries = parse_instre(truth / "gnd_instre.mat")
    place = {name: i for i, name in enumerate(names)}
    images = tuple(map(Path, names))
    asked = tuple(
        Query(q.id, Path(q.image), q.box, tuple(sorted(place[p] for p in q.positives)))
        for q in queries[::25]
    )
    dataset = Dataset("instre", Path(), images, asked, Protocol("trapezoid", "absent"))
    off = misread(dataset)
    for right, wrong in zip(dataset.queries, off.queries, strict=True):
        assert wrong.positives == tuple(p + 1 for p in right.positives if p + 1 < len(names))
    # Positives score higher by chance, and neighbours in the list (one object's) look alike.
    draw, rankings = np.random.default_rng(0), {}
    for query in asked:
        scores = draw.normal(size=len(names))
        scores[list(query.positives)] += draw.normal(4, 1.2, len(query.positives))
        rankings[query.id] = np.argsort(-scores)
    exact, slipped = (evaluate(one, rankings).mean for one in (dataset, off))
    # By hand: precision at a positive's rank, 1-based indices tested against 0-based ranks.
    aps = []
    for query in asked:
        wanted, hits, ap = {p + 1 for p in query.positives}, 0, 0.0
        for rank, image in enumerate(rankings[query.id]):
            if image in wanted:
                before = 1.0 if rank == 0 else hits / rank
                hits += 1
                ap += (before + hits / (rank + 1)) / 2 / len(wanted - {len(names)})
        aps.append(ap)
    assert slipped == pytest.approx(np.mean(aps), abs=1e-9)
    assert 0.005 < exact - slipped < 0.06


@pytest.mark.parametrize("official", [True, False])
def test_holidays_full_layout(truth, tmp_path, official):
    names, _ = parse_holidays(truth / "gnd_holidays.mat")
    touch(tmp_path, {f"jpg/{n}.jpg" for n in names})
    if official:
        shutil.copy(truth / "gnd_holidays.mat", tmp_path)
    dataset = load_dataset("holidays", root=tmp_path)
    assert (len(dataset.images), len(dataset.queries)) == (1_491, 500)
    assert dataset.queries[0].positives == (1, 2)
    assert dataset.queries[0].junk == (0,)
    assert dataset.queries[0].box is None
