"""Findings of one worker that the others get, and decisions of the supervisor for all of them."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Config
from hermes_lb.control import admin
from hermes_lb.control.history import reason
from tests.workers.shared import Shared, a_shared_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Server

A_WORKER: Any = SimpleNamespace(number=1)
A = {"backend": "agents", "server": "a"}
NOBODY = [
    pytest.param({"backend": "agents", "server": "gone"}, id="no such server"),
    pytest.param({"backend": "gone", "server": "a"}, id="no such backend"),
]


def config(servers: str = "a b", *, frontends: str = "public", **more: Any) -> Config:
    """One backend, `agents`, with these settings."""
    listed = [{"name": s, "address": f"10.0.0.{ord(s)}:80"} for s in servers.split()]
    return Config.model_validate(
        {
            "frontends": [
                {"name": name, "bind": "127.0.0.1:0", "default_backend": "agents"}
                for name in frontends.split()
            ],
            "backends": {"agents": {"servers": listed, **more}},
        }
    )


@pytest.fixture
def shared() -> Iterator[Shared]:
    with a_shared_state(config()) as shared:
        yield shared


def told(server: Server) -> dict[str, Any]:
    """The message by which all workers get a decision."""
    return {"do": "servers", "servers": [["agents", server.name, server.snapshot()]]}


# Findings of a worker.


def test_a_failure_counts_here_and_is_reported_to_all_but_who_saw_it(shared: Shared):
    message = {"do": "failed", "at": 5.0, **A}
    shared.state.hear(A_WORKER, message)
    assert (shared.server("a").fails, shared.server("a").failed_at) == (1, 5.0)
    assert (shared.fleet.told, shared.fleet.spared) == ([message], [A_WORKER])


def test_a_recovery_counts_here_and_is_reported_to_all_but_who_saw_it(shared: Shared):
    shared.server("a").failed(5.0)
    message = {"do": "recovered", **A}
    shared.state.hear(A_WORKER, message)
    assert shared.server("a").fails == 0
    assert (shared.fleet.told, shared.fleet.spared) == ([message], [A_WORKER])


def test_why_a_server_failed_is_known_here(shared: Shared):
    for _ in range(shared.server("a").config.max_fails):
        shared.state.hear(A_WORKER, {"do": "failed", "at": 5.0, "because": "refused", **A})
    assert shared.server("a").state == "failing"
    assert reason(shared.server("a")) == "3 failures: refused"


def test_a_good_check_is_reported_to_all_with_its_begin(shared: Shared):
    shared.server("a").failed(5.0)
    for began in (5.0, 6.0, 7.0):
        shared.state.pools["agents"].check_passed(shared.server("a"), began)
    assert shared.fleet.told == [{"do": "recovered", "began": 6.0, **A}]


def test_a_server_marked_down_is_reported_to_all(shared: Shared):
    on_marked_down = shared.state.pools["agents"].on_marked_down
    assert on_marked_down is not None
    on_marked_down(shared.server("a"), True)
    on_marked_down(shared.server("b"), False)
    assert shared.fleet.told == [
        {"do": "servers", "servers": [], "marked_down": ["agents", "a", True]},
        {"do": "servers", "servers": [], "marked_down": ["agents", "b", False]},
    ]


@pytest.fixture
def four() -> Iterator[Shared]:
    """Servers a, b, c and d, two of which may be ejected."""
    with a_shared_state(config("a b c d", outlier={})) as shared:
        yield shared


def ejected(server: str, seconds: float = 9.0) -> dict[str, Any]:
    """A worker's message about its ejection, which ends in `seconds`."""
    until = asyncio.get_running_loop().time() + seconds
    because = "5 failures in a row"
    return {
        "do": "ejected", "backend": "agents", "server": server, "until": until, "because": because
    }  # fmt: skip


async def test_an_ejection_is_a_decision_that_all_hear_of(four: Shared):
    four.state.hear(A_WORKER, ejected("a"))
    server = four.server("a")
    assert (server.state, server.ejected_because) == ("ejected", "5 failures in a row")
    assert (four.fleet.told, four.fleet.spared) == ([told(server)], [None])


async def test_an_ejection_that_is_known_is_not_a_new_one(four: Shared):
    message = ejected("a")
    four.state.hear(A_WORKER, message)
    four.state.hear(SimpleNamespace(number=2), message)
    assert four.server("a").ejections == 1
    assert len(four.fleet.told) == 1


