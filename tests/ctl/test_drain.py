"""Progress of `ctl drain --wait`."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import pytest
from rich.console import Console

from hermes_lb.ctl import drain
from hermes_lb.ctl.errors import CtlError

if TYPE_CHECKING:
    from hermes_lb.ctl.client import AdminClient


class Scripted:
    """A listener that reports these numbers of requests, one per poll."""

    def __init__(self, *left: int, state: str = "drain", admin: str = "drain") -> None:
        self._answers = [self.server(number) for number in left]
        self._answers[-1].update(state=state, admin=admin)
        self.untold = [0]  # the processes' own answers

    def server(self, left: int) -> dict[str, Any]:
        return {
            "backend": "a", "name": "b", "state": "drain", "admin": "drain",
            "in_flight": left, "queued": 0,
        }  # fmt: skip

    def look_at(self, server: dict[str, Any]) -> dict[str, Any]:
        assert (server["backend"], server["name"]) == ("a", "b")
        return self._answers.pop(0)

    def running_on(self, server: dict[str, Any]) -> int:
        return self.untold.pop(0) if len(self.untold) > 1 else self.untold[0]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_EVERY", 0.0)


def wait(first: int, *then: int, screen: Console | None = None, **last: str) -> int:
    """`last`: "state" and "admin" at the last poll."""
    script = Scripted(*then, **last) if then else Scripted(0)
    client = cast("AdminClient", script)
    return drain.wait_until_drained(client, script.server(first), None, screen)


def test_in_a_pipe_each_new_number_is_a_line() -> None:
    file = StringIO()
    assert wait(3, 3, 2, 2, 5, 0, screen=Console(file=file, highlight=False)) == 0
    assert [line.rpartition(" after ")[0] for line in file.getvalue().splitlines()] == [
        "a/b: 3 of 3 left",
        "a/b: 2 of 3 left",
        "a/b: 5 of 5 left",  # pinned sessions still arrive
        "a/b: 0 of 5 left",
    ]


def test_on_a_terminal_it_is_a_bar() -> None:
    file = StringIO()
    assert wait(3, 2, 0, screen=Console(file=file, force_terminal=True, width=80)) == 0
    assert "0 of 3 left" in file.getvalue()
    assert "\u2501" in file.getvalue()


def test_a_server_without_requests_is_drained_at_once() -> None:
    assert wait(0) == 0


def test_what_only_the_processes_know_of_is_waited_for() -> None:
    file = StringIO()
    script = Scripted(0, 0, 0)
    script.untold = [2, 2, 1, 0]
    client = cast("AdminClient", script)
    screen = Console(file=file, highlight=False)
    assert drain.wait_until_drained(client, script.server(0), None, screen) == 0
    assert [line.rpartition(" after ")[0] for line in file.getvalue().splitlines()] == [
        "a/b: 2 of 2 left", "a/b: 1 of 2 left", "a/b: 0 of 2 left",
    ]  # fmt: skip


def test_maintenance_meanwhile_is_no_end_of_the_wait() -> None:
    assert wait(2, 1, 0, state="maint", admin="maint") == 0


@pytest.mark.parametrize("state", ["down", "ejected"])
def test_a_state_that_ranks_above_the_drain_does_not_end_it(state: str) -> None:
    assert wait(2, 0, state=state) == 0


@pytest.mark.parametrize("state", ["up", "down", "ejected", "drain"])  # it may announce one
def test_ready_meanwhile_is(state: str) -> None:
    with pytest.raises(CtlError, match="a/b was set to ready: another operator ended the drain"):
        wait(2, 1, state=state, admin="ready")
