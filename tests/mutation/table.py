"""The table of mutants: `mutants/AREA.toml`, one table for each mutant.

    [pick-a-name]
    breaks = "what goes wrong with it, for a user"
    file = "hermes_lb/http/body.py"
    after = "def feed"         # optional: a text that occurs once; `old` is looked for behind it
    old = "return data[:left]"
    new = "return data"
    tests = ["tests/http/test_body.py::test_name"]

`old` occurs exactly once in the file, or, with `after`, at least once behind that: the first one is
meant. `tests` are pytest's node ids without parameters; each is run until one fails.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "mutants"


class Stale(Exception):
    """The text that a mutant replaces is not in its file, or is there more than once."""


@dataclass(frozen=True)
class Mutant:
    """One fault. `name` is `area/name`; `file` is relative to the root of the repository."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    after: str = ""

    def apply(self, text: str) -> str:
        """The file's text with the fault in it. Raises Stale."""
        start = 0
        if self.after:
            start = _only(text, self.after) + len(self.after)
            position = text.find(self.old, start)
            if position < 0:
                raise Stale(f"{self.old!r} does not occur behind {self.after!r}")
        else:
            position = _only(text, self.old)
        return text[:position] + self.new + text[position + len(self.old) :]


def _only(text: str, part: str) -> int:
    count = text.count(part)
    if count != 1:
        raise Stale(f"{part!r} occurs {count} times")
    return text.index(part)


def load(folder: Path = FOLDER) -> list[Mutant]:
    """All mutants, by area and in the order of their files. Raises ValueError for a bad entry."""
    mutants = []
    for path in sorted(folder.glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text("utf-8")).items():
            mutants.append(_mutant(f"{path.stem}/{name}", entry))
    return mutants


def _mutant(name: str, entry: dict[str, Any]) -> Mutant:
    try:
        mutant = Mutant(name, **{**entry, "tests": tuple(entry["tests"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    if not mutant.tests or mutant.old == mutant.new:
        raise ValueError(f"{name}: it has no tests, or changes nothing")
    return mutant