async def test_an_ejection_of_one_that_is_out_counts_once_and_for_one_time(four: Shared):
    """Two workers saw the same failures, and chose different durations."""
    first = ejected("a", 9.0)
    four.state.hear(A_WORKER, first)
    four.state.hear(SimpleNamespace(number=2), ejected("a", 9.5))
    server = four.server("a")
    assert (server.ejections, server.ejected_until) == (1, first["until"])
    assert four.fleet.told[-1] == told(server)


async def test_ejections_of_several_workers_that_are_too_many_are_refused(four: Shared):
    """The last one is refused, the others stay."""
    for name in "abc":
        four.state.hear(A_WORKER, ejected(name))
    assert [four.server(name).state for name in "abcd"] == ["ejected", "ejected", "up", "up"]
    assert four.fleet.told[-1] == told(four.server("c"))
    assert four.fleet.told[-1]["servers"][0][2]["ejected_until"] == 0.0


async def test_an_ejection_whose_time_is_over_counts_no_more_before_the_next_tick(four: Shared):
    """A worker that has noticed its end may eject two others."""
    four.server("d").eject(asyncio.get_running_loop().time() - 0.5, "5 failures in a row")
    for name in "ab":
        four.state.hear(A_WORKER, ejected(name))
    assert [four.server(name).state for name in "abcd"] == ["ejected", "ejected", "up", "up"]


async def test_an_ejection_of_a_backend_that_has_no_more_outliers_is_refused(shared: Shared):
    shared.state.hear(A_WORKER, ejected("a"))
    assert shared.server("a").state == "up"
    assert shared.fleet.told == [told(shared.server("a"))]


@pytest.mark.parametrize("about", NOBODY)
@pytest.mark.parametrize(
    "said",
    [
        {"do": "failed", "at": 5.0},
        {"do": "recovered"},
        {"do": "ejected", "until": 9.0, "because": ""},
    ],
    ids=lambda said: said["do"],
)
def test_what_is_said_of_a_server_that_is_gone_changes_nothing(
    shared: Shared, said: dict[str, Any], about: dict[str, str]
):
    before = shared.state.snapshots()
    shared.state.hear(A_WORKER, {**said, **about})
    assert shared.state.snapshots() == before
    assert [server.fails for server in shared.state.pools["agents"].servers] == [0, 0]


def test_refusals_and_aborts_of_a_worker_can_be_seen(shared: Shared):
    shared.gathered.joined(1, 100)
    shared.state.hear(
        A_WORKER, {"do": "refused", "frontend": "public", "refused": [[429, "too many", 3]]}
    )
    shared.state.hear(A_WORKER, {"do": "recent", "aborts": [{"status": 502}, {"status": 504}]})
    shared.state.refresh()
    assert shared.state.frontends["public"].refused == {(429, "too many"): 3}
    assert [abort["status"] for abort in shared.state.recent.since()] == [502, 504]


# Decisions of the supervisor.


def test_a_decision_is_reported_to_all_workers_and_to_who_listens(shared: Shared):
    heard: list[str] = []
    shared.state.on_decision = lambda: heard.append("a decision")
    shared.server("a").set_admin("drain")
    assert (shared.fleet.told, shared.fleet.spared) == ([told(shared.server("a"))], [None])
    assert heard == ["a decision"]


def test_a_load_that_a_check_received_goes_to_all_workers(shared: Shared):
    shared.state.load_reported(shared.server("b"), 0.5)
    assert shared.fleet.told == [{"do": "load", "load": 0.5, "backend": "agents", "server": "b"}]


@pytest.mark.parametrize(
    ("answers", "saw_progress"),
    [([], False), ([{"moved": False}, {}], False), ([{"moved": False}, {"moved": True}], True)],
)
async def test_a_server_has_moved_if_it_has_in_any_worker(
    shared: Shared, answers: list[dict[str, Any]], saw_progress: bool
):
    shared.fleet.answers = answers
    assert await shared.state.saw_progress(shared.server("b"), 3.0) is saw_progress
    assert shared.fleet.asked == [
        {"do": "moved", "seconds": 3.0, "backend": "agents", "server": "b"}
    ]


