"""Learned sessions, between workers and supervisor, over real pairs of sockets."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Config
from hermes_lb.workers.channel import Channel
from hermes_lb.workers.pins import AllPins, ChannelPins
from tests.workers.shared import Shared, a_shared_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEY = b"\x00session \xff"
LEARNS = {"on": "header:x-session", "learn": True}


def config(**backends: dict[str, Any]) -> Config:
    """Backends with these settings."""
    servers = [{"name": "a", "address": "10.0.0.1:80"}]
    return Config.model_validate(
        {
            "frontends": [{"name": "p", "bind": "127.0.0.1:0", "default_backend": "agents"}],
            "backends": {name: {"servers": servers, **given} for name, given in backends.items()},
        }
    )


def pin(server: str, backend: str = "agents", key: bytes = KEY) -> dict[str, Any]:
    return {"do": "pin", "backend": backend, "key": key.hex(), "server": server}


def find(backend: str = "agents", key: bytes = KEY) -> dict[str, Any]:
    return {"do": "find", "backend": backend, "key": key.hex()}


# Tables.


@pytest.fixture
def pins() -> AllPins:
    pins = AllPins()
    pins.reconfigure(
        config(
            agents={"stick": [LEARNS], "pins": {"expire": 10.0, "size": 2}},
            hashed={"stick": [{"on": "header:x-session"}]},
            elsewhere={"stick": [LEARNS], "pins": {"redis": "redis://127.0.0.1:1/0"}},
        )
    )
    return pins


def test_what_was_reported_is_known_until_it_expires(pins: AllPins):
    assert pins.note(pin("a"), 0.0)
    assert pins.find(find(), 9.0) == "a"
    assert pins.find(find(), 18.0) == "a"  # the last look-up counts as a use
    assert pins.find(find(), 28.0) is None


def test_the_last_word_counts(pins: AllPins):
    pins.note(pin("a"), 0.0)
    pins.note(pin("b"), 0.0)
    assert pins.find(find(), 1.0) == "b"


def test_there_are_only_so_many(pins: AllPins):
    for number in range(3):
        pins.note(pin("a", key=bytes([number])), 0.0)
    found = [pins.find(find(key=bytes([number])), 1.0) for number in range(3)]
    assert found == [None, "a", "a"]


@pytest.mark.parametrize("backend", ["hashed", "elsewhere", "unknown"])
def test_backends_that_do_not_learn_here_have_none(pins: AllPins, backend: str):
    assert not pins.note(pin("a", backend), 0.0)
    assert pins.find(find(backend), 0.0) is None


def test_a_reload_keeps_the_pins_of_who_still_learns(pins: AllPins):
    pins.note(pin("a"), 0.0)
    pins.reconfigure(config(agents={"stick": [LEARNS], "pins": {"expire": 100.0}}))
    assert pins.find(find(), 50.0) == "a"
    pins.reconfigure(config(agents={}))
    pins.reconfigure(config(agents={"stick": [LEARNS]}))
    assert pins.find(find(), 51.0) is None


def test_the_next_generation_knows_them(pins: AllPins):
    pins.note(pin("a"), 0.0)
    following = AllPins()
    following.reconfigure(config(agents={"stick": [LEARNS]}))
    following.restore(json.loads(json.dumps(pins.state())), 5.0)
    assert following.find(find(), 6.0) == "a"


# Look-ups.


class FakeWorker:
    """A worker's end of the channel, and the supervisor's."""

    def __init__(self, shared: Shared) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(theirs, lambda message, _: None)
        self.pins = ChannelPins(self.channel, "agents")
        child: Any = SimpleNamespace(number=0)
        child.channel = self.of_supervisor = Channel(
            ours, lambda message, _: shared.state.hear(child, message)
        )

    def close(self) -> None:
        self.channel.close()
        self.of_supervisor.close()


@pytest.fixture
def shared() -> Iterator[Shared]:
    with a_shared_state(config(agents={"stick": [LEARNS]})) as shared:
        yield shared


@pytest.fixture
async def workers(shared: Shared) -> AsyncIterator[list[FakeWorker]]:
    workers = [FakeWorker(shared), FakeWorker(shared)]
    yield workers
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("asker", [0, 1])
async def test_no_answer_comes_before_what_was_reported_by_then(
    workers: list[FakeWorker], asker: int
):
    """The asker's socket is read first, as it had data before."""
    for number in range(50):
        key = bytes([number])
        workers[asker].pins.announce(KEY, "a")
        workers[1 - asker].pins.announce(key, "a")
        assert await workers[asker].pins.look_up(key) == "a"


