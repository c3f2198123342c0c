"""The retry table of docs/life-of-a-request.md, row by row: what fails, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.http_peer import AtOrigin, Client, Ended, Message, request
from tests.support.origin import Origin, answers
from tests.support.stage import FIRST_THEN_SECOND, Stage, server_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hermes_lb import LoadBalancer

PART_OF_A_HEAD = b"HTTP/1.1 200 OK\r\nContent-Le"
GARBAGE = b"garbage\r\n\r\n"
# The method, and the fields that go along.
REQUESTS = {"GET": (), "POST": (), "keyed POST": ("Idempotency-Key: 1",)}
COOKIE = {"affinity": {"cookie": "S"}}


class Outcome(NamedTuple):
    """`retries` has the log's +, if one went to another server; `answered`: by which server."""

    status: int
    termination: str
    retries: str
    answered: int
    fails: int  # of the first server


MOVED = Outcome(200, "--", "+1", 2, 1)
# A pinned request leaves its server for the last retry only.
MOVED_LAST = Outcome(200, "--", "+3", 2, 3)
MOVED_OFF_A_STALE_ONE = Outcome(200, "--", "+1", 2, 0)
STAYED = Outcome(200, "--", "1", 1, 0)


def failed(status: int, termination: str, fails: int = 1) -> Outcome:
    return Outcome(status, termination, "0", 0, fails)


# What fails at the first of two servers -> by kind of request: not pinned, and pinned to it.
SAFE = dict.fromkeys(REQUESTS, (MOVED, MOVED_LAST))
REPEATABLE_ONLY = {
    "GET": (MOVED, MOVED),
    "POST": (failed(502, "SH"), failed(502, "SH")),
    "keyed POST": (MOVED, MOVED),
}
TABLE: dict[str, dict[str, tuple[Outcome, Outcome]]] = {
    "refused": SAFE,
    "dial timed out": SAFE,
    "stale": {
        "GET": (MOVED_OFF_A_STALE_ONE, STAYED),
        "POST": (failed(502, "SH", 0), failed(502, "SH", 0)),
        "keyed POST": (MOVED_OFF_A_STALE_ONE, STAYED),
    },
    "closed": REPEATABLE_ONLY,
    "reset": REPEATABLE_ONLY,
    "closed in the head": REPEATABLE_ONLY,
    "reset in the head": REPEATABLE_ONLY,
    "garbage": dict.fromkeys(REQUESTS, (failed(502, "PH"), failed(502, "PH"))),
    "silent": dict.fromkeys(REQUESTS, (failed(504, "sH"), failed(504, "sH"))),
    "silent in the head": dict.fromkeys(REQUESTS, (failed(504, "sH"), failed(504, "sH"))),
}


def fails_once(what: str) -> Callable[[AtOrigin, Message], Any]:
    """The first request fails so; the others are answered."""
    requests = 0

    async def handle(connection: AtOrigin, message: Message) -> None:
        nonlocal requests
        requests += 1
        if requests > 1 + (what == "stale") or (what == "stale" and requests == 1):
            await connection.respond(b"1")
            return
        if what.endswith("in the head"):
            await connection.send(PART_OF_A_HEAD)
            await turns()
        if what == "garbage":
            await connection.send(GARBAGE)
        elif not what.startswith("silent"):
            if what.startswith("reset"):
                connection.abort()
            raise Ended(b"", by_reset=False)  # which closes it

    return handle


async def failing(stage: Stage, what: str, **options: Any) -> tuple[LoadBalancer, Client]:
    """Two servers, of which the first fails so; the second answers with its number."""
    first: Origin | int
    if what == "refused":
        first = stage.nobody()
    elif what == "dial timed out":
        first = stage.black_hole()
    else:
        first = await stage.serving(fails_once(what))
    second = await stage.serving(answers(b"2"))
    # Short for the faulty server, and time enough to dial the other one on a busy machine.
    timeouts = {
        "connect": 0.5 if what == "dial timed out" else 1.0,
        "server": 1.0 if what.startswith("silent") else 30,
    }
    lb = await stage.balancer(first, second, timeouts=timeouts, **options)
    client = await stage.client(lb)
    if what == "stale":
        assert (await client.ask("/before", "Cookie: S=agent1")).body == b"1"
    return lb, client


@pytest.mark.parametrize("is_pinned", [False, True], ids=["free", "pinned"])
@pytest.mark.parametrize(
    ("what", "kind"), [(what, kind) for what, rows in TABLE.items() for kind in rows]
)
async def test_a_row(stage: Stage, what: str, kind: str, is_pinned: bool) -> None:
    options = {"backend": COOKIE} if is_pinned else {"each": FIRST_THEN_SECOND}
    lb, client = await failing(stage, what, **options)
    fields = (*REQUESTS[kind], "Cookie: S=agent1")
    answer = await client.answer_to(request(kind.split()[-1], "/", *fields, body=b"body"))
    line = (await stage.logged(lb, 1 + (what == "stale")))[-1]
    answered = int(answer.body) if answer.status == 200 else 0
    assert line.status == answer.status
    got = Outcome(answer.status, line.termination, line.retries, answered, server_of(lb).fails)
    assert got == TABLE[what][kind][is_pinned]
    assert (await client.ask("/after")).status == 200


