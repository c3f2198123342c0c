"""Run-time states: kept over restarts and while servers are absent, written when they change."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.control.operator import find_server
from hermes_lb.control.runtime_states import MOST_AWAY, RuntimeStates, apply
from hermes_lb.control.state_file import SavedState, StateFile
from tests.discovery.resolved import expand
from tests.support.pools import make_pool
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.backends.server import Admin
    from hermes_lb.control.state_file import SavedStates

ONE = SavedState("drain", 7, configured_weight=1, configured_down=False)


def agents(*servers: dict[str, Any]) -> dict[str, Pool]:
    return {"agents": make_pool(*(servers or ({}, {}, {"down": True})))}


def shown(pools: dict[str, Pool]) -> list[tuple[str, float]]:
    return [(server.state, server.weight) for server in pools["agents"].servers]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lb.state"


@pytest.fixture(autouse=True)
def all_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hermes_lb.admin")


async def restart(path: Path, pools: dict[str, Pool]) -> None:
    states = RuntimeStates(path, pools)
    await states.start()
    await states.stop()


# Over a restart.


async def test_states_and_weights_survive_a_restart(path: Path) -> None:
    before, after = agents(), agents()
    states = RuntimeStates(path, before)
    await states.start()
    drained, weighted, marked_down = before["agents"].servers
    drained.set_admin("drain")
    weighted.set_weight(0)
    marked_down.set_admin("ready")
    await states.stop()
    await restart(path, after)
    assert shown(after) == [("drain", 1), ("up", 0), ("up", 1)]
    assert shown(after) == shown(before)


async def test_a_restart_is_no_reason_for_a_slow_start(path: Path) -> None:
    StateFile(path).save({"agents": {"a": SavedState("ready", None, 10, True)}})
    pools = agents({"down": True, "slow_start": 30.0, "weight": 10}, {})
    await restart(path, pools)
    assert shown(pools)[0] == ("up", 10)


async def test_what_checks_and_outliers_say_is_not_kept(path: Path) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    pools["agents"].servers[0].set_up(False, "connection refused")
    pools["agents"].servers[1].announce_drain("503")
    states.changed()
    await states.stop()
    assert StateFile(path).load() == {}


async def test_a_server_that_is_as_configured_again_is_no_longer_in_it(path: Path) -> None:
    StateFile(path).save({"agents": {"a": ONE}})
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    pools["agents"].servers[0].set_admin("ready")
    pools["agents"].servers[0].set_weight(None)
    await states.stop()
    assert StateFile(path).load() == {}


@pytest.mark.parametrize(
    ("server", "state", "weight"),
    [
        ({}, "drain", 7),
        ({"weight": 2}, "drain", 2),
        ({"down": True}, "maint", 7),
        ({"down": True, "weight": 2}, "maint", 2),
    ],
)
async def test_a_configuration_that_has_changed_meanwhile_is_newer(
    path: Path, server: dict[str, Any], state: str, weight: int
) -> None:
    StateFile(path).save({"agents": {"a": ONE}})
    pools = agents(server, {})
    await restart(path, pools)
    assert shown(pools)[0] == (state, weight)


async def test_at_another_address_it_is_another_server(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = agents()
    states = RuntimeStates(path, before)
    await states.start()
    before["agents"].servers[0].set_admin("drain")
    await states.stop()
    after = agents({"address": "10.9.9.9:80"}, {})
    await restart(path, after)
    assert shown(after) == [("up", 1), ("up", 1)]
    assert "state file: no such servers: agents/a at 10.0.0.1:80" in caplog.text
    assert StateFile(path).load() == {}


async def test_a_reload_to_another_address_leaves_nothing_of_what_was_set(path: Path) -> None:
    pools = agents({}, {})
    states = RuntimeStates(path, pools)
    await states.start()
    pools["agents"].servers[0].set_admin("drain")
    states.changed()
    await asyncio.sleep(0)
    first, second = (s.config.model_dump() for s in pools["agents"].servers)
    moved = {**first, "address": "10.9.9.9:80"}
    pools["agents"].reconfigure(Backend.model_validate({"servers": [moved, second]}))
    states.changed()
    await states.stop()
    assert shown(pools) == [("up", 1), ("up", 1)]
    assert StateFile(path).load() == {}


async def test_a_file_that_does_not_say_where_its_servers_were_holds(path: Path) -> None:
    saved = {"state": "drain", "weight": 7, "configured": {"weight": 1, "down": False}}
    text = json.dumps({"version": 1, "backends": {"agents": {"a": saved}}})
    await asyncio.to_thread(path.write_text, text)
    pools = agents()
    await restart(path, pools)
    assert shown(pools)[0] == ("drain", 7)


def test_servers_that_exist_no_more_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    pools = agents({}, {})
    apply({"agents": {"a": ONE, "z": ONE}, "gone": {"a": ONE}}, pools)
    assert shown(pools) == [("drain", 7), ("up", 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "agents/a is set to drain, weight 7, as before the restart",
        "state file: no such servers: agents/z, gone/a",
    ]


# Addresses of a host name, which come and go.


LOOKED_UP = {"name": "pod", "address": "pods.internal:8000", "resolve": 1.0}


def look_up(pool: Pool, *addresses: str, **more: Any) -> None:
    """Set the servers of `pod` as its name's discovery does."""
    backend = Backend.model_validate({"servers": [{**LOOKED_UP, **more}]})
    found = {server.name: server for server in expand(backend.servers[0], None, addresses)}
    pool.reconfigure(backend)
    pool.discover(found.values(), [s.name for s in pool.servers if s.name not in found])


