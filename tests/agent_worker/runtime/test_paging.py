"""A session is read by pages, which are bounded in messages and bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.runtime.paging import read_from, read_newest
from agent_worker.sessions import session_keys
from tests.agent_worker.sessions.memory import MemoryBackend
from tests.support.agent.runtime import ME, create, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.support.agent.running_worker import RunningWorker

MIB = 1024 * 1024


@pytest.fixture
def store() -> SessionStore:
    return MemoryBackend().session_store()


async def session_of(store: SessionStore, contents: Sequence[str]) -> str:
    """A session with these messages."""
    return await store.create(ME, {}, messages=[user(text) for text in contents])


async def fill(redis: Redis, sid: str, contents: Sequence[str]) -> None:
    await redis.rpush(session_keys(sid)[2], *(json.dumps(user(text)) for text in contents))


def texts(messages: Sequence[Any]) -> list[str]:
    return [message["content"] for message in messages]


@pytest.mark.parametrize(
    ("first", "count"), [(0, 1000), (0, 1), (3, 8), (3, 9), (17, 5), (19, 1000), (20, 1), (99, 5)]
)
async def test_a_part_is_what_was_asked_for(store: SessionStore, first: int, count: int) -> None:
    contents = [str(n) for n in range(20)]
    sid = await session_of(store, contents)
    view = await read_from(store, sid, ME, first=first, count=count)
    assert texts(view.messages) == contents[first : first + count]
    assert view.total == 20


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 19, 20, 200])
async def test_the_newest_come_in_order(store: SessionStore, count: int) -> None:
    contents = [str(n) for n in range(20)]
    sid = await session_of(store, contents)
    view = await read_newest(store, sid, ME, count=count)
    assert texts(view.messages) == contents[-count:]


async def test_an_empty_session_is_read_too(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    assert (await read_from(store, sid, ME, first=0, count=9)).messages == []
    assert (await read_newest(store, sid, ME, count=9)).messages == []


async def test_a_part_has_a_mebibyte_at_most(store: SessionStore) -> None:
    contents = [str(n) * 100_000 for n in range(10)] + ["a" * 100_000, "b" * 100_000]
    sid = await session_of(store, contents)
    view = await read_from(store, sid, ME, first=0, count=1000)
    assert texts(view.messages) == contents[:10]
    assert view.total == 12
    rest = await read_from(store, sid, ME, first=10, count=1000)
    assert texts(rest.messages) == contents[10:]
    newest = await read_newest(store, sid, ME, count=1000)
    assert texts(newest.messages) == contents[2:]


async def test_a_message_that_is_larger_comes_alone(store: SessionStore) -> None:
    contents = ["x" * MIB, "y" * MIB]
    sid = await session_of(store, contents)
    for first in (0, 1):
        view = await read_from(store, sid, ME, first=first, count=1000)
        assert texts(view.messages) == contents[first : first + 1]
    view = await read_newest(store, sid, ME, count=1000)
    assert texts(view.messages) == contents[1:]


async def test_the_store_is_asked_for_few_messages_at_once(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = await session_of(store, [str(n) for n in range(50)])
    read, sizes = store.read, []

    async def counted(*arguments: Any, **which: Any) -> Any:
        view = await read(*arguments, **which)
        sizes.append(len(view.messages))
        return view

    monkeypatch.setattr(store, "read", counted)
    await read_from(store, sid, ME, first=0, count=1000)
    await read_newest(store, sid, ME, count=1000)
    assert max(sizes) == 8


@pytest.mark.parametrize("query", ["", "?count=1001", "?count=999999999"])
async def test_over_http_a_thousand_messages_are_the_most(
    worker: RunningWorker, redis: Redis, query: str
) -> None:
    sid = await create(worker)
    await fill(redis, sid, [str(n) for n in range(1001)])
    async with worker.get(sid + query) as response:
        session = await response.json()
    assert texts(session["messages"]) == [str(n) for n in range(1000)]
    assert session["total"] == 1001
    async with worker.get(sid + "?first=1000") as response:
        assert texts((await response.json())["messages"]) == ["1000"]


async def test_over_http_a_mebibyte_is_the_most(worker: RunningWorker, redis: Redis) -> None:
    sid = await create(worker)
    await fill(redis, sid, [str(n) * 300_000 for n in range(5)])
    async with worker.get(sid) as response:
        session = await response.json()
    assert [len(text) for text in texts(session["messages"])] == [300_000] * 3
    assert session["total"] == 5


async def test_a_reset_has_no_more_than_a_mebibyte(worker: RunningWorker, redis: Redis) -> None:
    sid = await create(worker)
    async with worker.post(sid, "messages", json={"content": "x"}) as response:
        assert response.status == 200
    await fill(redis, sid, [str(n) * 300_000 for n in range(5)])
    headers = {"Last-Event-ID": "1-1"}
    async with worker.get(sid, "events", headers=headers) as response:
        while not (line := await response.content.readline()).startswith(b"event: "):
            pass
        assert line == b"event: reset\n"
        data = b""
        while not data.endswith(b"\n"):
            data += await response.content.readany()
    session = json.loads(data.partition(b"\n")[0].removeprefix(b"data: "))
    assert [text[0] for text in texts(session["messages"])] == ["2", "3", "4"]
