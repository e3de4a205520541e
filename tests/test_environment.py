"""environment.yml, pyproject.toml, the Makefile and the citation agree with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def conda() -> list:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


def names(requirements: list[str]) -> list[str]:
    return [re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in requirements]


def test_conda_brings_python_and_pip_and_pip_brings_the_project(conda):
    plain = [line for line in conda if isinstance(line, str)]
    pip = next(line["pip"] for line in conda if isinstance(line, dict))
    assert names(plain) == ["python", "pip"]
    assert plain[0].removeprefix("python") == PROJECT["requires-python"]
    assert len(pip) == 1
    extras = re.fullmatch(r"-e \.\[(.+)\]", pip[0]).group(1).split(",")
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


def test_nothing_is_declared_twice():
    declared = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared += names(extra)
    assert len(declared) == len(set(declared))


def test_every_dependency_has_a_tested_range():
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        assert re.search(r">=[\d.]+,<[\d.]+$", line), line


def test_the_makefile_installs_every_extra_and_checks_the_python_version():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.search(r"-e '\.\[(.+?)\]'", makefile).group(1).split(",")
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])
    oldest = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()
    assert f"sys.version_info < ({', '.join(oldest)})" in makefile


def test_the_citation_names_this_version_and_what_it_reproduces():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [reference["type"] for reference in citation["references"]] == [
        "thesis",
        "conference-paper",
    ]
