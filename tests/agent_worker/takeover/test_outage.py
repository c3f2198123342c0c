"""An outage of Redis: streams continue afterwards, including those that were taken over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from agent_worker.runtime import orphans, tail
from agent_worker.runtime import turn_takeover as takeover
from agent_worker.runtime.holders import SILENT_S
from agent_worker.sessions import connect, operations
from tests.support.agent.engines import PlannedEngine
from tests.support.agent.runtime import PausedEngine, create, cut_off, die, speech
from tests.support.agent.takeover import ACCEPTS, Process, new_session, open_turn, resume
from tests.support.sse import all_events, deltas, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aiohttp import ClientResponse, ClientSession

    from agent_worker.sessions import RedisBackend, TurnPage
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in (takeover, tail):
        monkeypatch.setattr(reader, "_LOOK_S", 0.1)


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


class Server:
    """A Redis with an append-only file, for outages."""

    def __init__(self, folder: Path) -> None:
        self._options = {"appendonly": "yes", "appendfsync": "always", "dir": str(folder)}

    def __enter__(self) -> Server:
        self.server = RedisServer.start(options=self._options)
        self.url = self.server.url
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()

    @contextlib.contextmanager
    def away(self, how: str) -> Iterator[None]:
        """Outages are detected early."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operations, "_OPERATION_TIMEOUT_S", 0.2)
            with self._away(how):
                yield

    @contextlib.contextmanager
    def _away(self, how: str) -> Iterator[None]:
        if how == "stopped":
            os.kill(self.server.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(self.server.pid, signal.SIGCONT)
            return
        self.server.kill()
        yield
        self.server = RedisServer.start(self.server.port, options=self._options)


@pytest.fixture
async def own_client(own_redis_server: Server) -> AsyncIterator[RedisBackend]:
    client = connect(own_redis_server.url)
    yield client
    await client.aclose()


async def failures(worker: RunningWorker, *operations: str, more: int) -> None:
    """Until `times` more operations of these names have failed."""
    errors = worker.worker.metrics.store_errors
    counters = [errors.labels(operation)._value for operation in operations]
    before = sum(counter.get() for counter in counters)
    await until(lambda: sum(counter.get() for counter in counters) >= before + more)


async def began(worker: RunningWorker, **headers: str) -> tuple[str, str, ClientResponse]:
    """Session, path and stream of a turn."""
    sid = await create(worker)
    stream = await open_turn(worker, sid, **headers)
    return sid, stream.headers["X-Hermes-Resume"], stream


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_stream_that_was_taken_over_goes_on(
    start_worker: StartWorker, own_redis_server: Server, own_client: RedisBackend, how: str
) -> None:
    first = await start_worker(
        redis_url=own_redis_server.url, engine=PausedEngine([*speech("one "), None])
    )
    engine = PausedEngine([*speech("two "), None, *speech("three")], can_continue=True)
    second = await start_worker(redis_url=own_redis_server.url, engine=engine)
    sid, path, stream = await began(first)
    seen = [await anext(read_events(stream))]
    await die(first, own_client.raw, sid)
    async with resume(second, path, seen[0].id) as response:
        events = read_events(response)
        seen.append(await anext(events))
        with own_redis_server.away(how):
            await failures(second, "turn_events", more=2)
            engine.gate.set()
            await failures(second, "append", "commit", "renew", more=1)
        seen += [event async for event in events]
    assert [event.name for event in seen] == [*["message.delta"] * 3, "done"]
    assert deltas(seen) == seen[-1].data["content"] == "one two three"
    assert len(engine.requests) == 1
    stream.close()


async def test_who_follows_the_turn_of_a_living_worker_goes_on_too(
    start_worker: StartWorker, own_redis_server: Server
) -> None:
    engine = PausedEngine([*speech("one "), None, *speech("two")])
    first = await start_worker(redis_url=own_redis_server.url, engine=engine)
    other = await start_worker(redis_url=own_redis_server.url, engine=PlannedEngine())
    sid, path, stream = await began(first)
    plain = await other.get(sid, "events?until=done")
    async with resume(other, path) as response:
        followed, all_followed = read_events(response), read_events(plain)
        seen, seen_plain = [await anext(followed)], [await anext(all_followed)]
        with own_redis_server.away("stopped"):
            await failures(other, "turn_events", more=2)
            await failures(other, "events", more=2)
            engine.gate.set()
        seen += [event async for event in followed]
        seen_plain += [event async for event in all_followed]
    assert seen == seen_plain == await all_events(stream)
    assert deltas(seen) == "one two"


@pytest.mark.parametrize("headers", [ACCEPTS, {}], ids=["balancer", "client"])
async def test_beyond_a_lease_a_stream_ends_and_a_balancer_goes_on_elsewhere(
    start_worker: StartWorker, own_redis_server: Server, headers: dict[str, str]
) -> None:
    """The stream of the worker that runs the turn, and that of a follower."""
    first = await start_worker(
        redis_url=own_redis_server.url,
        engine=PausedEngine([*speech("one "), None, *speech("two")]),
        lease_s=0.6,
    )
    other = await start_worker(
        redis_url=own_redis_server.url,
        engine=PausedEngine(speech("two"), can_continue=True),
        lease_s=0.6,
    )
    _, path, stream = await began(first, **headers)
    async with resume(other, path, **headers) as response:
        streams = [read_events(stream), read_events(response)]
        seen = [await anext(events) for events in streams]
        with own_redis_server.away("stopped"):
            ends = [[event async for event in events] for events in streams]
    for (end,) in ends:
        assert not end.id
        if headers:
            assert (end.name, end.data) == ("handover", {"turn": path.partition("=")[2]})
        else:
            assert (end.name, end.data["code"]) == ("error", "store_unavailable")
    async with resume(other, path, seen[0].id) as response:
        rest = await all_events(response)
    assert deltas([seen[0], *rest]) == rest[-1].data["content"] == "one two"


async def test_a_worker_that_leaves_does_not_wait_for_redis(start_worker: StartWorker) -> None:
    """Nor for a follower of another worker's turn."""
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    leaving = await start_worker(engine=PlannedEngine())
    _, path, stream = await began(first)
    async with resume(leaving, path, **ACCEPTS) as response:
        events = read_events(response)
        await anext(events)
        cut_off(leaving)
        await leaving.worker.drain()
        assert [event.name async for event in events] == ["handover"]
    stream.close()


@pytest.mark.slow
async def test_a_holder_whose_heartbeats_were_lost_with_redis_keeps_its_turn(
    start_worker: StartWorker, own_redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis hangs for longer than a holder may be silent; a tool may be running."""
    engine = PausedEngine([*speech("one "), None, *speech("two")])
    first = await start_worker(redis_url=own_redis_server.url, engine=engine)
    other = await start_worker(redis_url=own_redis_server.url, engine=PlannedEngine())
    sid, path, stream = await began(first)
    of_turn = other.worker.store.events.of_turn
    pages: list[TurnPage] = []

    async def watched(*args: str) -> TurnPage:
        pages.append(await of_turn(*args))
        return pages[-1]

    monkeypatch.setattr(other.worker.store.events, "of_turn", watched)
    async with resume(other, path) as response:
        events = read_events(response)
        seen = [await anext(events)]
        # Its next heartbeats do not arrive, as if they were in transit.
        wake_up = cut_off(first)
        with own_redis_server.away("stopped"):
            await failures(other, "beat", more=1)
            await asyncio.sleep(SILENT_S)
        # The follower reads the log, and could take the turn over.
        await until(lambda: pages and pages[-1].silent_s > SILENT_S)
        assert pages[-1].state == "held"
        for _ in range(10):
            await other.worker.store.index.look(sid)
        wake_up()
        engine.gate.set()
        seen += [event async for event in events]
    assert seen == await all_events(stream)
    assert deltas(seen) == "one two"


async def test_followers_look_at_once_when_redis_is_back(
    start_worker: StartWorker, own_redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notifier wakes them, whatever the pause between two attempts has grown to."""
    monkeypatch.setattr("agent_worker.backoff._FIRST_S", 3600.0)
    monkeypatch.setattr("agent_worker.backoff._LONGEST_S", 3600.0)
    engine = PausedEngine([*speech("one "), None, *speech("two")])
    first = await start_worker(redis_url=own_redis_server.url, engine=engine)
    other = await start_worker(redis_url=own_redis_server.url, engine=PlannedEngine())
    _, path, stream = await began(first)
    of_session = path.partition("?")[0]
    async with resume(other, path) as turn, resume(other, of_session) as session:
        assert (turn.status, session.status) == (200, 200)
        events = read_events(turn), read_events(session)
        seen = [await anext(each) for each in events]
        with own_redis_server.away("killed"):
            other.worker.notifier.wake_all()
            await failures(other, "turn_events", "events", more=2)
        engine.gate.set()
        for each, one in zip(events, seen, strict=True):
            told = [one]
            while told[-1].name != "done":
                told.append(await anext(each))
            assert deltas(told) == "one two"
    stream.close()


@pytest.mark.slow
async def test_the_index_knows_whether_redis_was_there(
    start_worker: StartWorker,
    own_redis_server: Server,
    own_client: RedisBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = await start_worker(redis_url=own_redis_server.url, engine=PlannedEngine())
    index = worker.worker.store.index
    assert index.steady_s == float("inf")
    with own_redis_server.away("stopped"):
        await failures(worker, "beat", more=1)
        assert index.steady_s < 60
        # After a failed one the next comes sooner.
        monkeypatch.setattr(orphans, "_BEAT_S", 3600.0)
        await failures(worker, "beat", more=2)
    await until(lambda: index.steady_s > 0.2)
    assert await own_client.raw.exists("hermes:turns") == 0
    del own_client


@pytest.mark.slow
async def test_three_seconds_without_redis_with_real_workers(
    http: ClientSession, own_redis_server: Server
) -> None:
    """The worker that took the stream over loses Redis, which restarts from its file."""
    seconds = float(os.environ.get("OUTAGE_S", "0.5"))
    options = ("--port", "0", "--redis-url", own_redis_server.url, "--blobs", "off")
    options = (*options, "--token-interval", "20ms")
    async with Process(*options) as one, Process(*options) as two:
        sid = await new_session(http, one.url)
        url = f"{one.url}/api/agent/sessions/{sid}/messages"
        headers = {"Accept": "text/event-stream"}
        stream = await http.post(url, json={"content": "write 150 words"}, headers=headers)
        path = stream.headers["X-Hermes-Resume"]
        events = read_events(stream)
        seen = [await anext(events) for _ in range(10)]
        await one.kill()
        headers["Last-Event-ID"] = seen[-1].id
        async with http.get(two.url + path, headers=headers) as response:
            events = read_events(response)
            seen += [await anext(events) for _ in range(20)]
            for how in ("killed", "stopped"):
                with own_redis_server.away(how):
                    await asyncio.sleep(seconds)
                seen += [await anext(events) for _ in range(20)]
            seen += [event async for event in events]
        stream.close()
    assert seen[-1].name == "done"
    assert deltas(seen) == seen[-1].data["content"]
    assert len(deltas(seen).split()) == 150
