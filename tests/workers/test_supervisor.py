"""What a supervisor sends to workers and restores after an upgrade, without processes."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import ConfigError, load_config
from hermes_lb.control.operator import NotPossible
from hermes_lb.testing import eventually
from hermes_lb.workers import supervisor as supervisor_module
from hermes_lb.workers.handover import Handover
from hermes_lb.workers.limits import worker_count
from hermes_lb.workers.supervisor import Supervisor
from tests.workers.fake_child import FakeChild, fake_children

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from hermes_lb.backends import Server

OFF = "enabled = false"


def write(
    folder: Path,
    servers: str = "",
    *,
    workers: int = 1,
    server: str = "",
    backend: str = "",
    admin: str = OFF,
    frontends: str = "",
) -> Path:
    """Servers a, b, c, d, or others; `server` is TOML for the first."""
    listed = ", ".join(
        f'{{ name = "{name}", address = "127.0.0.1:{9000 + n}"{server if n == 0 else ""} }}'
        for n, name in enumerate(servers.split() or "abcd")
    )
    file = folder / "lb.toml"
    file.write_text(
        f"[process]\nworkers = {workers}\n[admin]\n{admin}\n"
        '[log]\naccess = "off"\n'
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
        f"{frontends}[backends.agents]\nservers = [{listed}]\n{backend}"
    )
    return file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    """All worker processes."""
    return fake_children(monkeypatch)


@asynccontextmanager
async def supervising(
    file: Path,
    inherited: Mapping[str, Any] | None = None,
    *,
    passed: Mapping[str, list[socket.socket]] | None = None,
) -> AsyncIterator[Supervisor]:
    """A started supervisor, perhaps as the next generation of one that left `left`."""
    config = load_config(file)
    handover = Handover.create(worker_count(config), "asyncio", passed)
    handover.inherited = json.loads(json.dumps(inherited))
    supervisor = Supervisor(config, file, handover)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


class Executed(Exception):
    """In place of the exec."""


async def is_checked(file: Path) -> None:
    """The new code accepts any configuration."""


async def what_it_leaves(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The inheritance of an upgrade that fails."""
    left: list[Any] = []

    def execute(handover: Any, fleet: Any, inheritance: Any) -> None:
        left.append(json.loads(json.dumps(inheritance)))
        raise Executed

    monkeypatch.setattr(supervisor_module, "check_new_code", is_checked)
    monkeypatch.setattr(supervisor_module, "execute_new_code", execute)
    await supervisor.upgrade()
    await eventually(lambda: bool(left))
    return left[0]


def first(supervisor: Supervisor) -> Server:
    return supervisor.observed.pools["agents"].servers[0]


def is_ejected(server: Server) -> None:
    server.eject(1e12, "5 failures in a row")


def is_down(server: Server) -> None:
    server.set_up(False, "connection refused")


def comes_back(server: Server) -> None:
    """It returns from maintenance."""
    server.set_admin("maint")
    server.set_admin("ready")


def is_as_configured(server: Server) -> None:
    """No decision was made about it."""


SLOW = ', slow_start = "9s"'
NO_CHECKS = "[backends.agents.health]\ninterval = 3600.0\n"


@pytest.mark.parametrize(
    ("before", "decide", "after"),
    [
        pytest.param({}, is_as_configured, {"server": ", down = true"}, id="it is down"),
        pytest.param({"server": ", down = true"}, is_as_configured, {}, id="it is down no more"),
        pytest.param({"backend": "outlier = {}\n"}, is_ejected, {}, id="no outliers"),
        pytest.param({"backend": NO_CHECKS}, is_down, {}, id="no checks"),
        pytest.param({"server": SLOW}, comes_back, {}, id="no slow start"),
        pytest.param({"server": ", weight = 1"}, lambda s: s.set_weight(5),
                     {"server": ", weight = 2"}, id="another weight"),
    ],
)  # fmt: skip
async def test_an_upgrade_takes_up_what_has_changed_in_the_file_as_a_reload_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[FakeChild],
    before: dict[str, str],
    decide: Callable[[Server], None],
    after: dict[str, str],
) -> None:
    async with supervising(write(tmp_path, **before)) as supervisor:  # type: ignore[arg-type]
        decide(first(supervisor))
        file = write(tmp_path, **after)  # type: ignore[arg-type]
        left = await what_it_leaves(supervisor, monkeypatch)
        async with supervising(file, left) as upgraded:
            await supervisor.reload()
            found, expected = first(upgraded), first(supervisor)
            for server in (found, expected):
                server.last_check = ""  # kept or not
            assert found.snapshot() == expected.snapshot()
            assert found.state == ("maint" if "down" in str(after) else "up")


