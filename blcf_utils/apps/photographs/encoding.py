"""Photographs that are decoded become encoded ones: words, weights, thumbnail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blcf_utils.apps.photographs.encoder import Encoder
from blcf_utils.apps.photographs.shards import Encoded, thumbnail_of
from blcf_utils.config.profile import Profile
from blcf_utils.features.forward import resolve_device
from blcf_utils.saliency.models import load_model
from blcf_utils.saliency.weighting import Weighting, gaussian, l2_norm, normalised, rmac_coverage
from blcf_utils.saliency.weighting import saliency_weights as block_maxima

WITHOUT_MODEL = {"Gaussian": gaussian, "R-MAC": rmac_coverage, "L2-norm": lambda _: l2_norm()}


class Weigher:
    """Weighs the positions of one photograph in every way that is wanted."""

    def __init__(self, names: Sequence[str], profile: Profile):
        self.names, self.config = names, profile.weighting
        self.plain: dict[str, Weighting] = {
            name: WITHOUT_MODEL[name](self.config) for name in names if name in WITHOUT_MODEL
        }
        device = resolve_device(profile.features.device).type
        self.models = {
            name: load_model(name, profile.saliency, device)
            for name in names
            if name not in WITHOUT_MODEL
        }

    def __call__(self, pixels: np.ndarray, feature_map: np.ndarray, shape) -> dict:
        made = {name: one.weights(0, feature_map, shape) for name, one in self.plain.items()}
        for name, model in self.models.items():
            made[name] = normalised(block_maxima(model.predict(pixels), shape))
        return {name: made[name].astype(np.float16) for name in self.names}


def encode_part(encoder: Encoder, weigh: Weigher, photographs: list, batch: int, bar) -> list:
    """Encode photographs, those of one size together; in their order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (_, pixels, _) in enumerate(photographs):
        groups.setdefault(pixels.shape, []).append(i)
    encoded: list[Encoded | None] = [None] * len(photographs)
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            maps = encoder.feature_maps(np.stack([photographs[i][1] for i in part]))
            for i, feature_map in zip(part, maps, strict=True):
                stamp, pixels, size = photographs[i]
                words = encoder.words(feature_map)
                weights = weigh(pixels, feature_map, words.shape)
                encoded[i] = Encoded(stamp, size, words, weights, thumbnail_of(pixels))
                bar.update()
    return encoded
