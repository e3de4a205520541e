"""Sending an index to Milvus: in batches, resumable, never into another index's collection."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blcf_utils.apps.milvus.connection import CALL_SECONDS, connect, saying
from blcf_utils.apps.milvus.index import IMAGE, NAME, WORDS, MilvusIndex, Record, read_record
from blcf_utils.apps.milvus.vectors import IndexVectors
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

if TYPE_CHECKING:
    from pymilvus import MilvusClient

BATCH = 1000  # vectors a message: below 64 MB, the server's limit, at 8,000 words an image
NAME_BYTES = 4096


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        index: searches what was exported.
        sent: vectors that were sent now.
        kept: vectors that were there already.
        empty: images without words, which Milvus does not take.
        seconds: how long it took.
    """

    index: MilvusIndex
    sent: int
    kept: int
    empty: int
    seconds: float


def collection_name(label: str) -> str:
    """Return a name that Milvus accepts: letters, digits and underscores, at most 255."""
    return ("blcf_" + re.sub(r"\W+", "_", label, flags=re.ASCII))[:255]


def export_vectors(
    vectors: IndexVectors,
    uri: str,
    collection: str = "",
    *,
    token: str = "",
    anew: bool = False,
    algorithm: str = "DAAT_MAXSCORE",
    batch: int = BATCH,
) -> Exported:
    """Send the vectors of an index to a collection of Milvus, and return what searches it.

    The collection has a sparse inverted index of inner products. Rows are image number, name and
    vector. Killed, it goes on with the images that are not there; a complete collection is
    opened at once. Images without words have no row: Milvus refuses empty vectors.

    Args:
        vectors: of the index.
        uri: ``http://host:19530``, or the path of a ``.db`` file of Milvus Lite.
        collection: its name; made of the vectors' label if blank.
        token: where the server asks for one.
        anew: replace a collection of that name.
        algorithm: of the server's index: ``DAAT_MAXSCORE``, ``DAAT_WAND`` or ``TAAT_NAIVE``; all
            are exact. Milvus Lite has one of its own.
        batch: vectors a message.

    Raises:
        StudyError: nobody answers, or the collection holds something else and ``anew`` is not set.
    """
    started = time.perf_counter()
    collection = collection or collection_name(vectors.label)
    client = connect(uri, token)
    try:
        record = _prepare(client, uri, collection, vectors, anew, algorithm)
        sent = 0
        if not record.complete:
            sent, empty = _send(client, uri, collection, vectors, batch)
            record = replace(record, complete=True, empty=empty)
            with saying(uri, f"finishing {collection}"):
                # Only now: a collection that says so is complete.
                client.upsert(collection, [record.as_row()], timeout=CALL_SECONDS)
                client.flush(collection, timeout=CALL_SECONDS)
        index = MilvusIndex(client, uri, collection, record, vectors.factors)
    except BaseException:
        client.close()
        raise
    kept = len(vectors) - record.empty - sent
    return Exported(index, sent, kept, record.empty, time.perf_counter() - started)


def _prepare(
    client: MilvusClient, uri: str, collection: str, vectors: IndexVectors, anew: bool, algorithm
) -> Record:
    """Return the record of the collection, which is there then."""
    if anew:
        with saying(uri, f"dropping {collection}"):
            client.drop_collection(collection, timeout=CALL_SECONDS)
    record = read_record(client, uri, collection)
    if record is None:
        record = Record(vectors.key, len(vectors), vectors.words)
        _create(client, uri, collection, record, algorithm, vectors.label)
    elif record.key != vectors.key:
        raise StudyError(
            f"milvus: the collection {collection} at {uri} holds another index ({record.key} of "
            f"{record.images:,} images, expected {vectors.key}); replace it with --anew, or name "
            "another one with --collection"
        )
    return record


def _create(client, uri: str, collection: str, record: Record, algorithm: str, label: str) -> None:
    from pymilvus import DataType

    schema = client.create_schema(
        auto_id=False,
        enable_dynamic_field=False,
        description=f"blcf export of {label}, index {record.key}",
    )
    schema.add_field(IMAGE, DataType.INT64, is_primary=True)
    schema.add_field(NAME, DataType.VARCHAR, max_length=NAME_BYTES)
    schema.add_field(WORDS, DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index(
        WORDS,
        index_type="SPARSE_INVERTED_INDEX",
        metric_type="IP",
        params={"inverted_index_algo": algorithm},
    )
    with saying(uri, f"creating {collection}"):
        client.create_collection(
            collection,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
            timeout=CALL_SECONDS,
        )
        client.upsert(collection, [record.as_row()], timeout=CALL_SECONDS)


def _send(
    client: MilvusClient, uri: str, collection: str, vectors: IndexVectors, batch: int
) -> tuple[int, int]:
    """Send every vector that is not there; return how many were sent and how many are empty."""
    sent = empty = 0
    bar = progress(label=f"milvus {collection}", total=len(vectors), unit="image")
    with bar, saying(uri, f"receiving the vectors of {collection}"):
        for start in range(0, len(vectors), batch):
            end = min(start + batch, len(vectors))
            there = _there(client, collection, start, end)
            rows = []
            for image in range(start, end):
                if image in there:
                    continue
                words, values = vectors.vector(image)
                if not len(words):
                    empty += 1
                    continue
                vector = dict(zip(words.tolist(), values.tolist(), strict=True))
                name = _cut(vectors.names[image])
                rows.append({IMAGE: image, NAME: name, WORDS: vector})
            if rows:
                client.upsert(collection, rows, timeout=CALL_SECONDS)
            sent += len(rows)
            bar.update(end - start)
    return sent, empty


def _there(client: MilvusClient, collection: str, start: int, end: int) -> set[int]:
    rows = client.query(
        collection,
        filter=f"{IMAGE} >= {start} and {IMAGE} < {end}",
        output_fields=[IMAGE],
        limit=end - start,
        consistency_level="Strong",
        timeout=CALL_SECONDS,
    )
    return {row[IMAGE] for row in rows}


def _cut(name: str) -> str:
    """Return a name's end, as long as the field takes."""
    return name.encode()[-NAME_BYTES:].decode(errors="ignore")