@pytest.mark.parametrize(
    ("settings", "decide"),
    [
        ({}, lambda server: server.set_admin("drain")),
        ({}, lambda server: server.set_weight(7)),
        ({"backend": "outlier = {}\n"}, is_ejected),
        ({"backend": NO_CHECKS}, is_down),
        ({"server": SLOW}, comes_back),
    ],
)
async def test_an_upgrade_keeps_what_was_decided_and_has_not_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[FakeChild],
    settings: dict[str, str],
    decide: Callable[[Server], None],
) -> None:
    file = write(tmp_path, **settings)  # type: ignore[arg-type]
    async with supervising(file) as supervisor:
        decide(first(supervisor))
        left = await what_it_leaves(supervisor, monkeypatch)
        async with supervising(file, left) as upgraded:
            assert first(upgraded).snapshot() == first(supervisor).snapshot()


async def test_decisions_by_a_configuration_that_this_code_does_not_take_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[FakeChild]
) -> None:
    file = write(tmp_path)
    async with supervising(file) as supervisor:
        first(supervisor).set_admin("drain")
        left = await what_it_leaves(supervisor, monkeypatch)
    for config in ({"nonsense": 1}, None):
        left["applied"] = config
        async with supervising(file, left) as upgraded:
            assert first(upgraded).state == "drain"


@pytest.mark.parametrize(("options", "weight"), [("", 5), (", weight = 2", 2)])
async def test_an_upgrade_without_a_name_server_keeps_the_addresses(
    options: str,
    weight: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[FakeChild],
) -> None:
    addresses = {"pods.test": "10.0.0.7"}
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host.endswith(".test") and host not in addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(addresses.get(host, host), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def with_pod(options: str) -> Path:
        file = write(tmp_path, "pod", server=f', resolve = "1h"{options}')
        file.write_text(file.read_text().replace("127.0.0.1:9000", "pods.test:9000"))
        return file

    async with supervising(with_pod("")) as supervisor:
        assert first(supervisor).name == "pod-10.0.0.7"
        first(supervisor).set_admin("drain")
        first(supervisor).set_weight(5)
        left = await what_it_leaves(supervisor, monkeypatch)
    addresses.clear()
    async with supervising(with_pod(options), left) as upgraded:
        found = first(upgraded)
        assert (found.name, found.state, found.full_weight) == ("pod-10.0.0.7", "drain", weight)


async def test_a_passed_socket_that_nobody_listens_on_is_reported(
    tmp_path: Path, started: list[FakeChild], caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as given:
        where = "{}:{}".format(*given.getsockname())
        async with supervising(file, passed={"spare": [given]}):
            pass
    assert f'systemd has opened {where} ("spare"), where no frontend listens' in caplog.text


async def test_the_file_of_a_unix_socket_goes_with_the_last_worker_that_listened_there(
    tmp_path: Path, started: list[FakeChild]
) -> None:
    path = tmp_path / "lb.sock"
    more = f'[[frontends]]\nname = "b"\nbind = "unix:{path}"\ndefault_backend = "agents"\n'
    async with supervising(write(tmp_path, frontends=more)) as supervisor:
        [sock] = started[0].listens["b", f"unix:{path}"]
        with sock.dup():  # the worker's, closed late
            write(tmp_path)
            await supervisor.reload()
            assert path.exists()
        started[0].ends()
        assert not path.exists()


async def test_a_reload_asked_for_what_an_upgrade_can_do_is_refused_with_a_hint(
    tmp_path: Path, started: list[FakeChild]
) -> None:
    async with supervising(write(tmp_path)) as supervisor:
        write(tmp_path, workers=2)
        with pytest.raises(ConfigError, match="can't change while it runs: upgrade or restart to"):
            await supervisor.reload()


async def test_a_tick_that_goes_wrong_is_not_the_last(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[FakeChild],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(supervisor_module, "_TICK", 0.0)
    ticks: list[float] = []

    def tick(now: float) -> None:
        ticks.append(now)
        raise ZeroDivisionError

    async with supervising(write(tmp_path)) as supervisor:
        monkeypatch.setattr(supervisor._shared, "tick", tick)
        await eventually(lambda: len(ticks) > 2)
    assert "ZeroDivisionError" in caplog.text


async def test_what_has_changed_since_older_code_is_taken_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[FakeChild]
) -> None:
    """It hands over only the file's configuration."""
    async with supervising(write(tmp_path)) as supervisor:
        supervisor.observed.pools["agents"].servers[1].set_admin("drain")
        left = await what_it_leaves(supervisor, monkeypatch)
    left.pop("applied", None)
    async with supervising(write(tmp_path, server=", down = true"), left) as upgraded:
        states = [server.state for server in upgraded.observed.pools["agents"].servers]
        assert states == ["maint", "drain", "up", "up"]
    left["servers"][1][1] = "b-10.0.0.1"  # of a resolved name
    async with supervising(write(tmp_path, "a b-10.0.0.1"), left) as upgraded:
        states = [server.state for server in upgraded.observed.pools["agents"].servers]
        assert states == ["up", "drain"]


# More workers.


@pytest.mark.parametrize(("before", "after"), [(1, 4), (2, 6), (8, 1)])
async def test_an_upgrade_to_another_number_of_workers_is_not_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[FakeChild],
    before: int,
    after: int,
) -> None:
    async with supervising(write(tmp_path, workers=before)) as supervisor:
        write(tmp_path, workers=after)
        await what_it_leaves(supervisor, monkeypatch)


async def test_an_upgrade_is_refused_while_too_many_generations_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[FakeChild]
) -> None:
    async with supervising(write(tmp_path)) as supervisor:
        for _ in range(3):
            assert await supervisor._fleet.replace(0, 1.0)
        with pytest.raises(NotPossible, match="old processes are still finishing"):
            await what_it_leaves(supervisor, monkeypatch)
        started[0].ends()
        await what_it_leaves(supervisor, monkeypatch)


