"""A configuration file's bytes -> its text and its tables; or the one problem that prevents it."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes_lb.config.lines import LineIndex
from hermes_lb.options.problems import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_NAMESPACE = re.compile(r"\((.*?),?\)")
_QUOTES_HINT = 'text, durations and addresses need quotes, such as interval = "5s"'
# tomllib's messages that need an explanation: a pattern, and the text that replaces it.
_IN_WORDS = [
    (r"Invalid value", f"this is no value of TOML; {_QUOTES_HINT}"),
    (
        r"Expected newline or end of document after a statement",
        f"the line should end here; {_QUOTES_HINT}",
    ),
    (r"Cannot overwrite a value", "this key is given a second time"),
    (r"Cannot declare (.*) twice", r"the table [\1] is given already, above"),
    (
        r"Cannot (?:mutate immutable|redefine) namespace (.*)",
        r"the table \1 is complete already; keys cannot be added to it here",
    ),
    (r"Invalid statement", 'neither a "key = value", nor a [table], nor a # comment'),
]


class Source(NamedTuple):
    """A file that is valid TOML."""

    text: str
    tables: dict[str, Any]


def read_source(path: Path, name: str) -> Source:
    """Read and parse a TOML file; `name` is what messages call it.

    Raises ConfigError with one problem: the file cannot be read, or is not TOML.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _refused(name, None, "there is no such file") from None
    except IsADirectoryError:
        raise _refused(name, None, "this is a directory; name the file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(name, None, f"the file cannot be read: {reason}") from None
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file in that encoding"
        raise _refused(name, line, wrong) from None
    try:
        return Source(text, tomllib.loads(text))
    except ValueError as error:
        raise _refused(name, *_explain_syntax(text, str(error))) from None
    except RecursionError:
        raise _refused(name, None, "the values are nested too deeply") from None


def _explain_syntax(text: str, complaint: str) -> tuple[int | None, str]:
    """tomllib's complaint -> a line from 1, and a message that starts with the column."""
    place = _PLACE.search(complaint)
    if place is None:
        return None, complaint
    what = complaint[: place.start()]
    for pattern, words in _IN_WORDS:
        if match := re.fullmatch(pattern, what):
            what = match.expand(words)
            break
    what = _NAMESPACE.sub(lambda match: match[1].replace("'", "").replace(", ", "."), what)
    lines = text.rstrip("\n").split("\n")
    line = int(place[1]) if place[1] else len(lines)
    column = int(place[2]) if place[2] else len(lines[-1]) + 1
    started = LineIndex(text).unfinished
    if started is not None and started < line:
        # An unclosed bracket is noticed only where the next statement does not fit into it.
        what += f" (in the value that starts on line {started})"
    return line, f"column {column}: {what}"


def _refused(name: str, line: int | None, message: str) -> ConfigError:
    return ConfigError([Problem("", line, message)], name)
