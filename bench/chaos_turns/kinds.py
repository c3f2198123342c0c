"""Kinds of clients: how each makes its turns, and what it does with them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bench.chaos_sessions.reading import LOST
from bench.chaos_turns.heard import Turn
from bench.chaos_turns.script import Question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bench.chaos_turns.crowd import Crowd

IGNORING, CHECKING, EVENTS = "/ignoring/turns", "/checking/turns", "/events"
CONTINUED, LEAVING = "/continued/turns", "/leaving/turns"
#: Of the pages that ask by EventSource.
PAGE = "https://page.example"
_PRINCIPALS = 12
_SESSIONS = 2  # for all clients of a kind
_OF_TURNS = "/.hermes/turns/"
# The turn of an intruder on the route of the others would end when it leaves.
_NOT_WANTED = ("intruder", "leaving")
# Beyond the route's `journal_size`, in all.
_BIG = 24 * 1024


async def keyed(crowd: Crowd, number: int) -> None:
    """Comes back by its key, with and without an id, and by the path."""
    await crowd.follow(crowd.turn(_keyed(crowd, number)))


async def unkeyed(crowd: Crowd, number: int) -> None:
    """Comes back by the path only."""
    uid = crowd.next_uid()
    await crowd.follow(crowd.turn(Turn("unkeyed", _question(crowd, uid), _of(number), IGNORING)))


async def big(crowd: Crowd, number: int) -> None:
    """Has more than the journal keeps."""
    turn = _keyed(crowd, number, "big", pad=_BIG, words=16)
    await crowd.follow(crowd.turn(turn))


async def json(crowd: Crowd, number: int) -> None:
    """Its answer is no stream, and at times a 500."""
    turn = _keyed(crowd, number, "json", as_json=True, fails=crowd.rng.random() < 0.2, words=5)
    await crowd.follow(crowd.turn(turn))
    await crowd.follow(turn, leaves=False)


async def event_source(crowd: Crowd, number: int) -> None:
    """As a browser does it: GET, and the last id at the same URL."""
    uid = crowd.next_uid()
    question = _question(crowd, uid)
    turn = Turn("event source", question, _of(number), EVENTS, key=f"k-{uid}", is_get=True)
    await crowd.follow(crowd.turn(turn))


async def twins(crowd: Crowd, number: int) -> None:
    """The same request at both balancers at the same time; each must get all."""
    turn = crowd.turn(_keyed(crowd, number, "twins"))
    async with asyncio.TaskGroup() as group:
        for _ in range(crowd.rng.randint(2, 3)):
            group.create_task(crowd.follow(turn))


async def ignoring(crowd: Crowd, number: int) -> None:
    """Two of a session, at a backend that ignores the fence."""
    await _of_a_session(crowd, number, "ignoring", IGNORING)


async def checking(crowd: Crowd, number: int) -> None:
    """Two of a session, at a backend that checks the fence."""
    await _of_a_session(crowd, number, "checking", CHECKING)


async def deleting(crowd: Crowd, number: int) -> None:
    """Ends its turn in the midst of it; at times in a session."""
    name = _session(number)
    session = f"deleting-{name}" if crowd.rng.random() < 0.3 else ""
    turn = crowd.turn(_keyed(crowd, name, "deleting", session=session))
    heard = await crowd.follow(turn, until=crowd.rng.randint(1, turn.question.words))
    if heard.end or not turn.resume_path:
        return
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.follow(turn))
        await crowd.pause()
        turn.is_deleted = True
        await _delete(crowd, turn)
    await crowd.follow(turn, leaves=False)


async def _delete(crowd: Crowd, turn: Turn) -> None:
    for _ in range(20):
        try:
            async with crowd.http.delete(
                crowd.url(turn.resume_path), headers={"Authorization": turn.principal}
            ) as response:
                crowd.figures[f"DELETE: {response.status}"] += 1
                if response.status != 503:
                    return
        except LOST:
            crowd.figures["DELETE: cut"] += 1
        await crowd.pause()


async def continued(crowd: Crowd, number: int) -> None:
    """At a backend that can continue its streams: it gets all, whatever dies."""
    uid = crowd.next_uid()
    question = _question(crowd, uid, has_ids=True)
    key = f"k-{uid}" if crowd.rng.random() < 0.7 else ""
    await crowd.follow(crowd.turn(Turn("continued", question, _of(number), CONTINUED, key)))


async def leaving(crowd: Crowd, number: int) -> None:
    """Where leaving cancels: one begins it, another one follows at the other balancer."""
    uid = crowd.next_uid()
    question = Question(uid, words=200, interval=0.1)
    turn = crowd.turn(Turn("leaving", question, _of(number), LEAVING))
    await crowd.follow(turn, until=crowd.rng.randint(2, 10), also=_follower(crowd, turn))
    turn.left = time.time()


def _follower(crowd: Crowd, turn: Turn) -> Callable[[], Awaitable[None]]:
    async def follow() -> None:
        """Comes before the first client leaves, and stays longer."""
        if turn.resume_path:
            await crowd.follow(turn, until=crowd.rng.randint(20, 60), by_path=True)

    return follow


async def intruder(crowd: Crowd, number: int) -> None:
    """Wants another principal's turns: by their ids, and by their keys with a turn of its own."""
    await asyncio.sleep(0.3)
    # While the store is away a turn has its backend's own path, which that one guards.
    others = [
        turn
        for turn in crowd.turns[-40:]
        if turn.resume_path.startswith(_OF_TURNS) and turn.kind not in _NOT_WANTED
    ]
    if not others:
        return
    wanted = crowd.rng.choice(others)
    uid = crowd.next_uid()
    me = f"Bearer intruder-{uid}"
    for method in ("GET", "DELETE"):
        await _must_be_404(crowd, method, wanted, me)
    if wanted.is_get:
        await _preflights(crowd, wanted)
    question = _question(crowd, uid)
    turn = Turn("intruder", question, me, wanted.path, wanted.key, wanted.session, wanted.is_get)
    await crowd.follow(crowd.turn(turn))


