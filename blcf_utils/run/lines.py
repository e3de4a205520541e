"""Progress of a run: one line per notebook, the current one live on a terminal, quiet in logs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TextIO


class Lines:
    """Writes the lines.

    Args:
        stream: where to.
        names: names of the notebooks, for the width of their column.
    """

    def __init__(self, stream: TextIO, names: Iterable[str]):
        self.stream = stream
        self.live = stream.isatty()
        self.width = max(map(len, names), default=0)
        self.started = 0.0
        self.name = self.reason = ""

    def start(self, name: str, reason: str) -> None:
        """Begin the line of a notebook that runs, for that reason."""
        self.name, self.reason, self.started = name, reason, time.perf_counter()
        self.progress(0, 0)

    def progress(self, cell: int, cells: int) -> None:
        """Renew the live line."""
        if self.live:
            passed = time.perf_counter() - self.started
            where = f", cell {cell} of {cells}" if cell else ""
            self._line(f"{self.name:{self.width}}  running  {passed:7.1f} s{where}", end="")

    def finish(self, name: str, status: str, seconds: float, peak_mb: int | None) -> None:
        """End the line of a notebook."""
        memory = f"  {peak_mb:6,} MB" if peak_mb else ""
        why = f"  ({self.reason})" if status == "done" else ""
        self._line(f"{name:{self.width}}  {status:11}  {seconds:7.1f} s{memory}{why}", end="\n")

    def _line(self, text: str, end: str) -> None:
        erase = "\r\033[K" if self.live else ""
        self.stream.write(f"{erase}{text}{end}")
        self.stream.flush()