async def test_workers_of_the_next_generation_are_answered_too(shared: Shared):
    shared.state.hear(SimpleNamespace(number=0), pin("a"))
    with a_shared_state(config(agents={"stick": [LEARNS]})) as following:
        following.state.restore(json.loads(json.dumps(shared.state.state())))
        worker = FakeWorker(following)
        assert await worker.pins.look_up(KEY) == "a"
        worker.close()


async def test_what_was_never_reported_is_unknown(workers: list[FakeWorker]):
    assert await workers[0].pins.look_up(KEY) is None


async def test_a_supervisor_that_is_gone_knows_nothing(workers: list[FakeWorker]):
    assert workers[0].pins.is_reachable
    workers[0].of_supervisor.close()
    assert await workers[0].pins.look_up(KEY) is None
    assert not workers[0].pins.is_reachable
    workers[0].pins.announce(KEY, "a")


async def test_a_supervisor_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("hermes_lb.workers.pins._PATIENCE", 0.0)
    ours, theirs = socket.socketpair()
    channel = Channel(theirs, lambda message, _: None)
    assert await ChannelPins(channel, "agents").look_up(KEY) is None
    channel.close()
    ours.close()


class Silent:
    """The supervisor's end of a channel: records questions, leaves the first ones unanswered."""

    def __init__(self, but: int) -> None:
        self.asked = 0
        self._but = but
        ours, theirs = socket.socketpair()
        self.channel = Channel(theirs, lambda message, _: None)
        self.of_supervisor = Channel(ours, self._hear)

    def _hear(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.asked += 1
        if self.asked > self._but:
            self.of_supervisor.answer(message, {"server": "a"})

    def close(self) -> None:
        self.channel.close()
        self.of_supervisor.close()


@pytest.fixture
async def silent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Silent]:
    """Two questions are lost."""
    monkeypatch.setattr("hermes_lb.workers.pins._PATIENCE", 0.05)
    silent = Silent(2)
    yield silent
    silent.close()


async def test_who_asks_while_the_supervisors_generation_is_replaced_waits(silent: Silent):
    """The previous generation may have read the question, and the next one knows nothing of it."""
    assert await ChannelPins(silent.channel, "agents", lambda: True).look_up(KEY) == "a"
    assert silent.asked == 3


async def test_who_asked_just_before_it_began_or_ended_waits_too(silent: Silent):
    states = [False, True, True, False]  # before and after the first, the second and so on
    pins = ChannelPins(silent.channel, "agents", lambda: states.pop(0))
    assert await pins.look_up(KEY) == "a"


async def test_a_supervisor_that_is_replaced_and_never_answers_is_not_waited_for_for_ever(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hermes_lb.workers.pins._MOST_TIMES", 2)
    assert await ChannelPins(silent.channel, "agents", lambda: True).look_up(KEY) is None


async def test_a_supervisor_that_goes_while_it_is_replaced_is_not_waited_for(silent: Silent):
    pins = ChannelPins(silent.channel, "agents", lambda: True)
    silent.of_supervisor.close()
    assert await pins.look_up(KEY) is None


async def test_a_pin_is_passed_on_to_the_other_workers(shared: Shared):
    worker = FakeWorker(shared)
    ChannelPins(worker.channel, "agents").announce(KEY, "a")
    ChannelPins(worker.channel, "unknown").announce(KEY, "a")
    assert await worker.pins.look_up(KEY) == "a"  # so both have been read by now
    assert shared.fleet.told == [pin("a")]
    worker.close()
