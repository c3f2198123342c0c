"""Prose in the files of the repository: docstrings, comments, messages, Markdown.

Python is read by `ast` and `tokenize`: a word in code, or in the data of a test, is not prose.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# Glob patterns from the root -> how such a file is read.
_PYTHON = ("hermes_lb/**/*.py", "agent_worker/**/*.py", "tests/**/*.py", "bench/**/*.py")
_MARKDOWN = ("*.md", "docs/**/*.md", "bench/**/*.md")
_LUA = ("agent_worker/**/*.lua",)
_COMMENTS = ("Makefile", ".ci/run", "pyproject.toml", "configs/*.toml", "configs/*.s*")
_WHOLE = ("configs/*.yml",)

_LOGGING = frozenset(
    {"debug", "info", "warning", "error", "exception", "critical", "echo", "secho", "print"}
)
# Fewer are the names of fields and commands, not prose.
_FEWEST_SPACES = 2
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
# A comment that begins outside of quotes.
_HASH = re.compile(r"""^(?:[^"'#]|"(?:\\.|[^"\\])*"|'[^']*'|['"])*?#(.*)$""")
_DASHES = re.compile(r"^.*?--(.*)$")


class Passage(NamedTuple):
    """A text that is read as one: a docstring, adjacent comment lines, a message, a page."""

    line: int
    text: str


def files(root: Path = ROOT) -> Iterator[Path]:
    """Every file with prose, relative to `root`."""
    for pattern in (*_PYTHON, *_MARKDOWN, *_LUA, *_COMMENTS, *_WHOLE):
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root)


def passages(path: Path, text: str) -> list[Passage]:
    """The prose of a file, by the kind that its name says."""
    if path.suffix == ".py":
        tree = ast.parse(text)
        found = dict.fromkeys(_docstrings_and_messages(tree))
        if path.parts[0] != "tests":  # there they are data
            found |= dict.fromkeys(_sentences(tree))
        return [*found, *_python_comments(text)]
    if path.suffix == ".md":
        return [Passage(1, _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text))]
    if path.suffix == ".yml":
        return [Passage(1, text)]
    return _comments(text, _DASHES if path.suffix == ".lua" else _HASH)


def _docstrings_and_messages(tree: ast.Module) -> Iterator[Passage]:
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                match node.body:
                    case [ast.Expr(ast.Constant(str(text)) as constant), *_]:
                        yield Passage(constant.lineno, text)
            case ast.Raise(exc=ast.Call() as call):
                yield from _strings(call)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _LOGGING:
                yield from _strings(node)


def _strings(call: ast.Call) -> Iterator[Passage]:
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        for node in ast.walk(argument):
            match node:
                case ast.Constant(str(text)):
                    yield Passage(node.lineno, text)


def _sentences(tree: ast.Module) -> Iterator[Passage]:
    """Strings of some words: help, descriptions, reasons, whatever function they are given to."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(str(text)) if text.count(" ") >= _FEWEST_SPACES:
                yield Passage(node.lineno, text)


def _python_comments(text: str) -> list[Passage]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return _joined(
        (token.start[0], token.string.lstrip("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    )


def _comments(text: str, pattern: re.Pattern[str]) -> list[Passage]:
    found = ((number, pattern.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return _joined((number, match[1]) for number, match in found if match)


def _joined(lines: Iterator[tuple[int, str]]) -> list[Passage]:
    """Adjacent lines are one passage: a sentence may go over several of them."""
    joined: list[Passage] = []
    for number, text in lines:
        last = joined[-1] if joined else None
        if last and last.line + last.text.count("\n") + 1 == number:
            joined[-1] = Passage(last.line, f"{last.text}\n{text}")
        else:
            joined.append(Passage(number, text))
    return joined
