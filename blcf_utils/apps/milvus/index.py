"""An exported index, searched at its address: the rankings of our own inverted file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from blcf_utils.apps.milvus.connection import CALL_SECONDS, saying
from blcf_utils.apps.milvus.vectors import scaled
from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# Milvus answers with at most so many results.
MOST_RESULTS = 16_384
# So many results more are asked for at first, for the last one's equals.
SPARE = 32
IMAGE, NAME, WORDS = "image", "name", "words"
# A row that no query finds: its one word is none of the codebook's.
RECORD = -1


@dataclass(frozen=True)
class Record:
    """What a collection says of itself, in the row ``RECORD``.

    Attributes:
        key: of the exported vectors.
        images: how many images the index has, those without words included.
        words: K.
        complete: whether every image has been sent.
        empty: how many images have no words and were left out.
    """

    key: str
    images: int
    words: int
    complete: bool = False
    empty: int = 0

    def as_row(self) -> dict:
        """Return the row that keeps it."""
        vector = {self.words: 1.0}
        return {IMAGE: RECORD, NAME: json.dumps(asdict(self), sort_keys=True), WORDS: vector}


def read_record(client: MilvusClient, uri: str, collection: str) -> Record | None:
    """Return what a collection says of itself, or None when there is no such collection.

    Raises:
        StudyError: it was not written by an export, or the server fails.
    """
    with saying(uri, f"looking for the collection {collection}"):
        if not client.has_collection(collection, timeout=CALL_SECONDS):
            return None
        fields = {field["name"] for field in client.describe_collection(collection)["fields"]}
        rows = []
        if fields == {IMAGE, NAME, WORDS}:
            # A server that was started again has released it.
            client.load_collection(collection, timeout=CALL_SECONDS)
            rows = client.query(
                collection,
                filter=f"{IMAGE} == {RECORD}",
                output_fields=[NAME],
                consistency_level="Strong",
                timeout=CALL_SECONDS,
            )
    try:
        return Record(**json.loads(rows[0][NAME]))
    except (IndexError, ValueError, TypeError):
        raise StudyError(
            f"milvus: the collection {collection} at {uri} was not written by blcf export; name "
            "another one with --collection, or replace it with --anew"
        ) from None


class MilvusIndex:
    """What answers as ``InvertedFile.search`` does, from a collection of Milvus.

    It can take the place of an inverted file in a ``SearchBase``.

    Attributes:
        uri, collection: where the vectors are.
        record: what the collection says of itself.
        factors: (K,) idf of the index, or None.
    """

    def __init__(
        self,
        client: MilvusClient,
        uri: str,
        collection: str,
        record: Record,
        factors: np.ndarray | None = None,
    ):
        self._client, self.uri, self.collection = client, uri, collection
        self.record, self.factors = record, factors

    @property
    def words(self) -> int:
        """K."""
        return self.record.words

    @property
    def n_images(self) -> int:
        """n."""
        return self.record.images

    def close(self) -> None:
        """Let go of the connection; a file of Milvus Lite can then be opened by others."""
        self._client.close()

    def search(
        self, words: np.ndarray, values: np.ndarray, top: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the images for a sparse query.

        Equal scores are ordered by image number, as our index orders them, whatever order Milvus
        returns them in. Images that share no word with the query come last, with score 0.

        Args:
            words: (m,) distinct visual words.
            values: (m,) their weights in the query histogram.
            top: length of the ranking; every image when None.

        Returns:
            Image numbers (int64) and scores (float32), best first.

        Raises:
            StudyError: a word of another codebook, more results than Milvus gives, or more images
                of equal score than that at the ranking's end.
        """
        if top is not None and top < 1:
            raise StudyError(f"milvus: expected top of at least 1, found {top}")
        words = np.asarray(words, np.int64)
        if len(words) and not 0 <= words.min() <= words.max() < self.words:
            raise StudyError(
                f"milvus: expected query words 0 to {self.words - 1}, found {words.min()} to "
                f"{words.max()}; encode the query with the codebook of the index"
            )
        wanted = min(self.n_images if top is None else top, self.n_images)
        if wanted > MOST_RESULTS:
            raise StudyError(
                f"milvus: {wanted:,} results were asked for and Milvus gives at most "
                f"{MOST_RESULTS:,}; ask for fewer (top), or search the index of the study"
            )
        images, scores = self._found(*scaled(words, values, self.factors), wanted)
        missing = wanted - len(images)
        if missing > 0:
            others = np.ones(self.n_images, bool)
            others[images] = False
            images = np.concatenate([images, np.flatnonzero(others)[:missing]])
            scores = np.concatenate([scores, np.zeros(missing, np.float32)])
        return images[:wanted], scores[:wanted]

    def _found(self, words, values, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of positive score, sorted, so many that the last one has no equal."""
        if not len(words):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        limit = min(wanted + SPARE, MOST_RESULTS)
        while True:
            images, scores = self._ask(words, values, limit)
            every = len(images) < limit or limit >= self.n_images
            if every or scores[wanted - 1] > scores[-1]:
                order = np.lexsort((images, -scores))
                return images[order], scores[order]
            if limit == MOST_RESULTS:
                raise StudyError(
                    f"milvus: images beyond the {MOST_RESULTS:,} that Milvus gives may have the "
                    f"score of result {wanted:,}, so that the first of them by number cannot be "
                    "told; ask for fewer results (top), or search the index of the study"
                )
            limit = min(4 * limit, MOST_RESULTS)

    def _ask(self, words, values, limit: int) -> tuple[np.ndarray, np.ndarray]:
        query = dict(zip(words.tolist(), values.tolist(), strict=True))
        mend = "check that the server runs there"
        with saying(self.uri, f"searching {self.collection}", mend):
            hits = self._client.search(
                self.collection,
                data=[query],
                anns_field=WORDS,
                limit=limit,
                search_params={"metric_type": "IP", "params": {}},
                output_fields=[],
                timeout=CALL_SECONDS,
            )[0]
        images = np.array([hit[IMAGE] for hit in hits], np.int64)
        scores = np.array([hit["distance"] for hit in hits], np.float32)
        held = scores > 0
        return images[held], scores[held]
