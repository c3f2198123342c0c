"""The recorder sees what a real balancer does, and leaves nothing behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.proxy.http1.client import ClientConnection
from hermes_lb.proxy.timeouts import PlainTimeouts
from tests.phases.plugin import _Plugin
from tests.phases.recorder import UNSEEN, Recorder
from tests.phases.recording import Recording
from tests.support.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

PATCHED = pytest.mark.pure_only("the recorder patches methods of connections")

ONE_GET = [
    "C DIAL [absolute connect]  dialled  ->  H AWAIT [absolute server]",
    "GONE [-]  client lost  ->  GONE [-]",
    "H AWAIT [absolute server]  response head  ->  IDLE [absolute keep_alive]  ends --",
    "HEAD [absolute request_head]  request head  ->  C DIAL [absolute connect]",
    "IDLE [absolute keep_alive]  client left  ->  GONE [-]",
    "NEW [-]  connected  ->  HEAD [absolute request_head]",
]


@PATCHED
async def test_one_get(tmp_path: Path) -> None:
    with Recorder() as recorder:
        recorder.begin_test("a test")
        async with Stage(tmp_path) as stage:
            client = await stage.client(await stage.balancer(await stage.serving()))
            await client.ask()
    transitions = sorted(recorder.recording.transitions.items())
    assert [str(transition) for transition, _ in transitions] == ONE_GET
    assert {test for _, seen in transitions for test in seen.tests} == {"a test"}


@PATCHED
async def test_a_change_between_two_events_is_seen(tmp_path: Path) -> None:
    with Recorder() as recorder:
        async with Stage(tmp_path) as stage:
            lb, client, at_origin = await stage.asked()
            (connection,) = lb._context.live.clients
            connection.exchange.deadline = float("inf")
            await at_origin.respond(b"ok")
            await client.read_response()
    (unseen,) = (one for one in recorder.recording.transitions if one.event == UNSEEN)
    assert str(unseen) == "H AWAIT [absolute server]  (unseen)  ->  H AWAIT [none]"


@PATCHED
async def test_what_traffic_moves_stays_idle_behind_a_sweep(tmp_path: Path) -> None:
    with Recorder() as recorder:
        async with Stage(tmp_path) as stage:
            lb, client, at_origin = await stage.asked()
            (connection,) = lb._context.live.clients
            await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await client.read_head()
            for byte in (b"o", b"k"):
                await at_origin.send(byte)
                await client.read_exactly(1)
                connection.sweep(lb._context.clock())
    data = [str(one) for one in recorder.recording.transitions if one.event == "response data"]
    assert sorted(data) == [
        "D DATA [absolute server]  response data  ->  D DATA [idle server]",
        "D DATA [idle server]  response data  ->  IDLE [absolute keep_alive]  ends --",
    ]


def test_nothing_is_left_behind() -> None:
    before = ClientConnection.process, PlainTimeouts.__init__
    with Recorder():
        assert ClientConnection.process is not before[0]
    assert (ClientConnection.process, PlainTimeouts.__init__) == before


def test_workers_of_pytest_record_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    controller: Any = SimpleNamespace()
    collecting = _Plugin(controller, path)
    for test in ("a", "b"):
        worker: Any = SimpleNamespace(workeroutput={})
        recording = _Plugin(worker, path)
        recording.pytest_runtest_logstart(test)
        recording.pytest_sessionfinish()
        assert not path.exists()
        collecting.pytest_testnodedown(worker)
    collecting.pytest_testnodedown(SimpleNamespace())  # one that crashed
    collecting.pytest_sessionfinish()
    assert Recording.load(path).tests == {"a", "b"}
