"""What every group of settings is: validated, frozen and hashable to a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


def canonical_json(value: Any) -> str:
    """Return ``value`` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    # Names of files that are no UTF-8 hold surrogates.
    text = canonical_json(value).encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


class Config(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def document(self) -> dict:
        """Return every setting as plain JSON values."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Return a short hash of every setting."""
        return digest_of(self.document())
