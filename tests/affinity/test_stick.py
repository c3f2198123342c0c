"""A session stays with its server: by a key that is hashed, or by one that was learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import request
from tests.support.origin import Origin, answers
from tests.support.stage import Stage, in_flight, server_of

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Message

MCP = {"on": "header:Mcp-Session-Id", "learn": True}


class Sessions:
    """Origins that mint sessions, and know only their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: set[str] = set()

    async def handle(self, connection: AtOrigin, message: Message) -> None:
        asked = message.get("Mcp-Session-Id")
        if asked is None:
            session = f"{self.name}-{len(self.known)}"
            self.known.add(session)
            await connection.respond(self.name.encode(), f"mcp-session-id: {session}")
        else:
            status = 200 if asked in self.known else 404
            await connection.respond(self.name.encode(), status=status)


async def mint(stage: Stage, count: int = 3) -> list[Origin]:
    return [await stage.serving(Sessions(f"s{n}").handle) for n in range(count)]


def session_of(answer: Message) -> str:
    session = answer.get("mcp-session-id")
    assert session is not None
    return session


async def test_without_a_rule_stateful_servers_lose_their_sessions(stage: Stage) -> None:
    lb = await stage.balancer(*await mint(stage))
    session = session_of(await stage.ask(lb))
    found = [(await stage.ask(lb, f"Mcp-Session-Id: {session}")).status for _ in range(6)]
    assert 404 in found


async def test_a_session_is_learnt_from_the_response_that_made_it(stage: Stage) -> None:
    lb = await stage.balancer(*await mint(stage), backend={"stick": [MCP]})
    sessions = [session_of(await stage.ask(lb)) for _ in range(9)]
    assert len({session.partition("-")[0] for session in sessions}) == 3
    for session in sessions * 3:
        answer = await stage.ask(lb, f"Mcp-Session-Id: {session}")
        assert (answer.status, answer.body.decode()) == (200, session.partition("-")[0])


async def test_a_hashed_key_goes_to_one_server_on_every_balancer(stage: Stage) -> None:
    origins = [await stage.serving(answers(b"%d" % n)) for n in range(4)]
    rule = {"on": "path:/sessions/{id}"}
    one = await stage.balancer(*origins, backend={"stick": [rule]})
    two = await stage.balancer(*origins, backend={"stick": [rule], "balance": "leastconn"})
    served: dict[int, set[bytes]] = {}
    for n in range(40):
        for lb in (one, two, one):
            answer = await stage.ask(lb, target=f"/sessions/{n}/messages")
            served.setdefault(n, set()).add(answer.body)
    assert all(len(bodies) == 1 for bodies in served.values())
    assert len(set().union(*served.values())) == 4


async def test_a_server_that_is_away_loses_its_sessions_to_another(stage: Stage) -> None:
    lb = await stage.balancer(*await mint(stage), backend={"stick": [MCP]})
    session = session_of(await stage.ask(lb))
    owner = next(s for s in lb.pools["agents"].servers if s.counters.responses[2])
    owner.set_up(False, "for a test")
    answer = await stage.ask(lb, f"Mcp-Session-Id: {session}")
    assert answer.status == 404
    owner.set_up(True, "for a test")
    # A server that did not know it does not get it.
    assert (await stage.ask(lb, f"Mcp-Session-Id: {session}")).status == 200


not_elsewhere = pytest.mark.parametrize(
    ("on_lost", "status"), [("strict", 503), ("404", 404)], ids=["strict", "404"]
)


@not_elsewhere
async def test_no_other_server_takes_it(stage: Stage, on_lost: str, status: int) -> None:
    for rule in ({**MCP, "on_lost": on_lost}, {"on": "client", "on_lost": on_lost}):
        servers = await mint(stage)
        lb = await stage.balancer(*servers, backend={"stick": [rule]})
        session = session_of(await stage.ask(lb))
        owner = next(s for s in lb.pools["agents"].servers if s.counters.responses[2])
        owner.set_up(False, "for a test")
        answer = await stage.ask(lb, f"Mcp-Session-Id: {session}")
        assert answer.status == status
        assert sum(len(server.requests) for server in servers) == 1
        assert (answer.get("Retry-After") is None) is (status == 404)
        assert in_flight(lb) == [0, 0, 0]


