"""A backend whose servers are well is not emptied by passive failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import Ended
from tests.support.origin import answers

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.origin import Handler, Origin
    from tests.support.stage import Stage

SERVERS = 3
STRATEGIES = (
    "round_robin", "leastconn", "ip_hash", "random", "consistent_hash", "maglev", "p2c",
    "peak_ewma", "prequal", "least_load", "least_sessions", "least_tokens", "session_stealing",
    "dual_map", "selective_push", "fair_queue",
)  # fmt: skip


class Refusing:
    """Three servers, of which some close each connection without a byte: an error that counts."""

    def __init__(self, origins: list[Origin]) -> None:
        self.which: set[int] = set()
        for number, origin in enumerate(origins):
            origin.serve(self.handler(number))

    def handler(self, number: int) -> Handler:
        async def handle(connection: AtOrigin, message: Message) -> None:
            if number in self.which:
                raise Ended(b"", by_reset=False)
            await connection.respond(b"ok", "Connection: close")

        return handle


@pytest.mark.parametrize("balance", STRATEGIES)
async def test_servers_that_fail_in_turn_refuse_nobody(stage: Stage, balance: str) -> None:
    origins = [await stage.origin() for _ in range(SERVERS)]
    refusing = Refusing(origins)
    lb = await stage.balancer(*origins, backend={"balance": balance})
    client = await stage.client(lb)
    servers = lb.pools["agents"].servers
    statuses = []
    for refuses in (*({number} for number in range(SERVERS)), set[int]()):
        refusing.which = refuses
        statuses += [(await client.ask()).status for _ in range(40)]
    assert statuses == [200] * len(statuses)
    assert any(not server.is_failing for server in servers)
    assert not lb.pools["agents"].in_panic


async def test_when_all_have_failed_each_request_still_asks(stage: Stage) -> None:
    origins = [await stage.origin() for _ in range(SERVERS)]
    refusing = Refusing(origins)
    lb = await stage.balancer(*origins)
    client = await stage.client(lb)
    refusing.which = {0, 1, 2}
    for _ in range(5):
        assert (await client.ask()).status == 502
    pool = lb.pools["agents"]
    assert [server.state for server in pool.servers] == ["failing"] * SERVERS
    assert pool.in_panic
    refusing.which = {0, 1}
    for _ in range(20):
        assert (await client.ask()).status == 200
    assert [server.state for server in pool.servers] == ["failing", "failing", "up"]


@pytest.mark.parametrize("on_lost", ["prefer", "strict"])
async def test_a_session_stays_with_its_server_while_all_are_failing(
    stage: Stage, on_lost: str
) -> None:
    origins = [await stage.serving(answers(b"%d" % number)) for number in range(SERVERS)]
    lb = await stage.balancer(
        *origins, backend={"stick": [{"on": "header:X-Key", "on_lost": on_lost}]}
    )
    client = await stage.client(lb)
    pool = lb.pools["agents"]

    async def asked(key: int) -> bytes:
        return (await client.ask("/", f"X-Key: {key}")).body

    homes = [await asked(key) for key in range(8)]
    assert len(set(homes)) > 1
    for server in pool.servers:
        for _ in range(server.config.max_fails):
            pool.failed(server, lb._plane.context.clock() - 1.0, "for a test")
    assert pool.in_panic
    assert [await asked(key) for key in range(8)] == homes
    assert not pool.in_panic


async def test_a_strict_session_is_served_although_its_server_is_failing(stage: Stage) -> None:
    origins = [await stage.serving(answers(b"%d" % number)) for number in range(2)]
    lb = await stage.balancer(
        *origins, backend={"stick": [{"on": "header:X-Key", "on_lost": "strict"}]}
    )
    client = await stage.client(lb)
    home = (await client.ask("/", "X-Key: 1")).body
    pool = lb.pools["agents"]
    server = pool.servers[int(home)]
    for _ in range(server.config.max_fails):
        pool.failed(server, lb._plane.context.clock() - 1.0, "for a test")
    assert (await client.ask("/", "X-Key: 1")).body == home
    assert server.state == "up"