async def _must_be_404(crowd: Crowd, method: str, turn: Turn, me: str) -> None:
    last_id = next((each.last_id for each in turn.heard if each.last_id), "")
    headers = {"Authorization": me, **({"Last-Event-ID": last_id} if last_id else {})}
    try:
        async with crowd.http.request(
            method, crowd.url(turn.resume_path), headers=headers
        ) as response:
            body = await response.read()
    except LOST:
        return
    if response.status == 503:
        return
    crowd.figures["intrusions"] += 1
    if response.status != 404 or turn.uid.encode() in body:
        crowd.intrusions.append(f"{method} {turn}: {response.status} {body[:200]!r}")


async def _preflights(crowd: Crowd, turn: Turn) -> None:
    """The turn's own page may come back for it, and no other one."""
    for origin, wanted in ((PAGE, 204), ("https://evil.example", 404)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        try:
            async with crowd.http.options(crowd.url(turn.resume_path), headers=headers) as response:
                await response.read()
        except LOST:
            continue
        if response.status == 503:
            continue
        crowd.figures["preflights"] += 1
        # 404 for its own page: the turn's head was not stored.
        if response.status not in (wanted, 404):
            crowd.intrusions.append(f"OPTIONS of {origin}, {turn}: {response.status}")


def _keyed(
    crowd: Crowd, number: int, kind: str = "keyed", *, session: str = "", **options: int
) -> Turn:
    uid = crowd.next_uid()
    question = _question(crowd, uid, **options)
    return Turn(kind, question, _of(number), IGNORING, key=f"k-{uid}", session=session)


async def _of_a_session(crowd: Crowd, number: int, kind: str, path: str) -> None:
    """Two turns at the same time."""
    name = _session(number)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            uid = crowd.next_uid()
            question = _question(crowd, uid, words=crowd.rng.randint(2, 8))
            turn = Turn(kind, question, _of(name), path, f"k-{uid}", f"{kind}-{name}")
            group.create_task(crowd.follow(crowd.turn(turn)))


def _question(crowd: Crowd, uid: str, **options: int) -> Question:
    rng = crowd.rng
    drawn = {
        "words": rng.randint(3, 24),
        "has_ids": rng.random() < 0.3,
        "has_comments": rng.random() < 0.3,
        "crlf": rng.random() < 0.2,
    }
    return Question(uid, interval=rng.choice((0.02, 0.1, 0.2)), **{**drawn, **options})


def _session(number: int) -> int:
    """Of the client with this number: clients of one kind are as far apart as there are kinds."""
    return number // len(KINDS) % _SESSIONS


def _of(number: int) -> str:
    return f"Bearer p-{number % _PRINCIPALS}"


KINDS: Mapping[str, Callable[[Crowd, int], Awaitable[None]]] = {
    "keyed": keyed,
    "ignoring": ignoring,
    "event-source": event_source,
    "twins": twins,
    "checking": checking,
    "unkeyed": unkeyed,
    "json": json,
    "deleting": deleting,
    "intruder": intruder,
    "big": big,
    "continued": continued,
    "leaving": leaving,
}
