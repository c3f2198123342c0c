"""One loop iteration, with peers that only record calls."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hermes_lb.proxy.batch import IoBatch
from hermes_lb.proxy.record import record_exchange


class Notes:
    """A transport, a connection and a loop in one: what happened to it, in order."""

    def __init__(self, name: str = "", *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.happened: list[Any] = []
        self.is_gone = False
        self.asked: list[Any] = []
        self.transport: Any = self

    # A transport.

    def write(self, data: bytes) -> None:
        if self.fails:
            raise ZeroDivisionError("a bug")
        self.happened.append(data)

    def close(self) -> None:
        self.happened.append("closed")
        self.is_gone = True

    def abort(self) -> None:
        self.happened.append("aborted")
        self.is_gone = True

    def is_closing(self) -> bool:
        return self.is_gone

    def get_extra_info(self, name: str) -> object:
        return self  # it has TLS, so its descriptor is not written to

    # A connection.

    def process(self, data: bytes) -> None:
        if self.fails:
            raise ZeroDivisionError("a bug")
        self.happened.append(("process", data))

    # A loop.

    def call_soon(self, callback: Any) -> None:
        self.asked.append(callback)


TYPED = pytest.mark.pure_only("compiled code takes no fakes for connections and exchanges")


@pytest.fixture
def loop() -> Notes:
    return Notes("loop")


@pytest.fixture
def turn(loop: Notes) -> IoBatch:
    return IoBatch(loop, record_exchange)  # type: ignore[arg-type]


def end(loop: Notes) -> None:
    (callback,) = loop.asked
    loop.asked.clear()
    callback()


@TYPED
def test_nothing_is_done_before_the_end_of_the_turn(turn: IoBatch, loop: Notes) -> None:
    client, server, peer = Notes(), Notes(), Notes()
    turn.response_came(server, b"response")  # type: ignore[arg-type]
    turn.request_came(client, b"request")  # type: ignore[arg-type]
    turn.send(peer, b"bytes")  # type: ignore[arg-type]
    assert client.happened == server.happened == peer.happened == []
    end(loop)
    assert client.happened == [("process", b"request")]
    assert server.happened == [("process", b"response")]
    assert peer.happened == [b"bytes"]
    assert loop.asked == []


@TYPED
def test_the_stages_have_an_order(loop: Notes) -> None:
    seen: list[str] = []

    class Noted(Notes):
        def process(self, data: bytes) -> None:
            seen.append(self.name)

        def write(self, data: bytes) -> None:
            seen.append("write")

    turn = IoBatch(loop, lambda *_: seen.append("record"))  # type: ignore[arg-type]
    turn.exchange_ended(object(), 1.0, "--")  # type: ignore[arg-type]
    turn.send(Noted(), b"bytes")  # type: ignore[arg-type]
    turn.response_came(Noted("response"), b"")  # type: ignore[arg-type]
    turn.request_came(Noted("request"), b"")  # type: ignore[arg-type]
    end(loop)
    assert seen == ["request", "response", "write", "record"]


@TYPED
def test_what_a_stage_adds_is_for_the_stages_after_it(loop: Notes) -> None:
    peer = Notes("peer")

    class Answering(Notes):
        def process(self, data: bytes) -> None:
            turn.send(peer, data)  # type: ignore[arg-type]
            turn.exchange_ended(object(), 1.0, "--")  # type: ignore[arg-type]

    turn = IoBatch(loop, lambda *_: peer.happened.append("recorded"))  # type: ignore[arg-type]
    turn.request_came(Answering(), b"bytes")  # type: ignore[arg-type]
    end(loop)
    assert peer.happened == [b"bytes", "recorded"]
    assert loop.asked == []


@TYPED
def test_frames_that_a_write_of_frames_asks_for_are_for_the_next_iteration(
    turn: IoBatch, loop: Notes
) -> None:
    class Framing(Notes):
        def write_frames(self) -> None:
            self.happened.append("frames")
            if len(self.happened) == 1:
                turn.frames_wait(self)  # type: ignore[arg-type]

    connection = Framing()
    turn.frames_wait(connection)  # type: ignore[arg-type]
    end(loop)
    end(loop)
    assert connection.happened == ["frames", "frames"]
    assert loop.asked == []


@TYPED
def test_what_comes_too_late_for_its_stage_is_for_the_next_iteration(loop: Notes) -> None:
    peer = Notes("peer")

    class Failing(Notes):
        def write(self, data: bytes) -> None:
            turn.response_came(peer, b"refused")  # type: ignore[arg-type]

    turn = IoBatch(loop, record_exchange)  # type: ignore[arg-type]
    turn.send(Failing(), b"bytes")  # type: ignore[arg-type]
    end(loop)
    assert peer.happened == []
    end(loop)
    assert peer.happened == [("process", b"refused")]


def test_a_connection_keeps_the_order_of_its_bytes(turn: IoBatch, loop: Notes) -> None:
    peer = Notes()
    turn.send(peer, b"head")  # type: ignore[arg-type]
    turn.relay(peer, b"chunk")  # type: ignore[arg-type]
    turn.close(peer)  # type: ignore[arg-type]
    end(loop)
    assert peer.happened == [b"head", b"chunk", "closed"]


def test_a_close_takes_the_bytes_of_its_own_connection(turn: IoBatch, loop: Notes) -> None:
    peer, other = Notes(), Notes()
    turn.send(peer, b"bytes")  # type: ignore[arg-type]
    turn.close(other)  # type: ignore[arg-type]
    end(loop)
    assert (peer.happened, other.happened) == ([b"bytes"], ["closed"])


def test_a_second_close_loses_nothing(turn: IoBatch, loop: Notes) -> None:
    peer = Notes()
    turn.send(peer, b"bytes")  # type: ignore[arg-type]
    turn.close(peer)  # type: ignore[arg-type]
    assert turn.pending(peer) == 5  # type: ignore[arg-type]
    turn.close(peer)  # type: ignore[arg-type]
    end(loop)
    assert peer.happened[:2] == [b"bytes", "closed"]


def test_a_chunk_leaves_at_once_if_nothing_is_before_it(turn: IoBatch, loop: Notes) -> None:
    peer = Notes()
    turn.relay(peer, b"token")  # type: ignore[arg-type]
    assert peer.happened == [b"token"]
    assert loop.asked == []


def test_bulk_takes_all_that_was_before_it_along(turn: IoBatch) -> None:
    first, second = Notes(), Notes()
    turn.send(first, b"small")  # type: ignore[arg-type]
    turn.send(second, bytes(100_000))  # type: ignore[arg-type]
    assert first.happened == [b"small"]
    assert second.happened == [bytes(100_000)]


def test_what_is_closed_gets_nothing_more(turn: IoBatch, loop: Notes) -> None:
    peer = Notes()
    turn.send(peer, b"late")  # type: ignore[arg-type]
    peer.is_gone = True
    turn.relay(peer, b"later")  # type: ignore[arg-type]
    end(loop)
    assert peer.happened == []


@TYPED
def test_a_bug_costs_one_connection(
    turn: IoBatch, loop: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Notes(fails=True), Notes()
    broken_server, sound_server = Notes(fails=True), Notes()
    for client in (broken, sound):
        turn.request_came(client, b"request")  # type: ignore[arg-type]
    for server in (broken_server, sound_server):
        turn.response_came(server, b"response")  # type: ignore[arg-type]
    broken_peer, sound_peer = Notes(fails=True), Notes()
    for peer in (broken_peer, sound_peer):
        turn.send(peer, b"bytes")  # type: ignore[arg-type]
    turn.exchange_ended(object(), 1.0, "--")  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR, logger="hermes_lb"):
        end(loop)
    assert broken.happened == broken_server.happened == broken_peer.happened == ["aborted"]
    assert sound_peer.happened == [b"bytes"]
    assert sound.happened == [("process", b"request")]
    assert sound_server.happened == [("process", b"response")]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 4


async def test_it_ends_with_the_turn_of_a_real_loop() -> None:
    turn, peer = IoBatch(asyncio.get_running_loop(), record_exchange), Notes()
    turn.send(peer, b"bytes")  # type: ignore[arg-type]
    assert peer.happened == []
    await asyncio.sleep(0)
    assert peer.happened == [b"bytes"]
