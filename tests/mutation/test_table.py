"""The table of mutants is up to date: each fault can still be put in, and its tests are there.

`make mutants` shows that the tests fail; that takes minutes, and is no part of `make test`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from agent_worker.redis_server import RedisServer
from tests.mutation.table import FOLDER, ROOT, Mutant, Stale, load

if TYPE_CHECKING:
    from pathlib import Path

MUTANTS = load()
AREAS = {
    "affinity", "back-pressure", "checks", "closing", "discovery", "drain", "framing", "hop-by-hop",
    "http2",
    "leases", "limits", "passive", "phases", "queue", "retries", "reuse", "routes", "session-keys",
    "sessions", "streams", "turns",
}  # fmt: skip


def test_each_area_has_mutants() -> None:
    assert {mutant.name.partition("/")[0] for mutant in MUTANTS} == AREAS
    assert {path.stem for path in FOLDER.iterdir()} == AREAS
    assert len(MUTANTS) >= 50


@cache
def applied() -> tuple[dict[Mutant, str], list[str]]:
    """The texts with the faults in them, and what is stale."""
    texts, stale = {}, []
    for mutant in MUTANTS:
        try:
            texts[mutant] = mutant.apply((ROOT / mutant.file).read_text("utf-8"))
        except (Stale, OSError) as error:
            stale.append(f"{mutant.name}: {error}")
    return texts, stale


def test_each_text_is_still_there() -> None:
    _, stale = applied()
    assert stale == []


def test_each_test_is_still_there() -> None:
    missing = []
    for mutant in MUTANTS:
        for test in mutant.tests:
            file, *names = test.split("::")
            if not ((ROOT / file).is_file() and set(names) <= names_in(file)):
                missing.append(f"{mutant.name}: {test}")
    assert missing == []


@cache
def names_in(file: str) -> set[str]:
    """Of the functions and classes that a file defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, kinds)}


def test_no_mutant_is_nonsense(tmp_path: Path) -> None:
    """A syntax error or an undefined name would fail any test, and say nothing of it."""
    for number, (mutant, text) in enumerate(applied()[0].items()):
        if mutant.file.endswith(".py"):
            (tmp_path / f"{number}.py").write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "-q", "--isolated", "--no-cache"]
    found = subprocess.run(
        [*command, "--target-version", "py311", "--select", "E9,F821", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_no_script_is_nonsense() -> None:
    """The same for Lua: Redis compiles each script."""
    broken = []
    with RedisServer.start() as server, Redis.from_url(server.url) as redis:
        for mutant, text in applied()[0].items():
            if mutant.file.endswith(".lua"):
                try:
                    redis.script_load(text)
                except ResponseError as error:
                    broken.append(f"{mutant.name}: {error}")
    assert broken == []


def mutant(**changes: str) -> Mutant:
    values = {"name": "a/b", "breaks": "", "file": "f.py", "old": "x = 1", "new": "x = 2"}
    return Mutant(**{**values, **changes}, tests=())


def test_a_mutant_changes_one_place() -> None:
    text = "def f():\n    x = 1\n\ndef g():\n    x = 1\n    x = 1\n"
    assert mutant(old="def f").apply(text).startswith("x = 2():")
    behind = mutant(after="def g").apply(text)
    assert behind == "def f():\n    x = 1\n\ndef g():\n    x = 2\n    x = 1\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"old": "y = 1"},
        {"old": "x = 1"},
        {"after": "def"},
        {"after": "def h"},
        {"after": "def g", "old": "def f"},
    ],
    ids=["gone", "not the only one", "anchor not the only one", "anchor gone", "before the anchor"],
)
def test_a_text_that_is_gone_or_not_the_only_one_is_stale(changes: dict[str, str]) -> None:
    with pytest.raises(Stale):
        mutant(**changes).apply("def f():\n    x = 1\n\ndef g():\n    x = 1\n")


@pytest.mark.parametrize(
    "entry",
    [
        "breaks = 'it'",
        "file = 'f'\nbreaks = 'it'\nold = 'a'\nnew = 'b'\ntests = []",
        "file = 'f'\nbreaks = 'it'\nold = 'a'\nnew = 'a'\ntests = ['t']",
        "file = 'f'\nbreaks = 'it'\nold = 'a'\nnew = 'b'\ntests = ['t']\nafther = 'c'",
    ],
    ids=["keys are missing", "no tests", "no change", "a key that there is not"],
)
def test_a_bad_entry_is_named(tmp_path: Path, entry: str) -> None:
    (tmp_path / "area.toml").write_text(f"[name]\n{entry}\n")
    with pytest.raises(ValueError, match="area/name"):
        load(tmp_path)