def by_name(pools: dict[str, Pool]) -> dict[str, tuple[str, float]]:
    return {server.name: (server.state, server.weight) for server in pools["agents"].servers}


class Resolved:
    """Run-time states of such a backend. `become` acts as a DNS answer."""

    def __init__(self, path: Path, *addresses: str) -> None:
        empty = Backend.model_construct(servers=[], outlier=None)
        self.pools = {"agents": Pool("agents", empty)}
        look_up(self.pools["agents"], *addresses)
        self.states = RuntimeStates(path, self.pools)

    async def __aenter__(self) -> Resolved:
        await self.states.start()
        self.pools["agents"].on_change = lambda server: self.states.changed()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.states.stop()

    def set(self, name: str, admin: Admin, weight: int | None = None) -> None:
        server = find_server(self.pools, "agents", name)
        server.set_admin(admin)
        server.set_weight(weight)

    async def become(self, *addresses: str, **more: Any) -> None:
        await asyncio.sleep(0)  # as a separate event
        look_up(self.pools["agents"], *addresses, **more)
        self.states.changed()


async def test_an_address_that_comes_back_is_at_once_as_it_was(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2", "fe80::2") as found:
        found.set("pod-10.0.0.2", "drain", 7)
        found.set("pod-fe80--2", "maint")
        await found.become("10.0.0.1")
        assert by_name(found.pools) == {"pod-10.0.0.1": ("up", 1)}
        await found.become("10.0.0.1", "10.0.0.2", "fe80::2")
        assert by_name(found.pools) == {
            "pod-10.0.0.1": ("up", 1), "pod-10.0.0.2": ("drain", 7), "pod-fe80--2": ("maint", 1),
        }  # fmt: skip
    assert "agents/pod-10.0.0.2 is set to drain, weight 7, as before it was gone" in caplog.text


async def test_one_that_was_set_to_ready_comes_back_ready(path: Path) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2") as found:
        found.set("pod-10.0.0.2", "drain")
        await found.become("10.0.0.1")
        await found.become("10.0.0.1", "10.0.0.2")
        found.set("pod-10.0.0.2", "ready")
        await found.become("10.0.0.1")
        await found.become("10.0.0.1", "10.0.0.2")
        assert by_name(found.pools)["pod-10.0.0.2"] == ("up", 1)
    assert StateFile(path).load() == {}


async def test_a_configuration_that_has_changed_while_it_was_gone_is_newer(path: Path) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2") as found:
        found.set("pod-10.0.0.2", "drain", 7)
        await found.become("10.0.0.1")
        await found.become("10.0.0.1", "10.0.0.2", weight=3)
        assert by_name(found.pools)["pod-10.0.0.2"] == ("drain", 3)


async def test_an_address_that_comes_back_with_another_port_is_another_server(path: Path) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2") as found:
        found.set("pod-10.0.0.2", "drain")
        await found.become("10.0.0.1")
        await found.become("10.0.0.1", "10.0.0.2", address="pods.internal:9000")
        assert by_name(found.pools)["pod-10.0.0.2"] == ("up", 1)


async def test_a_restart_while_the_name_is_unknown_loses_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2") as found:
        found.set("pod-10.0.0.2", "drain")
    written = StateFile(path).load()
    async with Resolved(path) as found:
        assert by_name(found.pools) == {"pod": ("up", 1)}
    assert StateFile(path).load() == written
    async with Resolved(path) as found:
        await found.become("10.0.0.1", "10.0.0.2")
        assert by_name(found.pools) == {"pod-10.0.0.1": ("up", 1), "pod-10.0.0.2": ("drain", 1)}
    assert "no such servers" not in caplog.text
    assert (
        "entries kept for servers that are absent and may come back: agents/pod-10.0.0.2"
        in caplog.text
    )


async def test_a_name_that_leaves_the_configuration_takes_its_entries_with_it(path: Path) -> None:
    async with Resolved(path, "10.0.0.1", "10.0.0.2") as found:
        found.set("pod-10.0.0.2", "drain")
        await found.become("10.0.0.1")
        await found.become("10.0.0.1", name="other")
        await found.become("10.0.0.1", "10.0.0.2")
        assert by_name(found.pools)["pod-10.0.0.2"] == ("up", 1)
    assert StateFile(path).load() == {}


async def test_a_server_of_the_file_that_comes_back_is_a_new_one(path: Path) -> None:
    pools = agents({}, {})
    states = RuntimeStates(path, pools)
    await states.start()
    both = Backend.model_validate(
        {"servers": [s.config.model_dump() for s in pools["agents"].servers]}
    )
    pools["agents"].servers[1].set_admin("drain")
    states.changed()
    for servers in (both.servers[:1], both.servers):
        await asyncio.sleep(0)
        pools["agents"].reconfigure(both.model_copy(update={"servers": servers}))
        states.changed()
    assert shown(pools) == [("up", 1), ("up", 1)]
    await states.stop()


async def test_entries_that_wait_are_bounded_and_the_oldest_go(path: Path) -> None:
    async with Resolved(path, "10.0.0.1") as found:
        for last in range(2, MOST_AWAY + 4):
            await found.become("10.0.0.1", f"10.0.{last // 250}.{last % 250}")
            found.set(f"pod-10.0.{last // 250}.{last % 250}", "drain")
        await found.become("10.0.0.1")
    kept = StateFile(path).load()["agents"]
    assert len(kept) == MOST_AWAY
    assert "pod-10.0.0.2" not in kept
    assert "pod-10.0.1.9" in kept


# Writes.


async def test_changes_are_written_while_it_runs(path: Path) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    pools["agents"].on_change = lambda server: states.changed()
    pools["agents"].servers[0].set_admin("maint")
    await until(path.exists)
    assert StateFile(path).load() == {
        "agents": {"a": SavedState("maint", None, 1, False, "10.0.0.1:80")}
    }
    pools["agents"].servers[0].set_admin("drain")
    await until(lambda: StateFile(path).load()["agents"]["a"].state == "drain")
    await states.stop()


async def test_it_is_written_once_for_many_changes_and_never_for_none(path: Path) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    with patch.object(StateFile, "save", autospec=True) as save:
        for weight in range(100):
            pools["agents"].servers[0].set_weight(weight)
            states.changed()
        states.changed()
        await states.stop()
        await states.stop()
    assert save.call_count == 1


async def test_what_changes_during_the_last_but_one_writing_is_not_lost(path: Path) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    writing, go_on, save = threading.Event(), threading.Event(), StateFile.save

    def slow(file: StateFile, what: SavedStates) -> None:
        writing.set()
        go_on.wait(20)
        save(file, what)

    with patch.object(StateFile, "save", slow):
        pools["agents"].servers[0].set_admin("drain")
        states.changed()
        await until(writing.is_set)
        pools["agents"].servers[0].set_admin("maint")
        stopping = asyncio.gather(states.stop())
        await asyncio.sleep(0)
        go_on.set()
        await stopping
    assert StateFile(path).load()["agents"]["a"].state == "maint"


async def test_a_disk_that_takes_nothing_is_reported_once_and_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    refused = 0

    def full(*_: object) -> None:
        nonlocal refused
        refused += 1
        raise OSError(28, "No space left on device")

    with patch.object(StateFile, "save", full):
        for tried, admin in enumerate(("drain", "maint"), 1):
            pools["agents"].servers[0].set_admin(admin)
            states.changed()
            await until(lambda: refused == tried)  # noqa: B023 - waited for within the loop
    await states.stop()
    assert StateFile(path).load()["agents"]["a"].state == "maint"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"can't write the state file {path}: No space left on device",
        f"the state file {path} is written again",
    ]


async def test_a_disk_that_has_room_again_gets_what_it_refused(path: Path) -> None:
    pools = agents()
    states = RuntimeStates(path, pools)
    await states.start()
    refused, save = 0, StateFile.save

    def full_at_first(file: StateFile, what: SavedStates) -> None:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise OSError(28, "No space left on device")
        save(file, what)

    with (
        patch.object(StateFile, "save", full_at_first),
        patch("hermes_lb.control.runtime_states._FIRST_RETRY", 0.001),
        patch("hermes_lb.control.runtime_states._PAUSE", 0.001),
    ):
        pools["agents"].servers[0].set_admin("drain")
        states.changed()
        await until(path.exists)
    await states.stop()
    assert refused == 3
    assert StateFile(path).load()["agents"]["a"].state == "drain"


async def test_stop_leaves_no_task_and_start_is_once(path: Path) -> None:
    before = asyncio.all_tasks()
    states = RuntimeStates(path, agents())
    await states.start()
    with pytest.raises(RuntimeError, match="started already"):
        await states.start()
    assert repr(states) == f"<RuntimeStates running, {path}>"
    await states.stop()
    assert repr(states) == f"<RuntimeStates stopped, {path}>"
    assert asyncio.all_tasks() == before
