"""Shared by the runtime's tests: histories, and workers without Redis."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from redis.exceptions import ConnectionError as RedisConnectionError

from agent_worker.models import TextDelta, ToolCall
from agent_worker.sessions import Grant, Lease, Summary, session_keys
from agent_worker.tasks import spawn
from tests.support.agent.engines import PlannedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    import pytest
    from redis.asyncio import Redis

    from agent_worker.models import StepRequest
    from agent_worker.sessions import Message, SessionStore
    from tests.support.agent.running_worker import RunningWorker

SID = "session-for-a-test"
ME = "user:me"


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str, *calls: dict[str, Any]) -> Message:
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = list(calls)  # type: ignore[typeddict-item]
    return message


def call(name: str, id: str = "c1", /, **arguments: Any) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "name": name, "arguments": arguments}


def result(text: str, name: str = "tool", id: str = "c1") -> Message:  # noqa: A002
    return {"role": "tool", "content": text, "tool_call_id": id, "name": name}


def grant(
    history: Sequence[Message],
    *,
    turn_at: int,
    summary: Summary | None = None,
    notes: dict[str, str] | None = None,
) -> Grant:
    """A new turn whose first message has the index `turn_at` in the session."""
    return Grant(
        outcome="GRANTED",
        lease=Lease(SID, ME, 7, "nonce"),
        version=1,
        step=0,
        summary=summary or Summary("", 0),
        history=list(history),
        turn_at=turn_at,
        notes=notes or {},
        last_event="0-0",
        step_event="7-0",
    )


# Over HTTP. The principal without a token.
ANONYMOUS = "anonymous"
SSE = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> str:
        return str(self.body["error"]["code"])


async def create(worker: RunningWorker, **headers: str) -> str:
    async with worker.post(headers=headers) as response:
        return str((await response.json())["session_id"])


async def post(
    worker: RunningWorker,
    sid: str,
    content: str,
    policy: str = "",
    **headers: str,
) -> Reply:
    """One message, and the JSON that answers it. `Idempotency_Key` is a header."""
    body = {"content": content, **({"policy": policy} if policy else {})}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with worker.post(sid, "messages", json=body, headers=headers) as response:
        return Reply(response.status, await response.json(), response.headers)


async def amid_a_turn(
    worker: RunningWorker, is_at_work: asyncio.Event
) -> tuple[str, asyncio.Task[Reply]]:
    """A new session whose turn has reached `is_at_work`, and the task of its answer.

    Its message is "first".
    """
    sid = await create(worker)
    answer = spawn(post(worker, sid, "first"), name="turn")
    await is_at_work.wait()
    return sid, answer


async def told(store: SessionStore, sid: str) -> list[tuple[str, str]]:
    """Role and content of each message of an anonymous session."""
    view = await store.read(sid, ANONYMOUS)
    return [(message["role"], message["content"]) for message in view.messages]


async def status(store: SessionStore, sid: str) -> str:
    return (await store.read(sid, ANONYMOUS)).status


class PausedEngine(PlannedEngine):
    """A planned engine that waits at each asyncio.Event, and at None for `gate`."""

    def __init__(self, *steps: list[Any], can_continue: bool = False) -> None:
        super().__init__(*steps)
        self.can_continue = can_continue
        self.paused = asyncio.Event()
        self.gate = asyncio.Event()

    async def step(self, request: StepRequest) -> AsyncGenerator[Any, None]:
        async for item in super().step(request):
            if item is not None and not isinstance(item, asyncio.Event):
                yield item
                continue
            self.paused.set()
            await (item or self.gate).wait()


def speech(*words: str) -> list[TextDelta]:
    return [TextDelta(word) for word in words]


def asks(name: str, id: str = "c1", /, **arguments: Any) -> ToolCall:  # noqa: A002
    return ToolCall(id, name, arguments)


class _Unreachable:
    """Replaces a client of Redis."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RedisConnectionError("cut off")


def cut_off(worker: RunningWorker) -> Callable[[], None]:
    """This worker cannot reach Redis any more: its turns continue, and can store nothing.

    Call the returned function to end that.
    """
    operations = worker.worker.store._operations
    client, operations.client = operations.client, _Unreachable()  # type: ignore[assignment]
    return lambda: setattr(operations, "client", client)


async def die(worker: RunningWorker, redis: Redis, sid: str) -> Callable[[], None]:
    """The worker has died during a turn, and the session's lease has expired since."""
    wake_up = cut_off(worker)
    assert await redis.delete(session_keys(sid)[1]) == 1
    return wake_up


def gate_begin(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, list[int]]:
    """Turns of this worker begin once the event is set; the list has its load at each attempt."""
    begin, gate, loads = worker.worker.store.begin, asyncio.Event(), []

    async def gated(*arguments: Any, **options: Any) -> Any:
        loads.append(len(worker.worker.turns))
        await gate.wait()
        return await begin(*arguments, **options)

    monkeypatch.setattr(worker.worker.store, "begin", gated)
    return gate, loads
