"""Compares prose with `words.toml`.

A finding in a path of `unclean.txt` is counted and tolerated, until that path has been rewritten.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.language.passages import ROOT, files, passages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Word:
    """A pattern that prose must not have, what to write instead, and why."""

    name: str
    pattern: re.Pattern[str]
    better: str
    reason: str
    only_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """A place where a pattern may stay: lines of `path` that contain `text`."""

    path: str
    text: str
    reason: str


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    text: str
    word: Word

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: {self.text!r}: write {self.word.better} "
            f"({self.word.reason}; docs/glossary.md)"
        )


def read_words(path: Path = FOLDER / "words.toml") -> tuple[list[Word], list[Allowed]]:
    """A space in a pattern stands for any white space: prose is wrapped. Raises KeyError."""
    data = tomllib.loads(path.read_text("utf-8"))
    words = [
        Word(
            name,
            re.compile(entry["pattern"].replace(" ", r"\s+")),
            entry["better"],
            entry["reason"],
            tuple(entry.get("only_in", ())),
        )
        for name, entry in data["words"].items()
    ]
    return words, [Allowed(**entry) for entry in data.get("exceptions", ())]


def read_unclean(path: Path = FOLDER / "unclean.txt") -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def is_below(path: Path, places: Sequence[str]) -> bool:
    """Whether one of `places` (files or folders, relative to the root) is `path` or contains it."""
    return any(path.is_relative_to(place) for place in places)


def findings_in(
    path: Path, text: str, words: Sequence[Word], exceptions: Sequence[Allowed] = ()
) -> Iterator[Finding]:
    """`path` is relative to the root: it decides how `text` is read."""
    allowed = [entry.text for entry in exceptions if entry.path == str(path)]
    lines = text.splitlines()
    applicable = [word for word in words if not word.only_in or is_below(path, word.only_in)]
    for passage in passages(path, text):
        for word in applicable:
            for match in word.pattern.finditer(passage.text):
                found = match[0].strip()
                position = match.start() + match[0].index(found)
                line = passage.line + passage.text.count("\n", 0, position)
                if not any(entry in lines[line - 1] for entry in allowed):
                    yield Finding(path, line, " ".join(found.split()), word)


def findings(
    places: Sequence[str] = (), root: Path = ROOT, folder: Path = FOLDER
) -> Iterator[Finding]:
    """All findings below `places` (default: everywhere), those in unclean paths included."""
    words, exceptions = read_words(folder / "words.toml")
    for path in files(root):
        if not places or is_below(path, places):
            text = (root / path).read_text("utf-8")
            yield from findings_in(path, text, words, exceptions)
