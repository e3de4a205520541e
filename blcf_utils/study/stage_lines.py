"""What a cell's stages made or reused, in one line that unfolds; outside a notebook a line each."""

from __future__ import annotations

import html
import logging
import sys
from collections.abc import Callable, Sequence

LOG = "blcf"


class StageLines(logging.Handler):
    """Shows records of stages; those of one notebook cell share an output.

    Args:
        cell: returns the number of the cell that runs; None outside a notebook.
        show: shows an output, ``IPython.display.display``; returns a handle that updates it.
    """

    def __init__(self, cell: Callable[[], int | None], show: Callable | None = None):
        super().__init__()
        self._cell, self._show = cell, show
        self._shown: tuple[int, list[str], object] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        line, cell = self.format(record), self._cell()
        if cell is None or record.levelno > logging.INFO:
            # print() prints where it prints at the time: a notebook replaces sys.stdout.
            print(line)
        elif self._shown and self._shown[0] == cell:
            _, lines, handle = self._shown
            lines.append(line)
            handle.update(folded(lines), raw=True)
        else:
            handle = self._show(folded([line]), raw=True, display_id=True)
            self._shown = cell, [line], handle


def folded(lines: Sequence[str]) -> dict[str, str]:
    """Return lines as one that unfolds, by MIME type; a line alone is itself."""
    if len(lines) == 1:
        return {"text/plain": lines[0], "text/html": f"<pre>{html.escape(lines[0])}</pre>"}
    reused = sum(line.endswith("reused") for line in lines)
    what = f"{len(lines)} stages: {reused} reused, {len(lines) - reused} made"
    rest = html.escape("\n".join(lines))
    page = f"<details><summary>{what}</summary><pre>{rest}</pre></details>"
    return {"text/plain": what, "text/html": page}


def show_stages() -> None:
    """Let stages say what they made or reused."""
    log = logging.getLogger(LOG)
    log.setLevel(logging.INFO)
    if any(isinstance(handler, StageLines) for handler in log.handlers):
        return
    # The runner loads other parts of ipykernel: only this one means a kernel.
    if "ipykernel.kernelapp" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        log.addHandler(StageLines(lambda: get_ipython().execution_count, display))
    else:
        log.addHandler(StageLines(lambda: None))
