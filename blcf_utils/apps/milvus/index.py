"""An exported index, searched at its address: the rankings of our own inverted file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blcf_utils.apps.milvus.connection import CALL_SECONDS, saying
from blcf_utils.apps.milvus.vectors import scaled
from blcf_utils.ground.errors import StudyError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# Milvus answers with at most so many results.
MOST_RESULTS = 16_384
# So many results more are asked for at first, for images of the last one's score.
SPARE = 32
IMAGE, NAME, WORDS = "image", "name", "words"


@dataclass(frozen=True)
class MilvusIndex:
    """What answers as ``InvertedFile.search`` does, from a collection of Milvus.

    It can take the place of an inverted file in a ``SearchBase``.

    Attributes:
        client: of Milvus; its ``close()`` lets other processes open a file of Milvus Lite.
        uri, collection: where the vectors are.
        n_images: n.
        words: K.
        factors: (K,) idf of the index, or None.
    """

    client: MilvusClient
    uri: str
    collection: str
    n_images: int
    words: int
    factors: np.ndarray | None = None

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
            StudyError: a word of another codebook, or a ranking whose end is beyond the results
                that Milvus gives.
        """
        words = np.asarray(words, np.int64)
        if len(words) and not 0 <= words.min() <= words.max() < self.words:
            raise StudyError(
                f"milvus: expected query words 0 to {self.words - 1}, found {words.min()} to "
                f"{words.max()}; encode the query with the codebook of the index"
            )
        words, values = scaled(words, values, self.factors)
        query = dict(zip(words.tolist(), values.tolist(), strict=True))
        wanted = min(top or self.n_images, self.n_images)
        images, scores = self._found(query, wanted) if query else ([], [])
        others = np.setdiff1d(np.arange(self.n_images), images)[: max(0, wanted - len(images))]
        images = np.concatenate([images, others])[:wanted].astype(np.int64)
        return images, np.append(scores, np.zeros(len(others)))[:wanted].astype(np.float32)

    def _found(self, query: dict[int, float], wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of positive score, sorted: all, or until the last wanted score ends."""
        limit = min(wanted + SPARE, MOST_RESULTS)
        while True:
            images, scores = self._ask(query, limit)
            every = len(images) < limit or limit >= self.n_images
            if every or (wanted < limit and scores[wanted - 1] > scores[-1]):
                order = np.lexsort((images, -scores))
                return images[order], scores[order]
            if limit == MOST_RESULTS:
                raise StudyError(
                    f"milvus: the best {wanted:,} images cannot be told from the {MOST_RESULTS:,} "
                    "that Milvus gives at most, since others may have the last one's score; ask "
                    "for fewer (top), or search the index of the study"
                )
            limit = min(4 * limit, MOST_RESULTS)

    def _ask(self, query: dict[int, float], limit: int) -> tuple[np.ndarray, np.ndarray]:
        mend = "check that the server runs there"
        with saying(self.uri, f"searching {self.collection}", mend):
            (hits,) = self.client.search(
                self.collection,
                data=[query],
                anns_field=WORDS,
                limit=limit,
                search_params={"metric_type": "IP", "params": {}},
                output_fields=[],
                timeout=CALL_SECONDS,
            )
        images = np.array([hit[IMAGE] for hit in hits], np.int64)
        scores = np.array([hit["distance"] for hit in hits], np.float32)
        return images[scores > 0], scores[scores > 0]
