"""The data path's input to strategies: the request's fields, and how servers answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.peak_ewma import PeakEwma
from tests.support.http_peer import Message, request
from tests.support.origin import answers
from tests.support.stage import Stage, server_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer


async def ask(stage: Stage, lb: LoadBalancer, sent: bytes) -> Message:
    client = await stage.client(lb)
    answer = await client.answer_to(sent)
    client.close()
    return answer


@pytest.mark.parametrize("balance", ["consistent_hash", "maglev"])
@pytest.mark.parametrize("kind", ["header:X-Hermes-Session-Id", "cookie:sid", "query:session"])
async def test_a_session_stays_with_its_server(stage: Stage, balance: str, kind: str) -> None:
    lb = await stage.balancer(
        *await stage.agents(3),
        backend={"balance": balance, "strategy": {"hash_on": kind}},
    )

    def of(session: str, body: bytes | None = None) -> bytes:
        fields = {
            "header": [f"X-Hermes-Session-Id: {session}"],
            "cookie": [f"Cookie: a=1; sid={session}"],
            "query": [],
        }[kind.partition(":")[0]]
        target = f"/chat?session={session}" if kind.startswith("query") else "/chat"
        return request("POST" if body else "GET", target, *fields, body=body)

    sessions = [f"s{n}" for n in range(12)]
    first = [(await ask(stage, lb, of(session))).body for session in sessions]
    assert len(set(first)) == 3
    assert [(await ask(stage, lb, of(s, b"hello"))).body for s in sessions] == first


async def test_a_server_that_reports_a_load_is_spared(stage: Stage) -> None:
    busy = await stage.serving(answers(b"busy", "X-Hermes-Load: 7"))
    idle = await stage.serving(answers(b"idle", "X-Hermes-Load: 0.5"))
    lb = await stage.balancer(
        busy.port, idle.port, backend={"balance": "least_load", "strategy": {"tau": "1h"}}
    )
    bodies = [(await ask(stage, lb, request("GET", "/"))).body for _ in range(30)]
    # Before it has reported, it is drawn with every second request; after that, never.
    assert bodies.count(b"busy") == 1
    strategy = _strategy_of(lb)
    assert isinstance(strategy, LeastLoad)
    assert strategy.load(server_of(lb), 0.0) == 6.0  # the seventh was this request


@pytest.mark.parametrize(
    ("body", "fields"), [(b'{"status": "ok", "load": 7}', ()), (b"", ("X-Hermes-Load: 7",))]
)
async def test_a_health_check_tells_a_load_too(
    stage: Stage, body: bytes, fields: tuple[str, ...]
) -> None:
    origin = await stage.serving(answers(body, *fields))
    lb = await stage.balancer(
        origin, backend={"balance": "least_load", "health": {"path": "/", "interval": "10ms"}}
    )
    strategy = _strategy_of(lb)
    assert isinstance(strategy, LeastLoad)
    server, clock = server_of(lb), lb._context.clock
    await eventually(lambda: strategy.load(server, clock()) == 7.0)
    await lb.stop()


async def test_the_time_to_the_first_byte_is_learnt_while_a_stream_goes_on(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked("/stream", backend={"balance": "peak_ewma"})
    strategy = _strategy_of(lb)
    assert isinstance(strategy, PeakEwma)
    assert not strategy._averages
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await client.read_until(b"x\r\n")
    (learnt,) = strategy._averages.values()
    await at_origin.send(b"1\r\ny\r\n0\r\n\r\n")
    await client.read_until(b"0\r\n\r\n")
    assert list(strategy._averages.values()) == [learnt]


def _strategy_of(lb: LoadBalancer) -> object:
    return lb._plane.backends["agents"].strategy