async def test_it_has_settled_when_all_workers_have_answered_behind_the_decisions(shared: Shared):
    shared.server("b").set_admin("drain")
    assert await shared.state.settle()
    [told], [asked] = shared.fleet.told, shared.fleet.asked
    assert [name for _, name, _ in told["servers"]] == ["b"]
    # Workers of older code answer a message of this kind, and ignore the other fields.
    assert asked == {"do": "servers", "servers": [], "publish": True}


async def test_it_has_not_settled_when_a_worker_has_not_answered(shared: Shared):
    shared.fleet.all_have_answered = False
    assert await shared.state.settle() is False


async def test_it_waits_for_them_no_longer_than_a_listener_that_stops_waits_for_its_answer(
    shared: Shared,
):
    await shared.state.settle()
    assert shared.fleet.patience[0] < admin._STOP_WAITS


def test_time_alone_ends_an_ejection():
    with a_shared_state(config("a b c d", outlier={"consecutive_failures": 5})) as shared:
        shared.server("a").eject(9.0, "5 failures in a row")
        shared.state.tick(8.0)
        assert shared.server("a").state == "ejected"
        shared.state.tick(9.0)
        assert shared.server("a").state == "up"
        assert shared.fleet.told[-1] == told(shared.server("a"))


# Other configurations, other generations.


def test_who_stays_in_a_reload_stays_the_same_and_who_goes_gives_its_row_back(shared: Shared):
    state = shared.state
    before = state.pools, state.frontends, state.pools["agents"], shared.server("b")
    rows = dict(shared.layout.rows)
    state.reconfigure(config("b c", frontends="other"))
    after = state.pools, state.frontends, state.pools["agents"], shared.server("b")
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert list(state.frontends) == ["other"]
    assert rows.keys() - shared.layout.rows.keys() == {"agents/a 10.0.0.97:80", "frontend public"}


def test_who_gets_the_row_of_a_server_that_is_gone_does_not_get_its_numbers(shared: Shared):
    shared.gathered.joined(1, 100)
    shared.server("a").counters.bytes_in = 10
    row = shared.layout.rows["agents/a 10.0.0.97:80"]
    shared.memory.regions[1].write_counters(row, shared.server("a").counters.cells())
    shared.gathered.left(1, shared.layout.rows)
    shared.state.refresh()
    assert shared.server("a").counters.bytes_in == 10
    shared.state.reconfigure(config("b"))
    shared.state.reconfigure(config("b c"))
    assert shared.layout.rows["agents/c 10.0.0.99:80"] == row
    shared.state.refresh()
    assert shared.server("c").counters.bytes_in == 0


def test_a_backend_that_is_gone_has_no_pool(shared: Shared):
    configured = config().model_copy(update={"backends": {}, "frontends": []})
    shared.state.reconfigure(configured)
    assert (shared.state.pools, shared.state.frontends, shared.layout.rows) == ({}, {}, {})


def test_a_process_that_was_retired_is_seen_to_drain(shared: Shared):
    for number, is_retired in ((0, False), (1, True)):
        shared.gathered.joined(number, 100 + number)
        shared.fleet.children.append(SimpleNamespace(number=number, is_retired=is_retired))
    shared.state.refresh()
    assert [process.is_draining for process in shared.gathered.processes] == [False, True]


async def test_the_next_generation_goes_on_by_what_was_decided(shared: Shared):
    shared.server("a").set_admin("maint")
    shared.server("b").set_weight(7)
    left = json.loads(json.dumps(shared.state.state()))
    with a_shared_state(config("b c")) as following:
        known = following.state.restore(left)
    assert [server.name for server in known] == ["b"]
    assert known[0].weight == 7


async def test_the_next_generation_knows_what_has_ended_badly(shared: Shared):
    child: Any = SimpleNamespace(number=0)
    shared.state.hear(child, {"do": "recent", "aborts": [{"request": "GET /a"}]})
    left = json.loads(json.dumps(shared.state.state()))
    with a_shared_state(config("b c")) as following:
        following.state.restore(left)
        following.state.hear(child, {"do": "recent", "aborts": [{"request": "GET /b"}]})
        kept = following.state.recent.since()
    assert [(one["number"], one["request"]) for one in kept] == [(1, "GET /a"), (2, "GET /b")]
