"""Encoding contents into the shards of an index; what shards have of them already is used."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.shards import (
    THUMBNAIL,
    read_column,
    read_made,
    shard_path,
    thumbnail_of,
    write_shard,
)
from blcf_utils.apps.photographs.words import open_encoder, stored_words, words_key
from blcf_utils.config.profile import Profile
from blcf_utils.features.forward import resolve_device, resolve_precision
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.settings import digest_of
from blcf_utils.saliency.models import load_model
from blcf_utils.saliency.weighting import (
    Weighting,
    by_saliency,
    gaussian,
    l2_norm,
    rmac_coverage,
)

WITHOUT_MODEL = {"Gaussian": gaussian, "R-MAC": rmac_coverage, "L2-norm": lambda _: l2_norm()}

# What the network sees of a photograph, (H, W, 3) uint8, and the photograph's width and height.
Picture = tuple[np.ndarray, tuple[int, int]]
# Digest of a content to its shard and its place in it.
Places = dict[str, list]


class Encoding:
    """How the photographs of one index are encoded.

    Args:
        home: of the index, which has its words.
        profile, weightings: of its manifest.
    """

    def __init__(self, home: Path, profile: Profile, weightings: list[str]):
        self.home, self.profile, self.names = home, profile, weightings
        # Content to a shard of it that other words or weightings made, and its place there.
        self._earlier: dict[str, tuple[Path, int]] = {}
        self._made_earlier = lru_cache(None)(lambda path: read_made(path)[1])
        self._read = lru_cache(32)(read_column)

    @cached_property
    def encoder(self) -> Encoder:
        """What reads photographs and gives them their words."""
        return open_encoder(self.home, self.profile)

    @cached_property
    def weightings(self) -> list[Weighting]:
        """The weightings; the number of an image is its place among those being encoded."""
        device = str(resolve_device(self.profile.features.device))

        def of_model(name: str) -> Weighting:
            model = load_model(name, self.profile.saliency, device)
            return by_saliency(name, lambda i: model.predict(self._pictures[i]), model.document)

        config = self.profile.weighting
        return [
            WITHOUT_MODEL[name](config) if name in WITHOUT_MODEL else of_model(name)
            for name in self.names
        ]

    @cached_property
    def made(self) -> dict[str, str]:
        """Column of a shard to a digest of what determines it beside the content."""
        features, encoding = self.profile.features, self.profile.encoding
        seen = {
            "backbone": self.encoder.backbone.document(),
            "longest_side": features.longest_side,
            "resize": features.resize,
            "alpha": features.alpha,
            "precision": resolve_precision(features, resolve_device(features.device)),
            "interpolate": encoding.interpolate,
        }
        words = {
            "words": words_key(stored_words(self.home)),
            "assignment": [encoding.assignment, encoding.assignment_effort],
        }
        made = dict.fromkeys(("words", "shape", "distance"), digest_of([seen, words]))
        made |= {"size": "", "thumbnail": digest_of([seen, THUMBNAIL])}
        return made | {
            _column(one): digest_of([seen, one.name, one.document]) for one in self.weightings
        }

    def adopt(self, known: set[str]) -> Places:
        """Return contents of shards that were made as they would be now.

        Of other shards is used, when their contents are encoded, what still holds in them. What
        cannot be read is deleted.

        Args:
            known: names of shards that are left as they are.
        """
        found: Places = {}
        for path in sorted((self.home / "shards").glob("*.npz")):
            if path.stem in known:
                continue
            try:
                contents, made = read_made(path)
            except StudyError:
                path.unlink()
                continue
            if made == self.made:
                found |= {digest: [path.stem, place] for place, digest in enumerate(contents)}
            else:
                self._earlier |= {digest: (path, place) for place, digest in enumerate(contents)}
        return found

    def _columns(self, digest: str) -> dict[str, np.ndarray]:
        """Return the columns of a content that an earlier shard has as they would be made now."""
        if digest not in self._earlier:
            return {}
        path, place = self._earlier[digest]
        made = self._made_earlier(path)
        same = [column for column, key in self.made.items() if made.get(column) == key]
        return {column: self._read(path, column)[place] for column in same}

    def encode(self, pictures: Mapping[str, Picture]) -> Places:
        """Write contents, by their digests, into a shard; return their places."""
        self._pictures = [pixels for pixels, _ in pictures.values()]
        encoded = {digest: self._columns(digest) for digest in pictures}
        forwarded = [
            i for i, columns in enumerate(encoded.values()) if self._needs_features(columns)
        ]
        seen = [self._pictures[i] for i in forwarded]
        maps = self.encoder.feature_maps(seen) if seen else ()
        feature_maps = dict(zip(forwarded, maps, strict=True))
        for i, (digest, (pixels, size)) in enumerate(pictures.items()):
            columns = encoded[digest]
            columns["size"] = np.array(size)
            if "words" not in columns:
                words, distance = self.encoder.words_and_distance(feature_maps[i])
                columns["words"], columns["shape"] = words, np.array(words.shape)
                columns["distance"] = np.array(distance, np.float32)
            if "thumbnail" not in columns:
                columns["thumbnail"] = np.frombuffer(thumbnail_of(pixels), np.uint8)
            for weighting in self.weightings:
                if _column(weighting) not in columns:
                    shape = tuple(columns["shape"].tolist())
                    weights = weighting.weights(i, feature_maps.get(i), shape)
                    columns[_column(weighting)] = weights.astype(np.float16)
        shard = digest_of([list(pictures), self.made])
        write_shard(shard_path(self.home, shard), encoded, self.made)
        return {digest: [shard, place] for place, digest in enumerate(pictures)}

    def _needs_features(self, columns: Mapping[str, np.ndarray]) -> bool:
        readers = [_column(one) for one in self.weightings if one.needs_features]
        return any(column not in columns for column in ("words", *readers))


def _column(weighting: Weighting) -> str:
    return f"weights {weighting.name}"
