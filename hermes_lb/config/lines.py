"""The line of each key of a TOML file, which `tomllib` does not report.

There is no second TOML grammar here that could differ from the first. A statement is the shortest
run of lines that `tomllib` parses on its own, and the result shows which keys it gives; only two
facts of the syntax are used besides: a statement that starts with "[" is a table's header, and one
of several lines ends with the bracket or the quotes that close its value. The whole file is parsed
about twice over, one statement at a time: linear, where parsing every prefix would be quadratic.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.options.problems import KeyPath

# How the last line of a statement of several lines ends. Parsing waits for such a line, so that a
# long array costs few trials. ("}" alone: TOML 1.1 lets an inline table have several lines.)
_CAN_CLOSE = re.compile(r"""(?:\]|\}|\"{3}|'{3})[ \t]*(?:\#.*)?$""")


class LineIndex:
    """The line of every key of a TOML document, from 1.

    `source` must be a text that `tomllib` parses, or the start of one (see `unfinished`). A key
    has the line on which the statement that first gives it starts; the keys inside an inline table
    and the elements of an array have their statement's line. A table with a header of its own has
    the header's line, even if a sub-table's header came first.
    """

    def __init__(self, source: str) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # arrays of tables: their elements so far
        self.unfinished: int | None = None
        """The line of the first statement that does not parse, or None: all of them do."""
        table: KeyPath = ()
        for line, text, parsed in self._statements(source):
            if text.lstrip().startswith("["):
                table = self._enter(parsed, line)
            else:
                self._record(table, parsed, line)

    def line_of(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest table around it that is in the file, or None."""
        while path:
            if (line := self._lines.get(path)) is not None:
                return line
            path = path[:-1]
        return None

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._lines

    def _statements(self, source: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Each statement's first line, its text, and what it parses to on its own."""
        pending: list[str] = []
        start = 1
        for number, line in enumerate(source.replace("\r\n", "\n").split("\n"), start=1):
            if not pending:
                start = number
            pending.append(line)
            if len(pending) > 1 and not _CAN_CLOSE.search(line):
                continue
            text = "\n".join(pending)
            try:
                parsed = tomllib.loads(text)
            except ValueError:
                continue
            yield start, text, parsed
            pending.clear()
        self.unfinished = start if pending else None

    def _enter(self, parsed: dict[str, Any], line: int) -> KeyPath:
        """A header: note the tables on its way, and return the path of the table it opens."""
        path: KeyPath = ()
        node = parsed
        while node:
            ((key, value),) = node.items()
            path = (*path, key)
            self._lines.setdefault(path, line)
            if isinstance(value, list):  # [[path]]: one element more
                self._lengths[path] = self._lengths.get(path, 0) + 1
                value = value[0]
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
                self._lines.setdefault(path, line)
            node = value
        if not isinstance(path[-1], int):
            self._lines[path] = line
        return path

    def _record(self, path: KeyPath, value: object, line: int) -> None:
        items: Any = ()
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, list):
            items = enumerate(value)
        for key, item in items:
            self._lines.setdefault((*path, key), line)
            self._record((*path, key), item, line)
