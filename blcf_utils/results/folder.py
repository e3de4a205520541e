"""The results of a study: a folder with its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from blcf_utils.ground.artefacts import atomic_path
from blcf_utils.results.published import network_of
from blcf_utils.results.seeds import read_seeds
from blcf_utils.results.tables import Measurement, read_per_query, read_table, write_table


class Results:
    """Writes and reads what a study found.

    Attributes:
        folder: ``results/<profile>``, or a trial's own folder.
        networks: labels of what tables are measured with: ``backbone``, and ``full resolution``
            where maps of large images are pooled.
    """

    def __init__(self, folder: Path, network: str = "", full: str = ""):
        self.folder = folder
        self.networks = {"backbone": network, "full resolution": full or network}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def table(self, table_id: str, measurements: Iterable[Measurement], **options) -> pd.DataFrame:
        """Write a table and return it (see ``tables.write_table``, also for the options)."""
        return write_table(
            table_id, measurements, self.folder, network=self._network(table_id), **options
        )

    def read(self, table_id: str) -> pd.DataFrame:
        """Return a table that was written before.

        Raises:
            StudyError: it was not.
        """
        table = read_table(table_id, self.folder)
        table.attrs["network"] = self._network(table_id)
        return table

    def _network(self, table_id: str) -> str:
        return network_of(table_id, self.networks)

    def per_query(self, table_id: str) -> dict[tuple[str, str], dict[str, float]]:
        """Return a table's AP of every query: (row, column) to query id to AP."""
        return read_per_query(table_id, self.folder)

    def seeds(self, table_id: str) -> pd.DataFrame:
        """Return what every seed gave: columns row, column, seed, value; maybe no line."""
        seeds = read_seeds(self.folder)
        return seeds[seeds["table"] == table_id].drop(columns="table")

    def figure(self, name: str, figure: Figure) -> Figure:
        """Save a figure as ``figures/<name>.png`` and return it for display."""
        with atomic_path(self.folder / "figures" / f"{name}.png") as path:
            # Without the library's version in the file, equal pictures are equal bytes.
            figure.savefig(path, metadata={"Software": None})
        return figure
