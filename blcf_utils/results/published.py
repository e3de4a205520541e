"""The thesis' published tables as data, with what stands around each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import yaml
from pydantic import Field, ValidationError

from blcf_utils.ground.settings import Config
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import published_dir

COLUMNS = ("row", "column", "value", "note")
# Tables of the study that the thesis does not have.
OWN_TITLES = {
    "x01_backbones": "Words against sums, R-MAC and CroW under other networks (mAP)",
    "x02_localisation": "Overlap of localised windows with known boxes "
    "(mean IoU; /half: share of at least 0.5)",
    "x03_saliency_quality": "Saliency models judged by where the instance is (no mAP; KL: lower "
    "is better)",
    "x04_compactness": "Every compared method: mAP beside size and speed",
    "x05_dimensions": "How many dimensions PCA whitening keeps (mAP)",
    "x06_quantisation": "Dense vectors in product-quantised codes beside the inverted file",
    "x07_projections": "What a random projection to a higher dimension does by itself (mAP)",
    "x08_seen_instances": "Network A on instances it never saw, and trained on all images (mAP)",
    "x09_scaling": "A database that grows: size, build and query time, and mAP among photographs "
    "and synthetic images",
    "x10_resize": "Images resized with antialiasing and plainly (mAP)",
    "x11_codebook_size": "How many words: mAP, size and distinct words of an image by K",
    "x12_burstiness": "Words that repeat and words that many images hold: square root, idf, both (mAP)",
}
# Of those, the ones whose values no network made, or whose rows name their networks.
WITHOUT_NETWORK = ("x01_backbones", "x03_saliency_quality")
# And the columns of mAP of those that hold other values, too.
MAP_COLUMNS = {
    "x04_compactness": ("gs", "ls", "ls+expansion"),
    "x06_quantisation": ("ls",),
    "x11_codebook_size": ("gs", "ls"),
}
OWN_TABLE = re.compile(r"x\d\d_[a-z0-9_]+")


class TableInfo(Config):
    """What stands around a table (``data/published/tables.yaml``).

    Attributes:
        backbone: ``"network layer"``; None where no network is involved, ``unknown`` where the
            slides name none.
        row_backbones: rows whose backbone differs.
        with_network: whether one network made the measured values.
        full_resolution: whether they are of the layer and size of ``sum_pooling.full_layer``.
        rows_are_datasets: a row, not a column, names a dataset.
        tolerance: largest absolute difference that counts as reproduced; a share of the
            published value when ``relative``.
        attributes: columns that describe a row and are not a dataset.
        map_columns: which columns hold mAP where not all do, as they are called after the dataset.
        not_comparable: row or column -> why no measurement can be compared with it.
    """

    title: str
    slide: str = ""
    context: str = ""
    backbone: str | None = None
    row_backbones: dict[str, str | None] = Field(default_factory=dict)
    with_network: bool = True
    full_resolution: bool = False
    rows_are_datasets: bool = False
    decimals: int = Field(3, ge=0)
    tolerance: float = Field(0.01, ge=0)
    relative: bool = False
    tolerance_reason: str = ""
    attributes: tuple[str, ...] = ()
    map_columns: tuple[str, ...] = ()
    not_comparable: dict[str, str] = Field(default_factory=dict)
    notes: str = ""

    def holds_map(self, column: str) -> bool:
        """Return whether a column's values are mAP."""
        if self.map_columns:
            return column.rpartition("/")[2] in self.map_columns
        return "(mAP)" in self.title and column not in self.attributes


@cache
def _read_info(path: Path) -> dict[str, TableInfo]:
    try:
        documents = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {table_id: TableInfo(**values) for table_id, values in documents.items()}
    except (OSError, yaml.YAMLError, ValidationError, AttributeError, TypeError) as error:
        reason = str(error).replace("\n", " ")
        raise StudyError(
            f"{path}: expected the settings of each published table ({reason})"
        ) from None


def published_ids() -> list[str]:
    """Return the ids of the thesis' tables, in the order of the slides."""
    return list(_read_info(published_dir() / "tables.yaml"))


def table_info(table_id: str) -> TableInfo:
    """Return what stands around a table; a table the thesis does not have gets plain defaults.

    Raises:
        StudyError: the id is neither published nor of the form ``x01_name``.
    """
    infos = _read_info(published_dir() / "tables.yaml")
    if table_id in infos:
        return infos[table_id]
    if OWN_TABLE.fullmatch(table_id):
        plain = table_id.partition("_")[2].replace("_", " ").capitalize()
        title = OWN_TITLES.get(table_id, plain)
        return TableInfo(
            title=title,
            with_network=table_id not in WITHOUT_NETWORK,
            map_columns=MAP_COLUMNS.get(table_id, ()),
        )
    raise known("table", table_id, [*infos, "x01_name (a table of your own)"])


def network_of(table_id: str, networks: Mapping[str, str]) -> str:
    """Return the label of the network that a table is measured with.

    Args:
        table_id: the table.
        networks: labels ``backbone`` and ``full resolution``; without them it is unknown, "".
    """
    full = table_info(table_id).full_resolution
    return networks.get("full resolution" if full else "backbone", "")


def load_published(table_id: str) -> pd.DataFrame:
    """Return a published table in long form; empty for a table the thesis does not have.

    Returns:
        Columns row, column, value, note, all text as printed in the slides; a blank value is "".
    """
    table_info(table_id)
    path = published_dir() / f"{table_id}.csv"
    if OWN_TABLE.fullmatch(table_id):
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    return read_published(path, COLUMNS)


def read_published(path: Path, header: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV of ``data/published`` as text, blanks as "".

    Raises:
        StudyError: an unreadable file or another header.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path}: cannot be read ({error}); restore it from the repository"
        ) from None
    if tuple(table.columns) != header:
        raise StudyError(
            f"{path}: expected the header {','.join(header)}, found {','.join(table.columns)}"
        )
    return table


def dataset_of(column: str) -> str:
    """Return the dataset of a column: ``oxford5k`` of ``oxford5k+qaug`` or ``oxford5k/gs``."""
    return re.split(r"[/+]", column, maxsplit=1)[0]


def number(text: object) -> float | None:
    """Return ``text`` as a number, or None where it is blank, a range or words."""
    try:
        return float(str(text))
    except ValueError:
        return None
