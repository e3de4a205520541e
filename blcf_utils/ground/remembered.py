"""Methods whose result is kept on their object."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def remembered(method: Callable) -> Callable:
    """Let a method compute once for each set of (hashable) arguments.

    The results live as long as the object does, unlike those of ``functools.cache`` on a method,
    which keep the object alive.
    """

    @wraps(method)
    def once(self, *args: Any, **options: Any):
        kept = self.__dict__.setdefault("_remembered", {})
        key = (method.__name__, args, tuple(sorted(options.items())))
        if key not in kept:
            kept[key] = method(self, *args, **options)
        return kept[key]

    return once
