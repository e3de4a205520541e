"""What every group of settings is: validated, frozen and hashable to a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializationInfo, model_serializer


def canonical_json(value: Any) -> str:
    """Return ``value`` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class Config(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Settings younger than published results. At their default they are no part of a document, so
    # that its digest, and with it every artefact's key, stays what it was before they existed.
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler, info: SerializationInfo) -> dict:
        values = handler(self)
        if not (info.context or {}).get("every"):
            for name in self.LATER:
                if getattr(self, name) == type(self).model_fields[name].default:
                    values.pop(name, None)
        return values

    def document(self) -> dict:
        """Return the settings that determine results as plain JSON values."""
        return self.model_dump(mode="json")

    def every_setting(self) -> dict:
        """Return all settings as plain JSON values, for people to read."""
        return self.model_dump(mode="json", context={"every": True})

    def digest(self) -> str:
        """Return a short hash of every setting."""
        return digest_of(self.document())
