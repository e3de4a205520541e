"""Sending an index to Milvus: in batches, resumable, never into another index's collection.

A collection has a row (image number, name, vector) for each image, and row -1, whose name is the
key of the vectors. An image without words has a vector of one word that is none of the codebook's,
since Milvus refuses empty ones; so has row -1. No query finds them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blcf_utils.apps.milvus.connection import CALL_SECONDS, connect, saying
from blcf_utils.apps.milvus.index import IMAGE, NAME, WORDS, MilvusIndex
from blcf_utils.apps.milvus.vectors import IndexVectors, scaled
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.progress import progress

if TYPE_CHECKING:
    from pymilvus import MilvusClient

BATCH = 1000  # vectors a message: below 64 MB, the server's limit, at 8,000 words an image
NAME_BYTES = 4096
KEY_ROW = -1
_RESUME = "what was sent is kept, run again to go on"
_STRONG = {"consistency_level": "Strong", "timeout": CALL_SECONDS}


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        index: searches what was exported.
        sent: images that were sent now.
        kept: images that were there already.
        seconds: how long it took.
    """

    index: MilvusIndex
    sent: int
    kept: int
    seconds: float


def collection_name(label: str) -> str:
    """Return a name that Milvus accepts: letters, digits and underscores, at most 255."""
    return ("blcf_" + re.sub(r"\W+", "_", label, flags=re.ASCII))[:255]


def export_vectors(
    vectors: IndexVectors, uri: str, collection: str = "", *, token: str = "", anew: bool = False
) -> Exported:
    """Send the vectors of an index to a collection of Milvus, and return what searches it.

    The collection has a sparse inverted index of inner products. Images are sent in their order;
    an export that was interrupted goes on, one that is complete sends nothing.

    Args:
        vectors: of the index.
        uri: ``http://host:19530``, or the path of a ``.db`` file of Milvus Lite.
        collection: its name; made of the vectors' label if blank.
        token: where the server asks for one.
        anew: replace a collection of that name.

    Raises:
        StudyError: nobody answers, or the collection holds something else and ``anew`` is not set.
    """
    started = time.perf_counter()
    collection = collection or collection_name(vectors.label)
    client = connect(uri, token)
    try:
        with saying(uri, f"opening the collection {collection}", _RESUME):
            if anew:
                client.drop_collection(collection, timeout=CALL_SECONDS)
            if client.has_collection(collection, timeout=CALL_SECONDS):
                _check(client, uri, collection, vectors.key)
            else:
                _create(client, collection, vectors)
        with saying(uri, f"receiving the vectors of {collection}", _RESUME):
            kept = _send(client, collection, vectors)
    except BaseException:
        client.close()
        raise
    n = len(vectors.names)
    index = MilvusIndex(client, uri, collection, n, vectors.words, vectors.factors)
    return Exported(index, n - kept, kept, time.perf_counter() - started)


def _check(client: MilvusClient, uri: str, collection: str, key: str) -> None:
    """Refuse a collection that holds something else."""
    fields = {field["name"] for field in client.describe_collection(collection)["fields"]}
    rows = []
    if fields == {IMAGE, NAME, WORDS}:
        client.load_collection(collection, timeout=CALL_SECONDS)  # a restarted server has not
        rows = client.query(
            collection, filter=f"{IMAGE} == {KEY_ROW}", output_fields=[NAME], **_STRONG
        )
    if not rows or rows[0][NAME] != key:
        found = f"another index ({rows[0][NAME]}, expected {key})" if rows else "no blcf export"
        raise StudyError(
            f"milvus: the collection {collection} at {uri} holds {found}; replace it with --anew, "
            "or name another one with --collection"
        )


def _create(client: MilvusClient, collection: str, vectors: IndexVectors) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(IMAGE, DataType.INT64, is_primary=True)
    schema.add_field(NAME, DataType.VARCHAR, max_length=NAME_BYTES)
    schema.add_field(WORDS, DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index(WORDS, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=index, **_STRONG)
    row = {IMAGE: KEY_ROW, NAME: vectors.key, WORDS: {vectors.words: 1.0}}
    client.upsert(collection, [row], timeout=CALL_SECONDS)


def _send(client: MilvusClient, collection: str, vectors: IndexVectors) -> int:
    """Send the images that are not there; return how many are."""
    count = "count(*)"
    (rows,) = client.query(collection, filter="", output_fields=[count], **_STRONG)
    n, there = len(vectors.names), rows[count] - 1
    # Of the last batch before an interruption, any images may be there: it is sent again.
    kept = n if there == n else there // BATCH * BATCH
    if kept == n:
        return n
    with progress(label=f"milvus {collection}", total=n, unit="image") as bar:
        bar.update(kept)
        for start in range(kept, n, BATCH):
            batch = range(start, min(start + BATCH, n))
            client.upsert(collection, [_row(vectors, i) for i in batch], timeout=CALL_SECONDS)
            bar.update(len(batch))
    client.flush(collection, timeout=CALL_SECONDS)
    return kept


def _row(vectors: IndexVectors, image: int) -> dict:
    words, values = scaled(*vectors.histogram(image), vectors.factors)
    vector = dict(zip(words.tolist(), values.tolist(), strict=True)) or {vectors.words: 1.0}
    name = vectors.names[image].encode()[-NAME_BYTES:].decode(errors="ignore")
    return {IMAGE: image, NAME: name, WORDS: vector}
