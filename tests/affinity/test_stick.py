"""A session stays with its server: by a key that is hashed, or by one that was learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


async def test_strict_is_a_503_instead(stage: Stage) -> None:
    for rule in ({**MCP, "on_lost": "strict"}, {"on": "client", "on_lost": "strict"}):
        lb = await stage.balancer(*await mint(stage), backend={"stick": [rule]})
        session = session_of(await stage.ask(lb))
        owner = next(s for s in lb.pools["agents"].servers if s.counters.responses[2])
        owner.set_up(False, "for a test")
        answer = await stage.ask(lb, f"Mcp-Session-Id: {session}")
        assert answer.status == 503
        assert in_flight(lb) == [0, 0, 0]


async def test_strict_does_not_leave_a_server_that_refuses(stage: Stage) -> None:
    other = await stage.serving()
    lb = await stage.balancer(
        stage.nobody(),
        other,
        backend={"stick": [{"on": "header:K", "on_lost": "strict"}], "retries": 1},
    )
    for n in range(20):
        answer = await stage.ask(lb, f"K: {n}")
        if answer.status == 503:
            break
    else:
        raise AssertionError("no key belongs to the server that refuses")
    before = len(other.requests)
    assert (await stage.ask(lb, f"K: {n}")).status == 503
    assert len(other.requests) == before


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
