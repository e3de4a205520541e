"""One progress bar for terminals and Jupyter that stays silent in logs and batch runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from tqdm.auto import tqdm


def _wanted() -> bool:
    setting = os.environ.get("BLCF_PROGRESS", "auto")
    if setting in ("on", "off"):
        return setting == "on"
    # The runner sets BLCF_BATCH in its kernels: a bar there would only fill the executed notebook.
    if os.environ.get("BLCF_BATCH"):
        return False
    in_kernel = "ipykernel.kernelapp" in sys.modules  # the runner loads other parts of ipykernel
    return in_kernel or sys.stderr.isatty()


def progress(items: Iterable | None = None, *, label: str, total: int | None = None, unit="it"):
    """Wrap ``items`` in a progress bar, or return a bar to be advanced by ``update(n)``.

    Args:
        items: what to iterate over; None for a bar that the caller advances.
        label: what is being done, a short noun phrase.
        total: number of steps when ``items`` has no length.
        unit: what one step is called ("image", "query").

    BLCF_PROGRESS=on or off overrides the automatic choice.
    """
    return tqdm(
        items,
        desc=label,
        total=total,
        unit=unit,
        disable=not _wanted(),
        leave=False,
        dynamic_ncols=True,
    )
