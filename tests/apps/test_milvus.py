"""Indexes exported to Milvus Lite rank as ours do; exports resume and never mix."""

import importlib.util
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from blcf_utils.apps.milvus import connection
from blcf_utils.apps.milvus import export as exporting
from blcf_utils.apps.milvus.comparing import compare
from blcf_utils.apps.milvus.export import collection_name, export_vectors
from blcf_utils.apps.milvus.vectors import IndexVectors, vectors_of_base
from blcf_utils.ground.errors import StudyError
from blcf_utils.search.index.inverted_file import InvertedFile
from blcf_utils.words.histograms import inverse_document_frequency, scale_words, sparse_histogram

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite")),
    reason="SKIPPED, NOT TESTED: pymilvus and milvus-lite (the extra milvus) are not installed",
)

N, K = 300, 120
QUERIES = "id,image,x1,y1,x2,y2,positives,junk\nq,day0/00.jpg,,,,,day1/01.jpg,\n"


@pytest.fixture(scope="module")
def words_of_images():
    """Zipf-like words of 300 images; every 50th has none, every 7th is a copy of the one before."""
    rng = np.random.default_rng(3)
    law = 1 / (np.arange(K) + 3) ** 1.1
    images = [rng.choice(K, rng.integers(5, 60), p=law / law.sum()) for _ in range(N)]
    for i in range(N):
        if i % 50 == 20:
            images[i] = images[i][:0]
        elif i % 7 == 6:
            images[i] = images[i - 1]
    return images


def made(words_of_images, idf=False, weighted=False):
    """Vectors of the images, and our inverted file of the same."""
    from scipy import sparse

    rng = np.random.default_rng(5)
    weights = [rng.random(len(words)) if weighted else None for words in words_of_images]
    pairs = [sparse_histogram(w, v) for w, v in zip(words_of_images, weights, strict=True)]
    starts = np.concatenate([[0], np.cumsum([len(words) for words, _ in pairs])])
    indices, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
    histograms = sparse.csr_array((values, indices, starts), shape=(N, K))
    factors = inverse_document_frequency(histograms) if idf else None
    scored = scale_words(histograms, factors) if idf else histograms
    index = InvertedFile.from_histograms(scored, factors)
    names = tuple(f"folder/{i:03}.jpg" for i in range(N))
    key = f"{idf}-{weighted}"
    return IndexVectors("words of images", key, names, K, lambda i: pairs[i], factors), index


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "lite.db")


def exported(pairs, uri):
    """An exported index of some histograms over five words."""
    names = tuple(str(i) for i in range(len(pairs)))
    return export_vectors(IndexVectors("few", "k", names, 5, pairs.__getitem__), uri).index