@not_elsewhere
@pytest.mark.parametrize("way", ["refused", "timed out"])
async def test_a_session_does_not_leave_a_server_that_can_not_be_dialed(
    stage: Stage, way: str, on_lost: str, status: int
) -> None:
    other = await stage.serving()
    lb = await stage.balancer(
        stage.nobody() if way == "refused" else stage.black_hole(),
        other,
        backend={"stick": [{"on": "header:K", "on_lost": on_lost}], "retries": 1},
        timeouts={"connect": 0.5},
    )
    for n in range(20):
        answer = await stage.ask(lb, f"K: {n}")
        if answer.status != 200:
            break
    else:
        raise AssertionError("no key belongs to the server that can't be dialed")
    before = len(other.requests)
    assert [answer.status, (await stage.ask(lb, f"K: {n}")).status] == [status, status]
    assert len(other.requests) == before


async def test_a_lost_session_is_told_and_logged(stage: Stage) -> None:
    lb = await stage.balancer(*await mint(stage), backend={"stick": [{**MCP, "on_lost": "404"}]})
    session = session_of(await stage.ask(lb))
    owner = next(s for s in lb.pools["agents"].servers if s.counters.responses[2])
    owner.set_up(False, "for a test")
    client = await stage.client(lb)
    answer = await client.ask("/", f"Mcp-Session-Id: {session}")
    assert answer.body == b"404 Not Found: the session has ended, please begin another one\n"
    # The same connection is good for the next session.
    assert (await client.ask("/")).status == 200
    _, lost, _ = await stage.logged(lb, 3)
    assert (lost.status, lost.termination, lost.server) == (404, "SC", "<NOSRV>")
    assert lost.reason == f"{owner.name}, which has the session, is not available"


async def test_a_session_that_is_not_known_is_the_servers_to_refuse(stage: Stage) -> None:
    """One that has expired here, or that an earlier balancer has learnt."""
    servers = await mint(stage)
    lb = await stage.balancer(*servers, backend={"stick": [{**MCP, "on_lost": "404"}]})
    assert (await stage.ask(lb, "Mcp-Session-Id: s9-9")).body in (b"s0", b"s1", b"s2")
    assert sum(len(one.requests) for one in servers) == 1


async def test_a_server_that_is_not_the_sessions_own_ends_none(stage: Stage) -> None:
    rule = {**MCP, "on_lost": "404"}
    lb = await stage.balancer(stage.nobody(), backend={"stick": [rule], "retries": 0})
    assert (await stage.ask(lb, "Mcp-Session-Id: m")).status == 503


async def test_a_request_that_may_have_been_executed_says_nothing_of_its_session(
    stage: Stage,
) -> None:
    _, client, origin = await stage.line(backend={"stick": [{**MCP, "on_lost": "404"}]})
    await client.get("/", "Mcp-Session-Id: m")
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"ok")
    assert (await client.read_response()).status == 200
    await client.send(request("POST", "/", "Host: a", "Mcp-Session-Id: m", body=b"{}"))
    await at_origin.read_request()
    at_origin.close()
    assert (await client.read_response()).status == 502


async def test_a_retry_goes_where_the_keys_next_requests_go(stage: Stage) -> None:
    """To the next on the ring, so that one session meets one server more and not two."""
    others = [await stage.serving(answers(b"%d" % n)) for n in range(4)]
    lb = await stage.balancer(
        stage.nobody(), *others, backend={"stick": [{"on": "header:K"}]}, server={"max_fails": 1}
    )
    refusing = server_of(lb)
    heirs: set[bytes] = set()
    for n in range(40):
        refusing.recovered()
        retries = refusing.counters.retries
        first = (await stage.ask(lb, f"K: {n}")).body
        if refusing.counters.retries > retries:
            assert {(await stage.ask(lb, f"K: {n}")).body for _ in range(3)} == {first}
            heirs.add(first)
    assert len(heirs) > 1  # keys of one server spread over the others


async def test_the_cookie_comes_first(stage: Stage) -> None:
    origins = [await stage.serving(answers(b"%d" % n)) for n in (1, 2, 3)]
    lb = await stage.balancer(
        *origins, backend={"stick": [{"on": "client"}], "affinity": {"cookie": "S"}}
    )
    for n in (1, 2, 3):
        assert (await stage.ask(lb, f"Cookie: S=agent{n}")).body == b"%d" % n
