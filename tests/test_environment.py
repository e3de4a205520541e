"""environment.yml, pyproject.toml, the Makefile and the citation agree with one another."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
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


@pytest.mark.parametrize(
    ("folder", "extras"), [("blcf_utils", []), ("benchmarks", ["test"]), ("tests", ["test"])]
)
def test_what_is_imported_is_declared(folder, extras):
    imported = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            imported |= {module.split(".")[0]: path.name for module in modules}
    declared = [*names(PROJECT["dependencies"]), PROJECT["name"]]
    for extra in extras:
        declared += names(PROJECT["optional-dependencies"][extra])
    own = {path.stem for path in (ROOT / folder).iterdir()} | {"blcf_utils"}
    providers = importlib.metadata.packages_distributions()
    for module in set(imported) - own - set(sys.stdlib_module_names):
        found = {name.lower().replace("_", "-") for name in providers.get(module, [])}
        assert found & set(declared), f"{imported[module]} imports {module}, which is not declared"


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
        "conference-paper",
    ]
    addresses = [reference["url"] for reference in citation["references"]]
    assert addresses[1:] == [
        "https://arxiv.org/abs/1604.04653",
        "https://arxiv.org/abs/1711.10795",
    ]