def assert_same_rankings(remote, index, words_of_images, tolerance=1e-6):
    """Compare every length of ranking; where the order differs, the scores must not."""
    for image in (0, 13, 20, 101, 250):  # 20 has no words
        query = sparse_histogram(words_of_images[image])
        scores = index.scores(*query)
        for top in (1, 10, N, None):
            found, values = remote.search(*query, top)
            own, own_values = index.search(*query, top)
            assert found.dtype == np.int64
            assert values.dtype == np.float32
            assert len(set(found.tolist())) == len(found) == len(own)
            np.testing.assert_allclose(values, own_values, rtol=0, atol=tolerance)
            np.testing.assert_allclose(scores[found], scores[own], rtol=0, atol=tolerance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("idf", [False, True])
def test_rankings_and_scores_are_those_of_the_inverted_file(words_of_images, uri, idf, weighted):
    vectors, index = made(words_of_images, idf, weighted)
    done = export_vectors(vectors, uri)
    assert (done.sent, done.kept) == (N, 0)
    # Our index rounds weights that are not counts.
    tolerance = 5e-6 if weighted else 1e-6
    assert_same_rankings(done.index, index, words_of_images, tolerance)


def test_images_of_equal_vectors_come_by_number_at_the_end_of_a_ranking_too(uri):
    same = sparse_histogram(np.array([1, 1, 2]))
    other = sparse_histogram(np.array([2, 3]))
    remote = exported([same if i % 2 else other for i in range(200)], uri)
    for top in (1, 5, 40, 99):
        assert remote.search(*same, top)[0].tolist() == list(range(1, 200, 2))[:top]
    assert remote.search(*same, 103)[0].tolist() == [*range(1, 200, 2), 0, 2, 4]


def test_images_that_share_no_word_follow_with_score_zero(uri):
    pairs = [sparse_histogram(np.array([i])) for i in range(4)]
    remote = exported(pairs, uri)
    images, scores = remote.search(*pairs[2])
    assert images.tolist() == [2, 0, 1, 3]
    assert scores.tolist() == [1, 0, 0, 0]
    with pytest.raises(StudyError, match="expected query words 0 to 4, found 5 to 5"):
        remote.search(np.array([5]), np.ones(1))


def test_an_interrupted_export_goes_on_and_a_complete_one_is_not_sent_again(
    words_of_images, uri, monkeypatch
):
    monkeypatch.setattr(exporting, "BATCH", 40)
    vectors, index = made(words_of_images)
    asked = []

    def until(image):
        if image == 170:
            raise KeyboardInterrupt
        return vectors.histogram(image)

    with pytest.raises(KeyboardInterrupt):
        export_vectors(replace(vectors, histogram=until), uri)
    again = replace(vectors, histogram=lambda i: asked.append(i) or vectors.histogram(i))
    done = export_vectors(again, uri)
    assert asked == list(range(160, N))  # four batches had arrived
    assert (done.sent, done.kept) == (N - 160, 160)
    assert_same_rankings(done.index, index, words_of_images)
    done.index.client.close()

    asked.clear()
    done = export_vectors(again, uri)
    assert (done.sent, done.kept, asked) == (0, N, [])
    assert_same_rankings(done.index, index, words_of_images)


def test_a_collection_of_another_index_is_refused_unless_it_may_be_replaced(words_of_images, uri):
    vectors, _ = made(words_of_images)
    export_vectors(vectors, uri, "mine").index.client.close()
    other, index = made(words_of_images, idf=True)
    with pytest.raises(StudyError, match=r"mine .* holds another index .*--anew"):
        export_vectors(other, uri, "mine")
    done = export_vectors(other, uri, "mine", anew=True)
    assert done.sent == N
    assert_same_rankings(done.index, index, words_of_images)


def test_a_collection_that_no_export_wrote_is_refused(words_of_images, uri):
    client = connection.connect(uri)
    client.create_collection("theirs", dimension=4)
    client.close()
    with pytest.raises(StudyError, match=r"theirs at .* holds no blcf export; replace"):
        export_vectors(made(words_of_images)[0], uri, "theirs")


def test_a_ranking_that_goes_beyond_what_milvus_returns_is_said(uri, monkeypatch):
    monkeypatch.setattr("blcf_utils.apps.milvus.index.MOST_RESULTS", 50)
    same = sparse_histogram(np.array([1]))
    remote = exported([same] * 60, uri)
    for top in (5, 50, None):
        with pytest.raises(
            StudyError, match=rf"best {top or 60} images cannot be told from the 50"
        ):
            remote.search(*same, top)


def test_as_many_images_as_milvus_returns_are_ranked_to_the_last(uri, monkeypatch):
    monkeypatch.setattr("blcf_utils.apps.milvus.index.MOST_RESULTS", 50)
    same = sparse_histogram(np.array([1]))
    remote = exported([same] * 50, uri)
    for top in (5, 50, None):
        images, scores = remote.search(*same, top)
        assert images.tolist() == list(range(top or 50))
        assert (scores == scores[0]).all()


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9",
        "http://nowhere.invalid:19530",
        "ftp://host",
        "index",
        "missing-folder/index.db",
        "notes.db",
    ],
)
def test_an_address_where_nobody_answers_is_one_sentence_within_seconds(
    address, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.db").write_text("no database")
    started = time.perf_counter()
    with pytest.raises(StudyError, match=rf"milvus: {address} failed while connecting") as raised:
        connection.connect(address)
    assert time.perf_counter() - started < connection.CONNECT_SECONDS + 5
    assert "\n" not in str(raised.value)
    assert not caplog.records


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StudyError, match=r"pymilvus is not installed.*blcf-study\[milvus\]"):
        connection.connect("http://127.0.0.1:9")


