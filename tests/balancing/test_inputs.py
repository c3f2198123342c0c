"""The data path's input to strategies: the request's fields, and how servers answer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.balancing.least_load import LeastLoad
from hermes_lb.balancing.least_tokens import LeastTokens
from hermes_lb.balancing.peak_ewma import PeakEwma
from tests.support.http_peer import Message, request
from tests.support.origin import answers
from tests.support.stage import Stage, pool_of, server_of
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


async def test_tokens_are_learnt_of_whole_responses_and_given_back_by_all(stage: Stage) -> None:
    """Neither an error teaches anything, nor a response that its client leaves."""
    lb, client, origin = await stage.line(backend={"balance": "least_tokens"})
    strategy = _strategy_of(lb)
    assert isinstance(strategy, LeastTokens)
    for head, is_cut, is_learnt in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", False, True),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4000\r\n\r\n", False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", True, False),
    ):
        before = strategy._work._output
        await client.get("/")
        at_origin, _ = await origin.accept_request()
        assert strategy.tokens(server_of(lb)) > 0
        await at_origin.send(head + b"x" * 4000)
        await client.read_until(b"x" * 4000)
        if is_cut:
            client.close()
        await eventually(lambda: strategy._tokens == {})
        assert (strategy._work._output != before) is is_learnt
        at_origin.close()
        client.close()
        client = await stage.client(lb)


async def test_a_request_is_pushed_when_its_server_has_room(stage: Stage) -> None:
    lb, client, origin = await stage.line(
        backend={"balance": "selective_push", "strategy": {"slots": 1, "queue": 0}}
    )
    await client.get("/first")
    first, _ = await origin.accept_request()
    waits = await stage.client(lb)
    await waits.get("/second")
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    await first.respond(b"one", "Connection: close")
    assert (await client.read_response()).body == b"one"
    second, request_of_second = await origin.accept_request()
    assert request_of_second.head.target == "/second"
    await second.respond(b"two")
    assert (await waits.read_response()).body == b"two"


@pytest.mark.parametrize("mistake", ["raise", "return", "start"])
async def test_a_mistake_of_ones_own_strategy_is_no_clients_trouble(
    stage: Stage, mistake: str
) -> None:
    lb = await stage.balancer(
        *await stage.agents(3), backend={"balance": "python:tests.support.own_strategy:Breaks"}
    )
    pool = pool_of(lb)
    good = [(await stage.ask(lb)).body for _ in range(2)]
    bad = [await stage.ask(lb, f"X-Mistake: {mistake}") for _ in range(6)]
    assert [answer.status for answer in bad] == [200] * 6
    if mistake != "start":
        assert sorted(Counter(answer.body for answer in bad).values()) == [2, 2, 2]
    assert (await stage.ask(lb)).body == good[0] == good[1]
    assert pool.unserved.strategy_failures == 6
    await eventually(lambda: pool.in_flight == 0)
    strategy: Any = _strategy_of(lb)
    assert strategy.inner.ended_leases == (3 if mistake == "start" else 9)
    (line,) = stage.problems
    stage.problems.clear()
    assert "backend agents: strategy python:tests.support.own_strategy:Breaks: " in line


def _strategy_of(lb: LoadBalancer) -> object:
    return lb._plane.backends["agents"].strategy
