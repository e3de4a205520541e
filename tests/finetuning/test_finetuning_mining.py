"""Folds and triplets: who may train, what is drawn, and what is said when nothing can be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from blcf_utils.config.finetuning import FinetuningConfig, MiningConfig
from blcf_utils.config.profile import VerificationConfig
from blcf_utils.finetuning.image_rankings import (
    ImageRankings,
    fused_scores,
    images_as_queries,
    rank_images,
)
from blcf_utils.finetuning.splits import Split, class_labels, images_of, make_splits
from blcf_utils.finetuning.triplets import (
    draw_triplets,
    mine_triplets,
    mining_statistics,
    triplet_candidates,
)
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.query import Ranking

MINING = MiningConfig(triplets=40)
EVERYONE = Split(0, (), (), np.arange(18))


class Ranked(SimpleNamespace):
    """Rankings written by hand: image to [(other, cosine, matches), ...], best first."""

    def __init__(self, rows: dict, count=18, width=6, key="by hand"):
        images = np.full((count, width), -1, np.int32)
        cosines = np.zeros((count, width), np.float32)
        matches = np.zeros((count, width), np.int32)
        for row, entries in rows.items():
            for k, entry in enumerate(entries):
                images[row, k], cosines[row, k], matches[row, k] = entry
        scores = fused_scores(cosines, matches, MINING)
        super().__init__(images=images, cosines=cosines, matches=matches, scores=scores, key=key)

    def __len__(self):
        return len(self.images)


# Image 0 has two partners by SIFT, 3 has one that is not enough, 6 one that just is.
BY_HAND = Ranked(
    {
        0: [(1, 0.9, 40), (2, 0.8, 31), (5, 0.95, 4), (4, 0.9, 0), (12, 0.6, 0), (13, 0.4, 0)],
        3: [(4, 0.9, 28), (7, 0.9, 0), (8, 0.7, 0)],
        6: [(7, 0.7, 30), (8, 0.1, 0), (14, 0.2, 0)],
    }
)


def candidates(toy, rankings=BY_HAND, split=EVERYONE, source="fused", **settings):
    found = triplet_candidates(toy, rankings, split, source, MINING.model_copy(update=settings))
    return {one.anchor: (one.positives.tolist(), one.negatives.tolist()) for one in found}


# Folds


def config(**settings):
    return FinetuningConfig(**settings)


def test_folds_deal_instances_not_queries(toy):
    splits = make_splits(toy, config(folds=4, validation=0.3))
    assert sorted(q for split in splits for q in split.test) == sorted(q.id for q in toy.queries)
    for split in splits:
        # Both queries of poster 0 are tested by the same fold.
        assert ("q0" in split.test) == ("outside" in split.test)
        assert split.validation
        assert not set(split.validation) & set(split.test)
        kept_out = [q for q in toy.queries if q.id in (*split.test, *split.validation)]
        shown = {
            int(q.id[1]) * 3 + view for q in kept_out if q.id != "outside" for view in range(3)
        }
        assert set(split.images.tolist()) == set(range(18)) - shown


def test_one_fold_is_the_slides_way(toy):
    (split,) = make_splits(toy, config(folds=1))
    assert split.images.tolist() == list(range(18))
    assert split.test == tuple(q.id for q in toy.queries)
    assert split.validation == ()


def test_folds_follow_the_seed_and_fewer_may_be_tested(toy):
    def tests(**settings):
        return [split.test for split in make_splits(toy, config(folds=2, **settings))]

    assert tests() == tests()
    assert any(tests() != tests(seed=seed) for seed in range(1, 6))
    assert tests(tested=1) == tests()[:1]


def test_held_out_instances_leave_some_to_train_with(toy):
    for share in (0.0, 0.5, 0.99):
        for split in make_splits(toy, config(folds=2, validation=share)):
            labelled = set(split.images.tolist()) & set(range(12))
            assert len(labelled) >= 3
            assert bool(split.validation) == (share > 0)


def test_more_folds_than_instances_are_refused(toy):
    with pytest.raises(StudyError, match=r"toy: .*finetuning.folds = 5, found 4; lower"):
        make_splits(toy, config(folds=5))


def test_images_of_queries_hold_the_query_image_but_none_from_outside(toy):
    by_id = {query.id: query for query in toy.queries}
    assert images_of(toy, [by_id["q2"]]).tolist() == [6, 7, 8]
    assert images_of(toy, [by_id["outside"]]).tolist() == [0, 1, 2]
    assert {k: v.tolist() for k, v in class_labels(toy).items()} == {
        f"poster {p}": [3 * p, 3 * p + 1, 3 * p + 2] for p in range(4)
    }


def test_junk_of_a_tested_instance_neither_trains_nor_is_a_label(toy):
    junk = int(toy.unit_numbers[15])  # a distractor that shows a corner of poster 2
    queries = tuple(replace(q, junk=(junk,)) if q.id == "q2" else q for q in toy.queries)
    dataset = replace(toy, queries=queries)
    assert images_of(dataset, [q for q in queries if q.id == "q2"]).tolist() == [6, 7, 8, 15]
    assert class_labels(dataset)["poster 2"].tolist() == [6, 7, 8]
    for split in make_splits(dataset, config(folds=4, validation=0.0)):
        assert (15 in split.images) == ("q2" not in split.test)


# Which images may be drawn


def test_thresholds_of_the_slides(toy):
    found = candidates(toy)
    # 28 matches score 14.9, 31 score 16.3, 30 with a cosine of 0.7 score 15.7; a negative has no
    # match and a cosine of at least one half: image 5 (4 matches) is neither, 13 is too far.
    assert found == {0: ([1, 2], [4, 12])}
    # 6 has a positive, but no negative until the range is wider.
    assert candidates(toy, negative=(0.1, 1.0))[6] == ([7], [8, 14])
    assert candidates(toy, positive=14.0)[3] == ([4], [7, 8])


def test_other_negatives(toy):
    assert candidates(toy, negatives="hardest", hardest=1) == {0: ([1, 2], [4]), 6: ([7], [8])}
    anchor, (positives, negatives) = next(iter(candidates(toy, negatives="random").items()))
    assert (anchor, positives) == (0, [1, 2])
    assert negatives == sorted(set(range(18)) - {0, 1, 2, 5})


def test_only_training_images_are_drawn(toy):
    split = Split(0, (), (), np.array([0, 2, 3, 12, 13]))
    assert candidates(toy, split=split) == {0: ([2], [12])}


def test_class_labels_choose_the_positives(toy):
    found = candidates(toy, source="labels", label_negatives="hardest", hardest=2)
    # 0's best images of other classes, one of them with four matches: the case to learn from.
    assert found[0] == ([1, 2], [5, 4])
    assert found[3] == ([4, 5], [7, 8])
    assert set(found) == {0, 3, 6}
    everyone = candidates(toy, source="labels", label_negatives="random")
    assert set(everyone) == set(range(12))
    assert everyone[10] == ([9, 11], sorted(set(range(18)) - {9, 10, 11}))


def test_the_anchor_may_be_any_image_of_the_ranking_that_scores(toy, tmp_path):
    listed = MINING.model_copy(update={"anchor": "listed"})
    found = triplet_candidates(toy, BY_HAND, EVERYONE, "fused", listed)
    # 6 has one image above the threshold only.
    assert [(one.anchor, one.positives.tolist()) for one in found] == [(None, [1, 2])]
    rows = draw_triplets(found, 60, seed=1)
    assert {tuple(row) for row in rows.tolist()} == {
        (a, p, n) for a, p in ((1, 2), (2, 1)) for n in (4, 12)
    }
    store = ArtefactStore(tmp_path)
    keys = [
        mine_triplets(toy, BY_HAND, EVERYONE, "fused", config, store, 1).key
        for config in (MINING, listed)
    ]
    assert keys[0] != keys[1]


def test_random_negatives_share_one_array(toy):
    found = triplet_candidates(
        toy, BY_HAND, EVERYONE, "fused", MINING.model_copy(update={"negatives": "random"})
    )
    assert len(found) == 2
    for one in found:
        assert one.pool is EVERYONE.images
        assert one.negative_count == len(one.negatives)
    # 0, its two partners, and 5, which has four matches with it.
    assert found[0].negatives.tolist() == sorted(set(range(18)) - {0, 1, 2, 5})


# What is drawn


def test_draws_follow_the_seed_and_use_everything(toy):
    found = triplet_candidates(toy, BY_HAND, EVERYONE, "labels", MINING)
    rows = draw_triplets(found, 300, seed=1)
    assert np.array_equal(rows, draw_triplets(found, 300, seed=1))
    assert not np.array_equal(rows, draw_triplets(found, 300, seed=2))
    by_anchor = {one.anchor: one for one in found}
    for one in found:
        mine = rows[rows[:, 0] == one.anchor]
        assert set(mine[:, 1].tolist()) == set(one.positives.tolist())
        assert set(mine[:, 2].tolist()) == set(one.negatives.tolist())
    # A ranking is drawn first, so anchors with many candidates come no more often.
    counts = np.bincount(rows[:, 0], minlength=18)[list(by_anchor)]
    assert counts.min() > 300 / len(by_anchor) / 2


def test_mined_triplets_are_an_artefact_a_reader_can_open(toy, tmp_path):
    store = ArtefactStore(tmp_path)

    def mine(seed=1, config=MINING, rankings=BY_HAND, source="fused"):
        return mine_triplets(toy, rankings, EVERYONE, source, config, store, seed)

    first = mine()
    assert first.images.shape == (40, 3)
    assert first.scores.shape == (40, 2)
    assert set(map(tuple, first.images.tolist())) == {(0, p, n) for p in (1, 2) for n in (4, 12)}
    row = first.images.tolist().index([0, 1, 12])
    assert first.scores[row] == pytest.approx([0.9 + 20, 0.6])
    table = next(tmp_path.rglob("triplets.csv")).read_text().splitlines()
    assert table[0] == "anchor,positive,negative,positive score,negative score"
    assert len(table) == 41
    assert "p0_0.jpg,p0_1.jpg" in "".join(table)
    assert np.array_equal(mine().images, first.images)
    wider = MINING.model_copy(update={"negative": (0.3, 1.0)})
    others = [mine(seed=2), mine(config=wider), mine(source="labels")]
    others.append(mine(rankings=Ranked({0: [(1, 0.9, 40), (4, 0.9, 0)]}, key="another")))
    assert len({first.key, *(other.key for other in others)}) == 5


def test_statistics_judge_the_draws_by_the_ground_truth(toy, tmp_path):
    rankings = Ranked(
        {
            0: [(1, 0.9, 40), (2, 0.9, 0)],  # a right positive; the negative shows the same poster
            3: [(6, 0.9, 40), (12, 0.6, 0)],  # a wrong positive, a right negative
            13: [(14, 0.9, 40), (15, 0.6, 0)],  # nobody knows what these show
        }
    )
    found = triplet_candidates(toy, rankings, EVERYONE, "fused", MINING)
    mined = mine_triplets(toy, rankings, EVERYONE, "fused", MINING, ArtefactStore(tmp_path), 1)
    told = mining_statistics(toy, mined, EVERYONE, found)
    anchors = np.bincount(mined.images[:, 0], minlength=18)
    judged = anchors[0] + anchors[3]
    assert told["right positives"] == pytest.approx(anchors[0] / judged)
    assert told["right negatives"] == pytest.approx(anchors[3] / judged)
    assert told["anchors of known instance"] == pytest.approx(judged / 40)
    assert (told["training images"], told["rankings to draw from"]) == (18, 3)
    assert (told["triplets"], told["different pairs"]) == (40, 3)


@pytest.mark.parametrize(
    ("rankings", "split", "source", "settings", "message"),
    [
        (
            {0: [(1, 0.9, 20)]},
            EVERYONE,
            "fused",
            {},
            r"toy: .*above 15, the highest is 10\.90; lower finetuning\.mining\.positive",
        ),
        (
            {0: [(1, 0.9, 40), (2, 0.2, 0)]},
            EVERYONE,
            "fused",
            {},
            r"none of the 1 .*scores 0\.5 to 1; widen finetuning\.mining\.negative",
        ),
        (
            {0: [(1, 0.9, 40)]},
            EVERYONE,
            "fused",
            {"negatives": "hardest"},
            r"raise finetuning\.mining\.images",
        ),
        (
            {0: [(1, 0.9, 40), (12, 0.2, 0)]},
            EVERYONE,
            "labels",
            {"label_negatives": "range"},
            r"set finetuning\.mining\.label_negatives: hardest",
        ),
        (
            {0: [(1, 0.9, 40), (2, 0.9, 20), (4, 0.9, 0)]},
            EVERYONE,
            "fused",
            {"anchor": "listed"},
            r"two others .*above 15, the highest second is 10\.90; lower .*mining\.positive or set",
        ),
        ({}, Split(0, (), (), np.array([4])), "fused", {}, "three training images, found 1"),
        (
            {},
            Split(0, (), (), np.array([0, 1, 2, 12])),
            "labels",
            {},
            r"two instances with two training images each, found 1; raise finetuning\.folds",
        ),
    ],
)
def test_nothing_to_draw_says_which_threshold_to_move(
    toy, tmp_path, rankings, split, source, settings, message
):
    mining = MINING.model_copy(update=settings)
    store = ArtefactStore(tmp_path)
    with pytest.raises(StudyError, match=message):
        mine_triplets(toy, Ranked(rankings), split, source, mining, store, 1)
    assert not list(tmp_path.rglob("triplets.npz"))


def test_one_class_says_that_no_setting_can_mend_it(toy, tmp_path):
    one = replace(toy, queries=tuple(q for q in toy.queries if q.instance == "poster 1"))
    with pytest.raises(
        StudyError, match=r"two instances .* found 1; the whole dataset has no more"
    ):
        mine_triplets(one, BY_HAND, EVERYONE, "labels", MINING, ArtefactStore(tmp_path), 1)


def test_an_unknown_source_is_refused(toy, tmp_path):
    with pytest.raises(StudyError, match="unknown source of triplets 'guess'"):
        mine_triplets(toy, BY_HAND, EVERYONE, "guess", MINING, ArtefactStore(tmp_path), 1)


# Every image as a query


def test_every_database_image_becomes_a_query_that_knows_no_answer(toy):
    queries = images_as_queries(toy).queries
    assert [query.image for query in queries] == list(toy.images)
    assert all(not query.positives and query.box is None for query in queries)


@pytest.fixture
def ranked(toy, store, monkeypatch):
    """Rank the set with words, SIFT lists and matches that are made up, and known."""
    count = len(toy.images)
    cosines = np.random.default_rng(3).random((count, count)).astype(np.float32)
    matches = np.random.default_rng(4).integers(0, 50, (count, count))
    first = np.argsort(-matches, axis=1, kind="stable")

    def verified(dataset, rankings, sift, config, mode, kept):
        return None, {
            q.id: {int(i): int(matches[k, i]) for i in rankings[q.id].images[: config.images]}
            for k, q in enumerate(dataset.queries)
        }

    monkeypatch.setattr("blcf_utils.finetuning.image_rankings.verify", verified)

    def by_words(queries):
        rows = {query.id: row for query, row in zip(queries.queries, cosines, strict=True)}

        def search(query):
            order = np.argsort(-rows[query.id], kind="stable")
            return Ranking(order, rows[query.id][order])

        return search

    def by_sift(queries):
        return {q.id: Ranking(first[k], matches[k]) for k, q in enumerate(queries.queries)}

    def rank(**settings):
        config = MINING.model_copy(update={"images": 3, **settings})
        kinds = VerificationConfig(), config, store, {"features": "made up"}
        return rank_images(toy, by_words, by_sift, None, *kinds)

    return SimpleNamespace(rank=rank, cosines=cosines, matches=matches, first=first)


def test_lists_join_both_searches_and_leave_the_image_out(ranked):
    found = ranked.rank()
    assert isinstance(found, ImageRankings)
    assert found.images.shape == (18, 6)
    for i, row in enumerate(found.images):
        listed = row[row >= 0].tolist()
        words = np.argsort(-ranked.cosines[i], kind="stable")[:4].tolist()
        verified = ranked.first[i][:3].tolist()
        everyone = (set(words) | set(verified)) - {i}
        assert set(listed) <= everyone
        assert len(listed) == min(6, len(everyone))
        for image, cosine, matches, score in zip(
            listed, found.cosines[i], found.matches[i], found.scores[i], strict=False
        ):
            assert cosine == pytest.approx(ranked.cosines[i, image])
            assert matches == (ranked.matches[i, image] if image in verified else 0)
            assert score == pytest.approx(cosine + matches / 2)
        scores = found.scores[i][: len(listed)]
        assert (np.diff(scores) <= 0).all()
        assert (found.scores[i][len(listed) :] == 0).all()


def test_thresholds_move_without_ranking_again_but_weights_do_not(ranked):
    key = ranked.rank().key
    assert ranked.rank(positive=8.0, triplets=5, negatives="random").key == key
    assert ranked.rank(images=4).key != key
    heavier = ranked.rank(match_weight=2.0)
    assert heavier.key != key
    assert heavier.scores[0, 0] == pytest.approx(heavier.cosines[0, 0] + 2 * heavier.matches[0, 0])
