"""One operation of a session: an atomic script in Redis (`lua/`), its refusals and its failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError, ResponseError

from agent_worker.errors import (
    AgentError,
    LeaseLost,
    SessionNotFound,
    SessionTooNew,
    StoreUnavailable,
)
from agent_worker.sessions.keys import SESSIONS, is_session_id, session_keys
from agent_worker.sessions.scripts import load_scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agent_worker.sessions.client import Client
    from agent_worker.sessions.records import Message

log = logging.getLogger(__name__)

# Above the client's own timeouts and retries on one dead connection, below a client's patience.
_OPERATION_TIMEOUT_S = 5.0
# How a server names a condition of its own, "NOREPLICAS ..."; before Redis 7 amid a script's error.
_CONDITION = re.compile(r"\b(?!ERR |WRONGTYPE )[A-Z]{3,} ")


class Operations:
    """Runs the scripts by name. `life_s` is the sliding and the absolute life of a session.

    `space`: see `keys`.
    """

    def __init__(
        self,
        client: Client,
        life_s: tuple[float, float],
        on_unavailable: Callable[[str], None],
        space: str = SESSIONS,
    ) -> None:
        self.client = client
        self._space = space
        self._scripts = load_scripts()
        self._life = tuple(map(to_ms, life_s))
        self._on_unavailable = on_unavailable
        # So that a log shows a loss once, not once for each request; None: not asked yet.
        self._answers: bool | None = None

    async def run(
        self, name: str, session_id: str, principal: str, *args: str | int
    ) -> Sequence[Any]:
        """The script's reply, unless it refused: SessionNotFound, SessionTooNew, LeaseLost.

        Raises StoreUnavailable when Redis does not answer; what happened is unknown then. Raises
        AgentError when the script failed by itself (a bug, logged).
        """
        async with self.reaching(name):
            reply = await self.client.run(*self._call(name, session_id, principal, args))
        return _unless_refused(reply)

    async def run_replicated(
        self, name: str, session_id: str, principal: str, *args: str | int
    ) -> tuple[Sequence[Any], bool]:
        """Like `run`; and whether as many replicas have it as the deployment asks for."""
        script, keys, arguments = self._call(name, session_id, principal, args)
        async with self.reaching(name):
            wanted = await self.client.replicas_wanted(keys[0])
            reply, copies = await self.client.run_replicated(script, keys, arguments, wanted)
        return _unless_refused(reply), copies >= wanted

    async def run_shared(self, name: str, key: str, *args: str | int) -> Sequence[Any]:
        """The reply of a script that is about no session: `key` is all that it touches.

        Raises StoreUnavailable, AgentError.
        """
        async with self.reaching(name):
            return cast(
                "Sequence[Any]",
                await self.client.run(self._scripts[name], [key], ["", "", *self._life, *args]),
            )

    async def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        async with self.reaching("ping"):
            await self.client.ping()

    def _call(self, name: str, session_id: str, principal: str, args: Sequence[str | int]) -> Any:
        if not is_session_id(session_id):
            raise SessionNotFound
        arguments = [principal, session_id, *self._life, *args]
        return self._scripts[name], session_keys(session_id, self._space), arguments

    @contextlib.asynccontextmanager
    async def reaching(self, operation: str) -> AsyncIterator[None]:
        """What fails inside for want of Redis is StoreUnavailable; a script's bug AgentError."""
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()

        def check_cancelled() -> None:
            # redis-py sends under `wait_for`, which may swallow one in Python 3.11 (gh-86296).
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError

        try:
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            check_cancelled()
            if _is_script_error(error):
                log.error("the script of %s failed", operation, exc_info=error)
                raise AgentError from error
            if self._answers:
                log.warning("Redis is lost: %s: %s", operation, error or type(error).__name__)
            self._answers = False
            self._on_unavailable(operation)
            raise StoreUnavailable from error
        check_cancelled()
        if self._answers is False:
            log.warning("Redis answers again")
        self._answers = True


def _is_script_error(error: Exception) -> bool:
    """Whether a script failed by itself. Redis is there then, and would fail so again.

    redis-py has a class for most conditions of a server (READONLY, OOM, ...).
    """
    text = str(error)
    return type(error) is ResponseError and "user_script" in text and not _CONDITION.search(text)


def _unless_refused(reply: Sequence[Any]) -> Sequence[Any]:
    match reply[0]:
        case "NO_SESSION" | "FORBIDDEN" | "GONE":
            raise SessionNotFound
        case "NEWER_SCHEMA":
            raise SessionTooNew
        case "LOST" | "CONFLICT":
            raise LeaseLost
    return reply


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def load(texts: Sequence[str]) -> list[Message]:
    return [json.loads(text) for text in texts]


def to_ms(seconds: float) -> int:
    return round(seconds * 1000)
