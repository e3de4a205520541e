"""Verified copies of files that other people host: several addresses, never half a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pooch

from blcf_utils.datasets.fetching.sources import FileSource
from blcf_utils.datasets.fetching.transfer import AddressError, ResumingDownloader, misfit
from blcf_utils.ground.artefacts import write_json
from blcf_utils.ground.errors import StudyError

RECORD = "checksums.json"
MEND = "delete it, or put the right file there, and run again"

pooch.get_logger().setLevel("WARNING")


def fetch_file(
    source: FileSource,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    page: str = "",
    variable: str = "BLCF_DATA",
) -> Path:
    """Return a verified local copy of one file, downloading what is missing of it.

    A file that lies in ``folder`` already, also one put there by hand, is verified and used. Its
    sha256 is recorded in ``checksums.json`` beside it. Where no checksum is published, the one
    recorded there is expected; the first file is taken as it comes.

    Args:
        source: name, addresses, and size and checksum where they are published.
        folder: where the file goes.
        mirrors: base addresses tried before the source's own.
        page: where a person reads about the file, for messages.
        variable: the environment variable that moves ``folder``, for messages.

    Returns:
        ``folder / source.name``.

    Raises:
        StudyError: every address failed (each with its reason), a wrong file in place, or a full
            disk.
    """
    target = Path(folder) / source.name
    record = _recorded(target.parent)
    old = record.get(source.name, {})
    known, origin = source.checksum, "published"
    if not known and old:
        known, origin = f"sha256:{old['sha256']}", f"recorded in {target.parent / RECORD}"
    try:
        if target.is_file():
            check_size(source, target)
            if known and not (found := _hash(target, known)).startswith(known):
                raise StudyError(f"{target}: has {found}, expected {known} ({origin}); {MEND}")
            url = old.get("from", "put there by hand")
        else:
            addresses = [f"{mirror.rstrip('/')}/{source.name}" for mirror in mirrors]
            url, reasons = _try([*addresses, *source.urls], source, target, known, variable)
            if not url:
                about = f", see {page}" if page else ""
                wrong = f" (checksums are {origin})" if known else ""
                raise StudyError(
                    f"{source.name} could not be downloaded: {'; '.join(reasons)}{wrong}; run "
                    f"again to continue, name a mirror, or put the file at {target} by hand and "
                    f"run again{about}"
                )
        whole = known.startswith("sha256:") and len(known) == len("sha256:") + 64
        sha256 = known if whole else _hash(target, "sha256:")
        size = target.stat().st_size
        entry = {"sha256": sha256.removeprefix("sha256:"), "bytes": size, "from": url}
        if entry != old:
            write_json(target.parent / RECORD, {**record, source.name: entry})
    except OSError as error:
        raise StudyError(
            f"{target}: cannot be written ({error.strerror or error}); expected a folder of yours "
            f"with free space, so mend it or set {variable} to another one"
        ) from None
    if not known:
        print(
            f"NOTE: no checksum is published for {source.name}; recorded {sha256} in "
            f"{target.parent / RECORD}, copy that file to compare on another machine"
        )
    return target


def check_size(source: FileSource, path: Path) -> None:
    """Refuse a file in place whose size is not the published one, or not a believable one.

    Raises:
        StudyError: it has another size.
    """
    if wrong := misfit(path.stat().st_size, source.sizes):
        raise StudyError(f"{path}: {wrong}; {MEND}")


def _try(
    urls: Sequence[str], source: FileSource, target: Path, known: str, variable: str
) -> tuple[str, list[str]]:
    """Return the address that gave the file, or nothing, and why the ones before did not."""
    reasons = []
    for url in urls:
        part = f"{target.name}.part-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        downloader = ResumingDownloader(target.with_name(part), source.sizes, variable)

        def download(url, output_file, pooch=None, to=downloader) -> None:
            to(url, output_file, pooch)
            if known and not (found := _hash(Path(output_file), known)).startswith(known):
                raise AddressError(f"expected {known} but got {found.partition(':')[2]}")

        try:
            pooch.retrieve(url, None, target.name, target.parent, downloader=download)
        except AddressError as error:
            reasons.append(f"{url}: {error}")
        else:
            for left_over in target.parent.glob(f"{target.name}.part-*"):
                left_over.unlink()
            return url, reasons
    return "", reasons


def _hash(path: Path, like: str) -> str:
    """Return ``algorithm:digest`` of a file, by the algorithm of another checksum."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _recorded(folder: Path) -> dict[str, dict]:
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: {"sha256": entry["sha256"], **entry} for name, entry in record.items()}
    except (ValueError, AttributeError, TypeError, KeyError):
        raise StudyError(
            f"{path}: expected JSON that names files with sha256 and bytes, as this command "
            "writes it; mend or delete it"
        ) from None
