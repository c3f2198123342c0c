"""Problems of a configuration, in lines for operators."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyPath = tuple[str | int, ...]
"""Where a value is: `("backends", "agents", "servers", 1, "weight")`; `()` is the whole file."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_MAX_SHOWN = 60  # characters of a wrong value: enough to recognise it on one line


@dataclass(frozen=True)
class Problem:
    """One problem: `key` as `dotted` writes it ("": the file itself), and its line if known.

    `line` counts from 1. `message` names the wrong value and what is allowed.
    """

    key: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigError(ValueError):
    """A configuration that cannot be used: every problem, in the order of the file's lines.

    `source` is the file's name as the caller gave it, or None for a mapping. The text has one line
    a problem, in the form editors and terminals make a link of: `lb.toml:12: key: message`.
    """

    def __init__(self, problems: Iterable[Problem], source: str | None = None) -> None:
        self.problems = tuple(
            sorted(set(problems), key=lambda problem: (problem.line or 0, problem.key))
        )
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        return "\n".join(self._line_of(problem) for problem in self.problems)

    def _line_of(self, problem: Problem) -> str:
        if self.source is None:
            return str(problem)
        line = "" if problem.line is None else f"{problem.line}:"
        return f"{self.source}:{line} {problem}"


def dotted(path: KeyPath) -> str:
    """`("backends", "a b", "servers", 1)` -> `backends."a b".servers[1]`, as TOML quotes keys."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{key}" if text else key
    return text


def quoted(value: object) -> str:
    """A value as the file has it, on one line, cut if it is long."""
    if isinstance(value, str):
        return json.dumps(_shorten(value), ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        shown = [quoted(item) for item in value[:4]] + ["..."] * (len(value) > 4)
        return _shorten(f"[{', '.join(shown)}]")
    return _shorten(str(value))


def any_of(words: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to a mistyped one, or None if none is near."""
    by_letters = {_letters(word): word for word in known}
    near = difflib.get_close_matches(_letters(wrong), by_letters, n=1, cutoff=0.7)
    return by_letters[near[0]] if near else None


def _letters(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