# Listeners.


async def test_an_upgrade_that_is_refused_leaves_no_listener_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[FakeChild]
) -> None:
    more = '[[frontends]]\nname = "more"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
    async with supervising(write(tmp_path)) as supervisor:
        before = list(supervisor._handover.listening.groups)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            admin = f'bind = "127.0.0.1:{taken.getsockname()[1]}"'
            write(tmp_path, admin=admin, frontends=more)
            with pytest.raises(NotPossible, match="can't listen on"):
                await what_it_leaves(supervisor, monkeypatch)
        assert list(supervisor._handover.listening.groups) == before


async def test_a_reload_applies_all_but_the_admin_listener_and_says_so(
    tmp_path: Path, started: list[FakeChild]
) -> None:
    more = '[[frontends]]\nname = "more"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
    async with supervising(write(tmp_path)) as supervisor:
        write(tmp_path, admin='token = "0123456789abcdef"', frontends=more)
        for _ in range(2):  # it still waits
            assert (await supervisor.reload())[-2:] == [
                "admin.enabled: false -> true (waits for: upgrade or restart)",
                "admin.token: changed (waits for: upgrade or restart)",
            ]
            assert [frontend.name for frontend in supervisor.config.frontends][-1] == "more"
            assert not supervisor.config.admin.enabled
        assert supervisor.observed.upkeep.reloads == 2


async def test_a_reload_gives_each_worker_the_sockets_that_it_does_not_have(
    tmp_path: Path, started: list[FakeChild]
) -> None:
    """They were opened by the upgrade, so the previous generation's workers do not have them."""
    more = '[[frontends]]\nname = "more"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
    async with supervising(write(tmp_path)) as supervisor:
        file = write(tmp_path, frontends=more)
        supervisor._handover.listening.open(load_config(file))
        await supervisor._fleet.replace(0, 1.0)
        await supervisor.reload()
        [told] = started[1].what("reconfigure")
        assert told["sockets"] == [["more", "127.0.0.1:0"]]
        await supervisor.reload()
        assert started[1].what("reconfigure")[-1]["sockets"] == []


async def test_an_address_that_is_reopened_is_passed_again(
    tmp_path: Path, started: list[FakeChild]
) -> None:
    more = '[[frontends]]\nname = "more"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
    async with supervising(write(tmp_path, frontends=more)) as supervisor:
        write(tmp_path)
        await supervisor.reload()
        write(tmp_path, frontends=more)
        await supervisor.reload()
        told = started[0].what("reconfigure")
        assert [one["sockets"] for one in told] == [[], [["more", "127.0.0.1:0"]]]


# Between the reading of a configuration and its use.


def rows_it_needs(message: Mapping[str, Any]) -> set[str]:
    config = message["config"]
    servers = config["backends"]["agents"]["servers"]
    return {"agents", "frontend public"} | {f"agents/{s['name']} {s['address']}" for s in servers}


async def test_a_worker_that_starts_during_a_reload_has_rows_for_all_that_it_is_to_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[FakeChild]
) -> None:
    """While names are resolved, the new configuration is not in use yet."""
    async with supervising(write(tmp_path, "a b")) as supervisor:
        write(tmp_path, "a b c")
        look_up = supervisor._discoveries.reconfigure

        async def dies_meanwhile(backends: Any) -> None:
            await look_up(backends)
            assert await supervisor._fleet.replace(0, 1.0)

        monkeypatch.setattr(supervisor._discoveries, "reconfigure", dies_meanwhile)
        await supervisor.reload()
        [start] = started[1].what("start")
        assert rows_it_needs(start) <= start["rows"].keys()
        [after] = started[1].what("reconfigure")
        assert rows_it_needs(after) <= after["rows"].keys()
        assert len(after["config"]["backends"]["agents"]["servers"]) == 3
