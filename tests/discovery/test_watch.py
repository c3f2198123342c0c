"""Following a source: retries, one line of log for each news, restarts with known servers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Backend
from hermes_lb.discovery import discoveries as discoveries_module
from hermes_lb.discovery import watch as watch_module
from hermes_lb.discovery.discoveries import Discoveries
from hermes_lb.discovery.sources.base import Answer, DiscoveryFailed, Endpoint, Source
from hermes_lb.options.units import Address
from tests.discovery.followed import followed
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILE = {"file": {"path": "none"}}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(watch_module, "_LAST_RETRY", 0.05)
    caplog.set_level(logging.INFO, "hermes_lb.discovery")


class Scripted(Source):
    """Says one thing after the other, each in its time; then nothing."""

    def __init__(self, *said: Answer | Exception) -> None:
        self.said = deque(said)
        self.more = asyncio.Event()
        self.calls = 0
        self.is_closed = False

    def say(self, one: Answer | Exception) -> None:
        self.said.append(one)
        self.more.set()

    async def answers(self) -> AsyncIterator[Answer]:
        self.calls += 1
        while True:
            while self.said:
                one = self.said.popleft()
                if isinstance(one, Exception):
                    raise one
                yield one
            self.more.clear()
            await self.more.wait()

    async def close(self) -> None:
        self.is_closed = True


def servers(*names: str, **about: Any) -> dict[str, Endpoint]:
    return {name: Endpoint(Address("10.0.0.1", 80), **about) for name in names}


async def test_a_failure_is_logged_once_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(Answer(servers("a")))
    async with followed(FILE, source) as found:
        await until(lambda: list(found.addresses) == ["a"])
        for _ in range(3):
            source.say(DiscoveryFailed("it is gone"))
        await until(lambda: source.calls == 4)
        assert caplog.text.count("it is gone; the last 1 servers stay") == 1
        source.say(DiscoveryFailed("for another reason"))
        source.say(Answer(servers("a", "b")))
        await until(lambda: list(found.addresses) == ["a", "b"])
    assert caplog.text.count("for another reason") == 1
    assert caplog.text.count("works again") == 1
    assert found.watch.failures == 4
    assert source.is_closed


async def test_a_bug_in_a_source_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted(Answer(servers("a")), ZeroDivisionError(), Answer(servers("b")))
    async with followed(FILE, source) as found:
        await until(lambda: list(found.addresses) == ["b"])
    assert "the discovery by file went wrong" in caplog.text


async def test_changes_that_come_together_are_one() -> None:
    source = Scripted(Answer(servers("a")))
    async with followed(FILE, source) as found:
        await until(lambda: len(found.deltas) == 1)
        for name in "bcde":
            source.say(Answer(servers(name), is_complete=False))
        await until(lambda: len(found.addresses) == 5)
        assert len(found.deltas) == 2


async def test_defaults_are_for_what_the_source_does_not_say() -> None:
    source = Scripted(Answer({**servers("a"), **servers("b", weight=7, leaves=True)}))
    table = {**FILE, "defaults": {"weight": 3, "max_connections": 8, "slow_start": "5s"}}
    async with followed(table, source) as found:
        await until(lambda: len(found.addresses) == 2)
        a, b = found.watch.servers.values()
    assert (a.weight, a.max_connections, a.slow_start, a.leaves) == (3, 8, 5.0, False)
    assert (b.weight, b.max_connections, b.leaves, b.source) == (7, 8, True, "file")


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint(Address("10.0.0.1", 0)),
        Endpoint(Address("10.0.0.1", 80), weight=70_000),
        Endpoint(Address("10.0.0.1", 80), server_name="a b"),
    ],
)
async def test_a_server_that_is_invalid_is_left_out(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(Answer({"bad": endpoint, **servers("a")}))
    async with followed(FILE, source) as found:
        await until(lambda: list(found.addresses) == ["a"])
        source.say(Answer({"a": endpoint, **servers("b")}))  # one that was valid
        await until(lambda: list(found.addresses) == ["b"])
        assert found.deltas[-1].gone == ["a"]
    assert "bad' is left out" in caplog.text


# All backends.


def backends(**tables: dict[str, Any]) -> dict[str, Backend]:
    return {name: Backend.model_validate({"discovery": table}) for name, table in tables.items()}


def file_of(path: Path, *targets: str) -> dict[str, Any]:
    listed = ", ".join(f'"{target}"' for target in targets)
    path.write_text(f'[{{"targets": [{listed}]}}]')
    return {"file": {"path": str(path), "interval": "10ms"}}


async def test_a_start_has_the_first_answers(tmp_path: Path) -> None:
    configured = backends(one=file_of(tmp_path / "one", "10.0.0.1:80"), two=FILE)
    told: list[str] = []
    every = Discoveries(configured, lambda backend, delta: told.append(backend), rng=Random(0))
    try:
        await every.start()  # of two the failure is known
        assert list(every.servers("one")) == ["10.0.0.1-80"]
        assert every.servers("two") == every.servers("three") == {}
        assert told == []
        file_of(tmp_path / "one", "10.0.0.2:80")
        await until(lambda: told == ["one"])
        views = {view.backend: view for view in every.views()}
        assert (views["one"].servers, views["one"].failures) == (1, 0)
        assert views["one"].last_success > 0.0 == views["two"].last_success
        assert views["two"].failures
    finally:
        await every.stop()


async def test_a_start_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoveries_module, "_PATIENCE", 0.01)
    every = Discoveries(backends(one=FILE), lambda backend, delta: None, rng=Random(0))
    every.watches["one"]._source = Scripted()
    try:
        await every.start()
    finally:
        await every.stop()


async def test_a_reload_restarts_only_what_has_changed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    before = backends(one=file_of(one, "10.0.0.1:80"), two=file_of(two, "10.0.0.2:80"))
    every = Discoveries(before, lambda backend, delta: None, rng=Random(0))
    try:
        await every.start()
        watches = dict(every.watches)
        await every.reconfigure(before | backends(two={**before_of(two), "max_servers": 9}))
        assert every.watches["one"] is watches["one"]
        assert every.watches["two"] is not watches["two"]
        assert list(every.servers("two")) == ["10.0.0.2-80"]  # at once
        await every.reconfigure(backends(one=before_of(one)))
        assert every.servers("two") == {}
    finally:
        await every.stop()


def before_of(path: Path) -> dict[str, Any]:
    return {"file": {"path": str(path), "interval": "10ms"}}


async def test_an_upgrade_takes_the_servers_over(tmp_path: Path) -> None:
    import json

    path = tmp_path / "one"
    configured = backends(one=file_of(path, "10.0.0.1:80"))
    old = Discoveries(configured, lambda backend, delta: None, rng=Random(0))
    await old.start()
    await old.stop()
    state = json.loads(json.dumps(old.state))
    path.unlink()  # and its source is gone
    new = Discoveries(configured, lambda backend, delta: None, rng=Random(0))
    new.restore(state)
    new.restore([["none", "file", 0, None, []], ["one", "dns", 0, None, []]])
    try:
        await new.start()
        assert new.servers("one") == old.servers("one") != {}
    finally:
        await new.stop()
