"""Tables on terminals of every width: columns are dropped, words are not broken."""

from __future__ import annotations

import io
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from hermes_lb.control import views
from hermes_lb.control.history import History
from hermes_lb.ctl import tables, top
from tests.support.operator import FakeOperator, session

if TYPE_CHECKING:
    from hermes_lb.control.operator import Operator
    from hermes_lb.control.shapes import Moment

WIDTHS = (40, 60, 80, 120, 10_000)


def shown(width: int, *parts: Any) -> list[str]:
    """Lines on a terminal of that width."""
    file = io.StringIO()
    screen = Console(file=file, width=width, height=10, force_terminal=False)
    for part in parts:
        screen.print(part)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.fixture
def operator() -> FakeOperator:
    operator = FakeOperator()
    operator.server("agent1").set_up(False, "connection refused")
    operator.running = [session(), session(server=None, phase="Q")]
    return operator


def servers(operator: FakeOperator, width: int) -> list[str]:
    rows = views.describe_servers(operator.observed, operator.now())
    return shown(width, *tables.servers(rows))


def described(operator: Operator, history: History) -> Moment:
    """As an event of the live stream has it."""
    servers = list(views.sampled_servers(operator, history))
    return {**views.describe_moment(operator, history, time.time()), "servers": servers}


def moment(operator: Operator) -> list[Any]:
    history = History(operator.observed.pools)
    now = operator.now()
    list(history.sample(now, time.time()))
    return [top.view(described(operator, history))]


@pytest.mark.parametrize("width", WIDTHS)
def test_each_server_is_one_line_with_its_state(operator: FakeOperator, width: int) -> None:
    title, agent1, agent2 = servers(operator, width)
    assert title.startswith("SERVER")
    assert agent1.split()[0] == "agents/agent1"
    assert "down" in agent1.split()
    assert agent2.startswith("agents/agent2 (backup)")
    assert "up" in agent2.split()


def test_the_wider_the_more_is_shown(operator: FakeOperator) -> None:
    titles = [servers(operator, width)[0].split("  ") for width in WIDTHS]
    shown_at = [{title.strip() for title in words if title} for words in titles]
    for narrow, wide in pairwise(shown_at):
        assert narrow <= wide
    assert shown_at[0] >= {"SERVER", "STATE"}
    assert "IN FLIGHT" in shown_at[1]
    assert "WHY" in shown_at[2]
    assert len(shown_at[-1]) == 11


@pytest.mark.parametrize("width", WIDTHS)
def test_top_has_a_line_for_each_backend_and_server(operator: FakeOperator, width: int) -> None:
    lines = shown(width, *moment(operator))
    start = next(place for place, line in enumerate(lines) if line.startswith("BACKEND/SERVER"))
    backend, agent1, agent2 = lines[start + 1 :]
    assert backend.startswith("agents ")
    assert agent1.split()[:2] == ["agent1", "down"]
    assert agent2.split()[:2] == ["agent2", "up"]
    assert start < 4  # of the ten lines of a small terminal


@pytest.mark.parametrize("width", WIDTHS)
def test_each_session_is_one_line(operator: FakeOperator, width: int) -> None:
    answer = {"total": 2, "sessions": operator.running}
    title, one, waiting = shown(width, *tables.sessions(answer))
    assert "SERVER" in title.split()
    assert "agents/agent1" in one.split()
    assert "agents/-" in waiting.split()
    assert one.endswith("POST /chat")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_status_breaks_no_word(operator: FakeOperator, width: int) -> None:
    status = views.describe_status(operator)
    words = " ".join(shown(width, *tables.status(status))).split()
    assert {"BACKEND", "agents", "FRONTEND", "public", "PROCESS", "4711"} <= set(words)
    assert {"ROUTE", "/v1/*,", "POST"} <= set(words)
    if width >= 80:
        assert {"turns,", "resume"} <= set(words)


def test_what_fits_nowhere_is_folded_and_not_lost() -> None:
    operator = FakeOperator()
    name = "a-name-of-more-than-forty-characters-in-all-and-more"
    operator.server("agent1").name = name
    title, *lines = servers(operator, 40)
    assert title.split() == ["SERVER", "STATE"]
    assert f"agents/{name}" in "".join(line.split()[0] for line in lines[:2])


def test_top_says_how_much_does_not_fit(operator: FakeOperator) -> None:
    [whole] = moment(operator)
    everything = shown(80, whole)
    assert shown(80, top.Cut(whole)) == everything
    many = tables.Table(["NAME"], [[f"server{number}"] for number in range(1200)])
    lines = shown(80, top.Cut(many))
    assert lines == [
        "NAME",
        *(f"server{number}" for number in range(8)),
        "1,192 more lines: `hermes-lb ctl servers` shows all",
    ]
    narrow = shown(20, top.Cut(many))
    assert len(narrow) == 10
    assert max(map(len, narrow)) <= 20


@pytest.mark.parametrize("checked", [True, False])
def test_a_state_is_green_only_if_a_check_has_said_so(
    operator: FakeOperator, checked: bool
) -> None:
    agent2 = operator.server("agent2")
    agent2.last_check = "200 in 3 ms" if checked else ""
    _, described = views.describe_servers(operator.observed, operator.now())
    state = tables.state(described)
    assert (state.plain, state.style) == ("up", "green" if checked else "bright_black")


def test_top_shows_the_time_that_turns_take(operator: FakeOperator) -> None:
    history = History(operator.observed.pools)
    now = operator.now()
    list(history.sample(now, time.time()))
    counters = operator.server("agent2").counters
    for _ in range(100):
        counters.responses[2] += 1
        counters.at_once.observe(31.0)
    list(history.sample(now + 1.0, time.time()))
    lines = shown(200, top.view(described(operator, history)))
    for name in ("agents ", "agent2 "):
        [line] = [line for line in lines if line.strip().startswith(name)]
        assert line.split()[-8:] == ["31.3", "s"] * 4
