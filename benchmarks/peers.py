"""Bags of words beside other ways to search the same photographs.

Words of feature maps (LS, and LS re-ranked), ASMK codes of the same words (package ``asmk``; left
out where it is missing), R-MAC vectors of the same maps under faiss' flat, IVF and HNSW indexes,
and SIFT words without and with geometric verification. Queries are boxes. Every method answers
with its best 100 images: on these mAP is measured, and a query takes what they take from words or
vectors that lie ready (re-ranking makes its words itself). Building starts at stored feature maps
or SIFT descriptors and ends with an index; codebooks and whitening are learned before.

    python benchmarks/peers.py --profile photos --dataset instre-mini \\
        --network efficientnet_lite0 --layer block11_expand --weights embedded --figure peers.png
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from side_by_side import interleave, machine, median, report

from blcf_utils.config.profile import load_profile
from blcf_utils.datasets.base import Query
from blcf_utils.features.networks.weight_files import settled
from blcf_utils.plots.comparison import plot_costs
from blcf_utils.pooling.compared.asmk_search import asmk_missing
from blcf_utils.pooling.compared.timing import TOP, best_of
from blcf_utils.results.evaluation import evaluate
from blcf_utils.search.index.inverted_file import invert
from blcf_utils.search.query import Ranking, region_histogram
from blcf_utils.search.sift.keypoints import query_keypoints
from blcf_utils.search.sift.verification import local_features, verify_ranking
from blcf_utils.search.sift.words import (
    learn_sift_codebook,
    sift_histogram,
    sift_histograms,
    sift_query,
)
from blcf_utils.study.pipeline import Pipeline
from blcf_utils.study.study import Study
from blcf_utils.words.assignment_maps import assign_map
from blcf_utils.words.histograms import database_histograms, sparse_histogram

TINY = {
    "dataset_options.mini-objects.scale": 0.05,
    "dataset_options.mini-buildings.scale": 0.05,
    "features.longest_side": 96,
    "whitening.dimensions": 32,
    "codebook.words": 32,
    "sift.words": 32,
}
_LINKS = 32  # of a node of HNSW


@dataclass(frozen=True)
class Peer:
    """One way to search.

    Attributes:
        label: its name in the table.
        answer: a query to the numbers of the best images, from what lies ready for it.
        size: bytes of everything that a search reads.
        encode: what one image takes on its way into the index, by its number.
        index: makes the index of what all images have become.
    """

    label: str
    answer: Callable[[Query], np.ndarray]
    size: float
    encode: Callable[[int], object]
    index: Callable[[], object]


def words_of(bench: Pipeline) -> list[Peer]:
    """Return local search with the study's words, and the same re-ranked."""
    searcher, maps, index = bench.searcher(), bench.maps, bench.index()
    config, codebook, whitening = bench.profile.encoding, bench.codebook, bench.whitening
    ready = {q.id: region_histogram(searcher.base.regions(q, "ls")) for q in bench.dataset.queries}
    histograms = database_histograms(maps)
    kept = 2 * maps.shapes[: maps.n_database].prod(axis=1).sum()

    def encode(i: int) -> object:
        feature_map = bench.features.map(i)
        return sparse_histogram(assign_map(feature_map, whitening, codebook, config.interpolate))

    made = encode, lambda: invert(histograms, config.idf, config.index_weights)
    return [
        Peer("BLCF, LS", lambda q: index.search(*ready[q.id], TOP)[0], index.nbytes, *made),
        Peer(
            "BLCF, LS + R",
            lambda q: searcher.run("LS + R", q).ranking.images[:TOP],
            index.nbytes + kept,
            *made,
        ),
    ]


def asmk_of(study: Study, bench: Pipeline) -> list[Peer]:
    """Return the aggregated selective match kernel over the same words, if the package is here."""
    if asmk_missing():
        return []
    asmk = study.comparison(bench.name).asmk
    ready = {q.id: asmk.describe(q, "ls") for q in bench.dataset.queries}

    def index() -> object:
        fresh = copy.copy(asmk)
        fresh.__dict__.pop("index", None)
        return fresh.index

    return [
        Peer(
            "ASMK",
            lambda q: best_of(asmk.search(*ready[q.id])),
            asmk.nbytes,
            lambda i: asmk.aggregate(bench.features.descriptors(i), 1),
            index,
        )
    ]


def vectors_of(study: Study, bench: Pipeline) -> tuple[list[Peer], bool]:
    """Return R-MAC under faiss' indexes, and whether those that look at everything agree."""
    vectors = study.comparison(bench.name).vectors("rmac")
    database = np.ascontiguousarray(vectors.database(), np.float32)
    ready = {
        q.id: np.ascontiguousarray(v[None], np.float32)
        for q, v in zip(bench.dataset.queries, vectors.queries("ls"), strict=True)
    }
    dimensions, inner = database.shape[1], faiss.METRIC_INNER_PRODUCT
    cells = max(1, round(len(database) ** 0.5))
    top = min(TOP, len(database))

    def flat() -> faiss.Index:
        index = faiss.IndexFlatIP(dimensions)
        index.add(database)
        return index

    def lists(probes: int) -> faiss.Index:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, cells, inner)
        index.cp.min_points_per_centroid = 1
        index.train(database)
        index.add(database)
        index.nprobe = probes
        return index

    def graph(effort: int) -> faiss.Index:
        index = faiss.IndexHNSWFlat(dimensions, _LINKS, inner)
        index.add(database)
        index.hnsw.efSearch = effort
        return index

    def found(index: faiss.Index, query: Query) -> np.ndarray:
        images = index.search(ready[query.id], top)[1][0]
        return images[images >= 0]

    makers = {"flat": flat}
    makers |= {f"IVF, {n} of {cells} lists": lambda n=n: lists(n) for n in (1, 4) if n < cells}
    makers |= {f"HNSW, efSearch {n}": lambda n=n: graph(n) for n in (TOP, 2 * TOP)}
    whole, everywhere, agree = flat(), lists(cells), True
    for query in bench.dataset.queries:
        exact = np.sort(np.argsort(-(database @ ready[query.id][0]), kind="stable")[:top])
        for index in (whole, everywhere):  # two as good as one another may change places
            agree &= np.isin(found(index, query), exact).mean() > 0.98
    peers = []
    for name, make in makers.items():
        index = make()
        peers.append(
            Peer(
                f"R-MAC, faiss {name}",
                lambda q, index=index: found(index, q),
                len(faiss.serialize_index(index)),
                lambda i: vectors.fitted.describe(bench.features.map(i)[None]),
                make,
            )
        )
    return peers, bool(agree)


