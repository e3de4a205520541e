"""Getting whole datasets: what is missing is downloaded and unpacked, what is there is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blcf_utils.datasets.fetching.archives import is_damaged, unpack
from blcf_utils.datasets.fetching.downloads import fetch_file
from blcf_utils.datasets.fetching.sources import dataset_sources, exists_below
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import datasets_dir


def fetch_dataset(name: str, root: Path | None = None, *, mirrors: Sequence[str] = ()) -> Path:
    """Download and unpack a dataset, or say how to get it.

    Args:
        name: a name in ``data/sources.yaml``.
        root: the folder of all datasets, default BLCF_DATA.
        mirrors: base addresses tried before the official ones.

    Returns:
        The dataset's folder in ``root``.

    Raises:
        StudyError: unknown name, a dataset that only its authors hand out (with what to ask for
            and where to put it), or any failure of ``fetch_file`` and ``unpack``.
    """
    sources = dataset_sources()
    names = {served: key for key, one in sources.items() for served in (*one.also, key)}
    if name not in names:
        raise known("dataset to fetch", name, names)
    name = names[name]
    source = sources[name]
    root = datasets_dir() if root is None else Path(root)
    folder = root / (source.folder or name)
    for needed in source.uses:
        fetch_dataset(needed, root, mirrors=mirrors)
    missing = source.missing(folder)
    damaged = [rule.into for rule in source.unpack if is_damaged(folder / rule.into)]
    if not missing and not damaged:
        print(f"{folder}: complete; nothing to fetch")
        return folder
    if source.kind == "manual":
        raise StudyError(
            f"{name} cannot be fetched: {source.instructions}; put it so that {folder} holds "
            f"{source.layout} (missing now: {', '.join(missing)}), then run again"
        )
    files = {file.name: file for file in source.files}
    for rule in source.unpack:
        if exists_below(folder, rule.gives) and rule.into not in damaged:
            print(f"{folder}: {rule.gives} found; taken as it is")
            continue
        archives = [
            fetch_file(files[one], folder / "downloads", mirrors=mirrors, page=source.page)
            for one in rule.archives
        ]
        unpack(archives, folder / rule.into, flatten=rule.flatten)
    for file in source.plain_files:
        fetch_file(file, folder, mirrors=mirrors, page=source.page)
    for said in filter(None, (source.note, source.after)):
        print(f"{folder}: {said}")
    return folder
