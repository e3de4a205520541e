"""What the commands of the workshop share: their options, and saying where the weights are."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import cache_dir, embedded_dir
from blcf_utils.ground.settings import Config

BAD_INPUT = 2


def main(
    about: str,
    settings: type[Config],
    trainings: Mapping[str, Callable[[Config, Path], Path]],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run one training as the command line asks, and print where its weights are.

    Args:
        about: what is trained, for ``--help``.
        settings: the class of the training's settings.
        trainings: name of a network -> function(settings, folder) that returns the weights' path.
        arguments: of the command line; those of this process when None.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("name", choices=trainings, help="the network to train")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the weights go: a folder of the cache, if none; data/embedded, to replace "
        "those the study uses",
    )
    parser.add_argument(
        "--set",
        "-s",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change the training; repeatable. Keys: {', '.join(settings.model_fields)}",
    )
    options = parser.parse_args(arguments)
    try:
        config = _read(settings, options.set)
        folder = options.out or cache_dir() / "training" / f"{options.name}-{config.digest()}"
        weights = trainings[options.name](config, folder)
    except StudyError as error:
        print(f"workshop: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    print(weights)
    if weights.parent.resolve() != embedded_dir().resolve():
        paths = (weights, weights.with_suffix(".json"), embedded_dir())
        print(f"to use them in the study: {shlex.join(['cp', *map(str, paths)])}")


def _read(settings: type[Config], pairs: Sequence[str]) -> Config:
    values = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise StudyError(f"--set {pair}: expected KEY=VALUE")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise StudyError(f"--set {pair}: the value is not YAML; quote it") from None
    try:
        return settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StudyError(f"--set {key}: {first['msg'].lower()}") from None