def sift_of(bench: Pipeline) -> list[Peer]:
    """Return SIFT words, and the same with the first images verified."""
    sift, config, dataset = bench.sift, bench.profile.sift, bench.dataset
    features, words, index = sift.features, sift.words, sift.index
    codebook = learn_sift_codebook(
        bench.teacher.sift.features, config, bench.store, seed=bench.profile.seed
    )
    histograms = sift_histograms(words, config.burstiness)
    ready, local = {}, {}
    for query in dataset.queries:
        ready[query.id] = sift_query(dataset, query, words, "ls", config.burstiness)
        inside = query_keypoints(dataset, query, features, "ls")
        local[query.id] = local_features(features, dataset.image_index[query.image], inside)

    def first(query: Query) -> Ranking:
        return Ranking(*index.search(*ready[query.id], min(TOP, index.n_images)))

    def verified(query: Query) -> np.ndarray:
        ranking, _ = verify_ranking(local[query.id], first(query), features, config.verification)
        return ranking.images

    # Verification reads 128 bytes and four numbers of every keypoint.
    kept = features.n_database_descriptors * (128 + 16)
    made = (
        lambda i: sift_histogram(codebook.assign(features.descriptors(i)), config.burstiness),
        lambda: invert(histograms, config.idf),
    )
    return [
        Peer("SIFT words", lambda q: first(q).images, index.nbytes, *made),
        Peer("SIFT words, verified", verified, index.nbytes + kept, *made),
    ]


def measure(peers: list[Peer], bench: Pipeline, given: argparse.Namespace) -> list[dict]:
    """Return a row of the table for each way to search."""
    queries = bench.dataset.queries[: given.timed]
    candidates = {p.label: lambda p=p: [p.answer(q) for q in queries] for p in peers}
    seconds = interleave(candidates, given.repeats)
    count = len(bench.dataset.images)
    there = np.flatnonzero(bench.features.shapes[:count].all(axis=1))
    sample = there[np.linspace(0, len(there) - 1, min(given.encoded, len(there))).astype(int)]
    rows = []
    for peer in peers:
        found = {q.id: peer.answer(q) for q in bench.dataset.queries}
        peer.encode(int(sample[0]))
        encoding = timed(lambda p=peer: [p.encode(int(i)) for i in sample]) / len(sample)
        rows.append(
            {
                "method": peer.label,
                "mAP of 100": evaluate(bench.dataset, found).mean,
                "ms a query": 1e3 * median(seconds[peer.label]) / len(queries),
                "bytes an image": peer.size / count,
                "encoding (ms an image)": 1e3 * encoding,
                "build (s)": encoding * count + timed(peer.index),
            }
        )
    return rows


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def draw(rows: list[dict], name: str, path: Path) -> None:
    """Draw accuracy against bytes and against time into a file."""
    columns = {
        "ls": "mAP of 100",
        "bytes per image": "bytes an image",
        "ms per query": "ms a query",
    }
    table = [
        {"row": row["method"], "column": f"{name}/{column}", "measured": row[key]}
        for row in rows
        for column, key in columns.items()
    ]
    plot_costs(pd.DataFrame(table).assign(status="measured"), name).savefig(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--dataset", default="", help="of the profile; its first, if none")
    parser.add_argument("--network", default="", help="the profile's, if none")
    parser.add_argument("--layer", default="", help="of --network")
    parser.add_argument("--weights", default="embedded", help="of --network")
    parser.add_argument("--tiny", action="store_true", help="small rendered pictures")
    parser.add_argument("--timed", type=int, default=10, help="queries that are timed")
    parser.add_argument("--encoded", type=int, default=50, help="images whose encoding is timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="a file to draw into")
    given = parser.parse_args(arguments)
    start, settings = machine(), {}
    if given.network:
        settings["features.backbone"] = {
            "name": given.network,
            "layer": given.layer,
            "weights": given.weights,
        }
    with tempfile.TemporaryDirectory() as scratch:
        if given.tiny:
            os.environ["BLCF_CACHE"] = scratch
            settings |= TINY
        study = Study(settled(load_profile(given.profile, settings)))
        bench = study.open(given.dataset)
        dense, agree = vectors_of(study, bench)
        peers = [*words_of(bench), *asmk_of(study, bench), *dense, *sift_of(bench)]
        rows = measure(peers, bench, given)
        if given.figure:
            draw(rows, bench.name, given.figure)
        report(
            "peers",
            rows,
            agree,
            start,
            otherwise="faiss' exact answers are not the best by the vectors' product",
            **{name: str(value) for name, value in vars(given).items()},
            asmk=asmk_missing() or "measured",
            dataset_name=bench.name,
            images=len(bench.dataset.images),
            backbone=bench.profile.features.backbone.label,
            words=bench.codebook.words,
        )


if __name__ == "__main__":
    main()
