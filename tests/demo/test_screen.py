"""Output on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hermes_lb.demo import checks
from hermes_lb.demo.screen import Screen
from hermes_lb.demo.system import ServerState


class Shown:
    def __init__(self, *, width: int = 80, terminal: bool = False, encoding: str = "utf-8") -> None:
        self._bytes = io.BytesIO()
        file = io.TextIOWrapper(self._bytes, encoding=encoding, write_through=True)
        console = Console(file=file, width=width, force_terminal=terminal)
        self.screen = Screen(console, ["agent1", "agent2"])
        self._encoding = encoding

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode(self._encoding)


def test_tokens_are_wrapped_as_they_come() -> None:
    shown = Shown(width=20)
    for token in ("The", " agent", " reads", " every", " message."):
        shown.screen.token(token)
    assert shown.text == "     The agent reads\n     every message."
    shown.screen.tool("clock", {}, "12:00")
    shown.screen.token(" Told.")
    shown.screen.ended()
    assert shown.text.splitlines()[2:] == ["     tool clock() → 12:00", "     Told."]


def test_long_lines_hang_and_session_ids_are_short() -> None:
    shown = Shown(width=50)
    shown.screen.sent("POST", "/api/agent/sessions/abcdefghijklmn/messages", '"a long question"')
    shown.screen.logged("one two three four five six seven eight nine ten eleven")
    assert shown.text.splitlines() == [
        "   → POST /api/agent/sessions/abcdef…/messages",
        '       "a long question"',
        "   one two three four five six seven eight nine",
        "     ten eleven",
    ]


def test_a_pipe_of_ascii_gets_ascii() -> None:
    shown = Shown(encoding="ascii")
    shown.screen.answered(200, "agent1", "hello")
    shown.screen.servers([ServerState("agent1", "127.0.0.1:1", "down", False, 0)])
    shown.screen.bad("worse")
    assert shown.text.splitlines() == [
        "   <- 200 agent1  hello",
        "   * agent1 down",
        "   FAILED: worse",
    ]


@pytest.mark.parametrize("state", ["up", "degraded", "drain", "ejected", "maint", "unheard-of"])
def test_a_state_is_shown_by_the_name_that_the_api_has_for_it(state: str) -> None:
    shown = Shown()
    shown.screen.servers(
        [ServerState("agent1", "", state, True, 0), ServerState("agent2", "", "up", True, 0)]
    )
    assert shown.text.split()[1:3] == ["agent1", state]
    assert shown.text.split()[4:] == ["agent2", "up"]


@pytest.mark.parametrize(
    ("state", "colour"), [("up", 32), ("degraded", 33), ("drain", 33), ("down", 31), ("?", 31)]
)
def test_green_serves_yellow_serves_some_red_serves_nobody(state: str, colour: int) -> None:
    shown = Shown(terminal=True)
    shown.screen.servers([ServerState("agent1", "", state, True, 0)])
    assert f"\x1b[{colour}m" in shown.text


def test_a_terminal_gets_colours() -> None:
    shown = Shown(terminal=True)
    shown.screen.answered(200, "agent2")
    assert "\x1b[1;35magent2" in shown.text


def test_a_quiet_check_speaks_only_of_failure() -> None:
    shown = Shown()
    shown.screen.check(checks.Check("all is well", True, "", ""), quiet=True)
    assert shown.text == ""
    shown.screen.check(checks.Check("all is well", False, "1", "2"), quiet=True)
    assert shown.text == "   ✗ all is well: expected 1, got 2\n"