# A stale connection is no refusal of its server.


async def stale_and_refusing(stage: Stage, **backend: Any) -> tuple[LoadBalancer, Client, Origin]:
    """A server with two kept connections, and a backup that refuses."""
    origin = await stage.origin()
    lb = await stage.balancer(
        origin, stage.nobody(), each=FIRST_THEN_SECOND, backend=backend, timeouts={"connect": 5}
    )
    clients = await stage.clients(lb, 2)
    for client in clients:
        await client.get("/before")
    kept = [(await origin.accept_request())[0] for _ in clients]
    for client, at_origin in zip(clients, kept, strict=True):
        await at_origin.respond(b"before")
        await client.read_response()
    await clients[0].get("/again")
    await kept[1].read_request()  # it was used last
    kept[1].close()
    return lb, clients[0], origin


async def test_a_server_with_a_stale_connection_is_asked_again_when_the_others_refuse(
    stage: Stage,
) -> None:
    lb, client, origin = await stale_and_refusing(stage)
    fresh, seen = await origin.accept_request()  # not the other one that was kept
    assert seen.head.target == "/again"
    await fresh.serves(client, b"answer")
    line = (await stage.logged(lb, 3))[-1]
    assert (line.server, line.retries, line.termination) == ("agent1", "+2", "--")
    assert [server_of(lb, number).fails for number in (1, 2)] == [0, 1]


async def test_it_is_asked_again_once(stage: Stage) -> None:
    lb, client, origin = await stale_and_refusing(stage)
    fresh, _ = await origin.accept_request()
    fresh.close()
    assert (await client.read_response()).status == 502
    assert await origin.has_no_new_connection()
    line = (await stage.logged(lb, 3))[-1]
    assert (line.server, line.retries, line.termination) == ("agent1", "+2", "SH")
    assert server_of(lb).fails == 1


async def test_it_is_not_asked_again_without_a_retry_for_it(stage: Stage) -> None:
    lb, client, origin = await stale_and_refusing(stage, retries=1)
    assert (await client.read_response()).status == 503
    assert await origin.has_no_new_connection()
    assert (await stage.logged(lb, 3))[-1].retries == "+1"


# The pause before the same server.


class Pauses:
    """The event loop of a balancer, whose timers run when a test says so."""

    def __init__(self, lb: LoadBalancer) -> None:
        context = lb._plane.context
        self._loop = context.loop
        self.seconds: list[float] = []
        self.due: Callable[[], object] | None = None
        context.loop = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        self.seconds.append(seconds)
        self.due = callback
        return self  # type: ignore[return-value]

    def cancel(self) -> None:
        self.due = None

    def end(self) -> None:
        due, self.due = self.due, None
        assert due is not None
        due()


async def refused_once(stage: Stage, connect: float) -> tuple[LoadBalancer, Client, Pauses]:
    lb = await stage.balancer(stage.nobody(), timeouts={"connect": connect}, backend={"retries": 2})
    pauses = Pauses(lb)
    client = await stage.client(lb)
    await client.get()
    await eventually(lambda: pauses.due is not None)
    return lb, client, pauses


@pytest.mark.parametrize(("connect", "pause"), [(30.0, 1.0), (0.25, 0.25)])
async def test_the_same_server_is_asked_again_after_a_pause_only(
    stage: Stage, connect: float, pause: float
) -> None:
    """HAProxy's turn-around: 1 s, or `timeout connect` if that is less."""
    lb, client, pauses = await refused_once(stage, connect)
    for attempt in (1, 2):
        await eventually(lambda: pauses.due is not None)
        await turns(50)  # in which nothing is tried
        assert server_of(lb).counters.connect_errors == attempt
        assert pauses.seconds == [pause] * attempt
        pauses.end()
    assert (await client.read_response()).status == 503
    assert server_of(lb).counters.connect_errors == 3
    assert len(pauses.seconds) == 2
    assert (await stage.log_line(lb)).retries == "2"


async def test_a_client_that_leaves_in_the_pause_ends_it(stage: Stage) -> None:
    lb, client, pauses = await refused_once(stage, 30.0)
    client.close()
    line = await stage.log_line(lb)
    assert (line.termination, line.retries) == ("CC", "1")
    assert pauses.due is None
    assert server_of(lb).counters.connect_errors == 1
