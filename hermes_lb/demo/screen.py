"""The demo's output: colours and a spinner on a terminal, the same text plain in a pipe."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType

    from hermes_lb.demo.checks import Check
    from hermes_lb.demo.system import ServerState

# Longer lines are hard to read, however wide the terminal is.
_MOST_COLUMNS = 100
_FEWEST_COLUMNS = 20
_COLOURS = ("cyan", "magenta", "yellow", "blue", "bright_red", "green")
_LONG_ID = re.compile(r"(/(?:sessions|turns)/[^/ ]{6})[^/ ]+")
# States in which a server serves some requests; in states not listed here it serves none.
_STATE_STYLES = {"up": "green", "degraded": "yellow", "drain": "yellow"}
_INDENT = 3
_STREAM_INDENT = 5


class Glyphs(NamedTuple):
    right: str
    left: str
    good: str
    bad: str
    server: str
    cut: str


_UNICODE = Glyphs("→", "←", "✓", "✗", "●", "…")
_ASCII = Glyphs("->", "<-", "ok:", "FAILED:", "*", "..")


class Screen:
    """Prints the demo; also the client's `Listener`."""

    def __init__(self, console: Console, workers: Sequence[str]) -> None:
        self._console = console
        self._width = max(_FEWEST_COLUMNS, min(console.width, _MOST_COLUMNS))
        self._glyphs = _UNICODE if console.encoding.lower().startswith("utf") else _ASCII
        self._styles = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(workers)}
        self._scenes = 0
        self._column = 0  # of the streamed tokens; 0: no such line is open

    # Structure.

    def title(self, text: str, detail: str) -> None:
        gap = max(2, self._width - len(text) - len(detail))
        self._print(Text.assemble((text, "bold"), " " * gap, (detail, "dim")))

    def row(self, name: str, place: str, detail: str = "") -> None:
        shown = Text.assemble((f"{name:<10}", self._style(name)), f"{place:<27}", (detail, "dim"))
        shown.rstrip()
        self.raw(shown)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner on a terminal while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        spinner = "dots" if self._glyphs is _UNICODE else "line"
        with self._console.status(Text(text, "dim"), spinner=spinner):
            yield

    def scene(self, title: str) -> None:
        self._scenes += 1
        self._print("")
        self._print(Text(f"{self._scenes}  {title}", "bold"))

    def heading(self, text: str) -> None:
        self._print("")
        self._print(Text(text, "bold"))

    def line(self, text: str | Text = "", style: str = "") -> None:
        """Indented and wrapped, with a hanging indent."""
        rest = Text(text, style) if isinstance(text, str) else text
        indent = _INDENT
        while rest:
            first = rest.wrap(self._console, self._width - indent)[0]
            rest = rest[max(1, len(first)) :]  # at least a line break
            while rest.plain[:1].isspace():
                rest = rest[1:]
            first.rstrip()
            self._print(Text.assemble(" " * indent, first))
            indent = _INDENT + 2

    def blank(self) -> None:
        self._print("")

    def raw(self, text: str | Text, style: str = "") -> None:
        """Indented, but not wrapped: to be copied, or quoted output."""
        self._print(Text.assemble(" " * _INDENT, (text, style) if isinstance(text, str) else text))

    # Requests and responses.

    def sent(self, method: str, path: str, *details: str) -> None:
        what = Text.assemble((self._glyphs.right, "dim"), f" {method} {self._short(path)}")
        for more in details:
            # Unbroken, on its own line if necessary.
            if _INDENT + len(what) + len(more) + 2 > self._width:
                self.line(what)
                what = Text(" " * 2)
            what.append(f"  {more}", "italic")
        self.line(what)

    def answered(self, status: int, worker: str | None, text: str = "") -> None:
        served_by = (worker or "nobody", f"bold {self._style(worker)}")
        self.line(Text.assemble((self._glyphs.left, "dim"), f" {status} ", served_by, f"  {text}"))

    def token(self, text: str) -> None:
        if self._column and self._column + len(text.rstrip()) > self._width:
            self.ended()
        if not self._column:
            text = " " * _STREAM_INDENT + text.lstrip()
        self._column += len(text)
        self._console.print(Text(text, "green"), end="", soft_wrap=True)

    def tool(self, name: str, arguments: dict[str, Any], result: str) -> None:
        self.ended()
        given = ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())
        called = (f"{name}({given})", "bold")
        self._print(
            Text.assemble(
                " " * _STREAM_INDENT, ("tool ", "dim"), called, f" {self._glyphs.right} {result}"
            )
        )

    def ended(self) -> None:
        """End the line of tokens, if one is open."""
        if self._column:
            self._print("")
        self._column = 0

    # Results.

    def check(self, check: Check, *, quiet: bool = False) -> None:
        """`quiet`: print failures only."""
        if check.held and quiet:
            return
        if check.held:
            self.line(Text.assemble((self._glyphs.good, "bold green"), " ", (check.text, "dim")))
        else:
            self.bad(check.failure)

    def good(self, text: str) -> None:
        self.line(Text.assemble((self._glyphs.good, "bold green"), " ", (text, "bold")))

    def bad(self, text: str) -> None:
        self.line(Text.assemble((self._glyphs.bad, "bold red"), " ", (text, "red")))

    def servers(self, states: Sequence[ServerState]) -> None:
        shown = Text()
        for state in states:
            shown.append(self._glyphs.server, _STATE_STYLES.get(state.state, "red"))
            shown.append(f" {state.name} ", self._style(state.name))
            shown.append(f"{state.state}   ")
        self.line(shown)

    def logged(self, line: str) -> None:
        """A line of the access log."""
        self.line(self._short(line), "dim")

    def _style(self, worker: str | None) -> str:
        return self._styles.get(worker or "", "")

    def _short(self, text: str) -> str:
        return _LONG_ID.sub(rf"\1{self._glyphs.cut}", text)

    def _print(self, what: RenderableType) -> None:
        # Already wrapped.
        self._console.print(what, soft_wrap=True, highlight=False, markup=False)