@pytest.fixture
def server(tmp_path):
    """Starts a server in a process of its own, any number of times, on the same data."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    started = []

    def start():
        command = [sys.executable, "-m", "milvus_lite", "server", "--port", str(port)]
        command += ["--data-dir", str(tmp_path / "data"), "--host", "127.0.0.1"]
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        return started[-1]

    yield start, f"http://127.0.0.1:{port}"
    for process in started:
        process.kill()
        process.wait()


def test_a_server_that_dies_is_said_and_the_export_goes_on_where_it_stopped(
    words_of_images, server, monkeypatch
):
    monkeypatch.setattr(exporting, "BATCH", 40)
    start, address = server
    vectors, index = made(words_of_images)
    process = start()

    def until(image):
        if image == 170:
            process.kill()
            process.wait()
        return vectors.histogram(image)

    with pytest.raises(StudyError, match=r"failed while receiving .* run again to go on"):
        export_vectors(replace(vectors, histogram=until), address)
    process = start()
    done = export_vectors(vectors, address)
    assert (done.kept, done.sent) == (160, N - 160)
    assert_same_rankings(done.index, index, words_of_images)
    process.kill()
    process.wait()
    with pytest.raises(StudyError, match=r"failed while searching .*check that the server runs"):
        done.index.search(*vectors.histogram(0), 5)


def test_names_of_collections_are_those_milvus_takes():
    assert collection_name("smoke_mini-objects_L2-norm") == "blcf_smoke_mini_objects_L2_norm"
    assert len(collection_name("x" * 400)) == 255


def test_a_search_base_with_milvus_in_place_of_the_index_finds_the_same(toy_searcher, uri):
    from blcf_utils.search.recipes import Searcher

    base = toy_searcher.base
    remote = export_vectors(vectors_of_base(base, "toy", {"maps": base.maps.key}), uri).index
    comparison = compare(base, remote, 5)
    assert (comparison.rankings, comparison.different) == (10, ())
    assert comparison.largest < 1e-6
    elsewhere = Searcher(
        replace(base, index=remote), toy_searcher.reranking, toy_searcher.expansion
    )
    for recipe in ("GS", "LS + R + LQE"):
        for query in base.dataset.queries:
            own, found = toy_searcher.run(recipe, query), elsewhere.run(recipe, query)
            np.testing.assert_array_equal(found.ranking.images, own.ranking.images)


def test_a_comparison_sees_a_ranking_that_differs(toy_searcher, uri):
    base = toy_searcher.base
    vectors = vectors_of_base(base, "toy", {})
    # The last image's words under the first one's number, and so on.
    last = len(vectors.names) - 1
    turned = replace(vectors, histogram=lambda i: vectors.histogram(last - i))
    comparison = compare(base, export_vectors(turned, uri).index, 5)
    assert "rankings differ, first that of q0 (GS)" in str(comparison)


def test_a_folder_is_exported_and_compared_from_the_command_line(album, album_profile, uri):
    from blcf_utils.apps.photographs.indexing import index_folder
    from blcf_utils.cli import app

    index_folder(album, album_profile, ["Gaussian"])
    (album / "queries.csv").write_text(QUERIES)
    arguments = ["export", "milvus", str(album), "--uri", uri, "--weighting", "Gaussian"]
    first = CliRunner().invoke(app, [*arguments, "--check", "3"])
    assert first.exit_code == 0, first.output
    assert "blcf_holiday_Gaussian at" in first.output
    assert "12 vectors (12 sent, 0 there already)" in first.output
    assert "2 rankings (GS and LS): all agree" in first.output
    second = CliRunner().invoke(app, arguments)
    assert "12 vectors (0 sent, 12 there already)" in second.output


def test_batches_stay_below_the_servers_limit():
    # A message may have 64 MB; a pair of word and weight takes 8 bytes in it.
    assert exporting.BATCH * 8000 * 8 <= 64e6
