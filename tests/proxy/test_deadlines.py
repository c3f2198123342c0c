"""The sweep, with connections and backends that only take notes, and with one that has a bug."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hermes_lb.proxy.deadlines import Sweep


class Swept:
    """A client, a pool, or the connections to a server."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.happened: list[str] = []
        self.transport = self

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def sweep(self, now: float) -> None:
        self.happened.append("swept")
        if self.fails:
            raise ZeroDivisionError("a bug")

    tick = sweep

    def abort(self) -> None:
        self.happened.append("aborted")


class Backend:
    def __init__(self, name: str, *, fails: bool = False, connections_fail: bool = False) -> None:
        self.pool = Swept(f"pool {name}", fails=fails)
        self.connections = {
            number: Swept(f"{name}{number}", fails=connections_fail and number == 1)
            for number in (1, 2)
        }


class World:
    """A context, and each of its parts."""

    def __init__(self, *clients: Swept) -> None:
        self.clients = clients
        self.loop = self.batch = self.live = self.settings = self.wall_clock = self
        self.shortest = 60.0  # seconds, of all timeouts
        self.soon: list[Any] = []
        self.later: list[Any] = []

    def all_held(self) -> list[Swept]:
        return list(self.clients)

    def clock(self) -> float:
        return 1.0

    def set(self, now: float) -> None:
        pass

    def flush(self) -> None:
        pass

    def call_soon(self, call: Any, *given: Any) -> None:
        self.soon.append((call, given))

    def call_later(self, delay: float, call: Any) -> None:
        self.later.append(call)

    def sweep(self, *backends: Backend) -> None:
        """Once, to its end."""
        Sweep(self, lambda: backends).start()  # type: ignore[arg-type,return-value]
        self.later.pop()()
        while self.soon:
            call, given = self.soon.pop(0)
            call(*given)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes_lb.proxy.deadlines._AT_ONCE", 2)


@pytest.mark.pure_only("compiled code takes no fake for the context")
def test_one_client_with_a_bug_is_given_up_and_all_others_are_swept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = [Swept(f"client {number}", fails=number == 1) for number in range(5)]
    backend = Backend("b")
    with caplog.at_level(logging.ERROR, logger="hermes_lb"):
        World(*clients).sweep(backend)
    assert [client.happened for client in clients] == [
        ["swept"], ["swept", "aborted"], ["swept"], ["swept"], ["swept"],
    ]  # fmt: skip
    assert backend.pool.happened == ["swept"]
    (record,) = caplog.records
    assert record.getMessage() == "while sweeping <client 1>"
    assert record.exc_info is not None


@pytest.mark.pure_only("compiled code takes no fake for the context")
def test_one_backend_with_a_bug_does_not_stop_the_ticks_of_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backends = [Backend("a", fails=True), Backend("b", connections_fail=True), Backend("c")]
    with caplog.at_level(logging.ERROR, logger="hermes_lb"):
        World().sweep(*backends)
    for backend in backends:
        assert backend.pool.happened == ["swept"]
        assert [one.happened for one in backend.connections.values()] == [["swept"], ["swept"]]
    assert [record.getMessage() for record in caplog.records] == [
        "while ticking <pool a>",
        "while sweeping <b1>",
    ]


@pytest.mark.pure_only("compiled code takes no fake for the context")
def test_the_next_sweep_comes_whatever_happens_in_this_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(Swept("client", fails=True))
    world.sweep(Backend("b", fails=True))
    assert len(world.later) == 1
