"""What README, docs/ and CONTRIBUTING give to type exists: commands, flags, settings, imports."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from blcf_utils.cli import _pairs, app
from blcf_utils.config.profile import load_profile
from blcf_utils.run.notebooks import find_notebooks

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "results/README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.S)
INLINE = re.compile(r"`([^`\n]+)`")
# Functions, methods and fields of the package.
MEMBER = re.compile(r"^ *def (\w+)\(|^ {4}(\w+): ", re.M)
SETTING = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


def commands(text: str) -> list[list[str]]:
    """Return the commands of a page as words: those of its blocks and of its sentences."""
    lines = [line for kind, block in FENCE.findall(text) if not kind for line in block.splitlines()]
    lines += INLINE.findall(FENCE.sub("", text))
    found = []
    for line in lines:
        program = re.match(r"(?:[A-Z_]+=\S+ )*((?:\.venv/bin/)?blcf|make) +[a-z]", line)
        if program:
            for part in line[program.start(1) :].split(" && "):
                found.append(shlex.split(part, comments=True))
    return found


def check(words: list[str]) -> None:
    """Fail unless a command exists as it is; one named in a sentence may lack its arguments."""
    program, *rest = words
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in rest:
            name, is_variable, _ = word.partition("=")
            assert re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", makefile, re.M), word
    elif program.endswith("blcf"):
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        try:
            given = command.make_context("blcf", rest).params
        except Exception as error:
            if type(error).__name__ != "MissingParameter":
                raise
            return
        if given.get("notebooks"):
            assert find_notebooks(given["notebooks"])
        if given.get("profile"):
            load_profile(given["profile"], _pairs(given.get("settings"), "--set"))
    else:
        assert program in ("source", "dask"), program


@cache
def members() -> set[str]:
    """Return the names of all functions, methods and fields of the package."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "blcf_utils").rglob("*.py"))
    return {name for source in sources for names in MEMBER.findall(source) for name in names}


def options(command) -> set[str]:
    """Return the options of a command and of all commands below it."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*map(options, getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: Path(page).name)
def test_what_a_page_gives_to_type_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for words in commands(text):
        check(words)
    document, prose = load_profile("mini").document(), FENCE.sub("", text)
    for name in SETTING.findall(" ".join(re.findall(r"`((?!blcf )[^`\n]+)`", prose))):
        first, *rest = name.split(".")
        place = document.get(first)
        for part in rest if place else ():
            assert part in place, name
            place = place[part]
    known = options(typer.main.get_command(app))
    assert {*re.findall(r"`(--[a-z-]+)", prose)} <= known
    for kind, block in FENCE.findall(text):
        for node in ast.walk(ast.parse(block)) if kind == "python" else ():
            if isinstance(node, ast.Attribute):
                assert node.attr in members(), node.attr
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                missing = [one.name for one in node.names if not hasattr(module, one.name)]
                for name in missing:
                    importlib.import_module(f"{node.module}.{name}")


def test_a_command_that_does_not_exist_is_found():
    page = "`blcf run`, `blcf index`\n```\nBLCF_DATA=x blcf run --profile mini  # all\n```"
    assert commands(page) == [
        ["blcf", "run", "--profile", "mini"],
        ["blcf", "run"],
        ["blcf", "index"],
    ]
    for words in commands(page):
        check(words)
    for line in (
        "run --no-such",
        "run --set codebook.wrds=3",
        "run 99_none",
        "run -p none",
        "walk",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each of its own kind
            check(["blcf", *line.split()])
    with pytest.raises(AssertionError):
        check(["make", "nothing"])
