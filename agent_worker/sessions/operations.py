"""Runs one operation of a session, an atomic script (`lua/`), and raises its errors."""

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
from agent_worker.sessions.keys import is_session_id, session_keys
from agent_worker.sessions.scripts import load_scripts
from agent_worker.tasks import this_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent_worker.sessions.client import Client
    from agent_worker.sessions.options import StoreOptions
    from agent_worker.sessions.records import Lease, Message

log = logging.getLogger(__name__)

# Seconds. More than the client's own timeouts and retries on a dead connection.
_OPERATION_TIMEOUT_S = 5.0
# A condition of the server, "NOREPLICAS ..."; before Redis 7 inside the error of a script.
_CONDITION = re.compile(r"\b(?!ERR |WRONGTYPE )[A-Z]{3,} ")


class Operations:
    """Runs the scripts by name."""

    def __init__(self, client: Client, options: StoreOptions) -> None:
        self.client = client
        self._space = options.space
        self._scripts = load_scripts()
        self._life = (to_ms(options.sliding_s), to_ms(options.absolute_s))
        self._on_unavailable = options.on_unavailable
        # An outage is logged once, not once per request; None: not asked yet.
        self._answers: bool | None = None

    async def run(
        self, name: str, session_id: str, principal: str, *args: str | int
    ) -> Sequence[Any]:
        """The script's reply. Raises its refusals: SessionNotFound, SessionTooNew, LeaseLost.

        Raises StoreUnavailable when Redis does not answer; whether the script ran is unknown then.
        Raises AgentError when the script itself failed (a bug, logged).
        """
        async with self.store_errors(name):
            reply = await self.client.run(*self._call(name, session_id, principal, args))
        return _unless_refused(reply)

    async def run_held(self, name: str, lease: Lease, *args: str | int) -> Sequence[Any]:
        """Like `run`, for an operation under a lease."""
        return await self.run(name, lease.session_id, lease.principal, lease.value, *args)

    async def run_replicated(
        self, name: str, lease: Lease, *args: str | int
    ) -> tuple[Sequence[Any], bool]:
        """Like `run_held`; and whether as many replicas have it as the deployment requires."""
        script, keys, arguments = self._call(
            name, lease.session_id, lease.principal, (lease.value, *args)
        )
        async with self.store_errors(name):
            wanted = await self.client.replicas_wanted(keys[0])
            reply, copies = await self.client.run_replicated(script, keys, arguments, wanted)
        return _unless_refused(reply), copies >= wanted

    async def run_shared(self, name: str, key: str, *args: str | int) -> Sequence[Any]:
        """The reply of a script that belongs to no session: it uses only `key`.

        Raises StoreUnavailable, AgentError.
        """
        async with self.store_errors(name):
            return cast(
                "Sequence[Any]",
                await self.client.run(self._scripts[name], [key], ["", "", *self._life, *args]),
            )

    def _call(self, name: str, session_id: str, principal: str, args: Sequence[str | int]) -> Any:
        if not is_session_id(session_id):
            raise SessionNotFound
        arguments = [principal, session_id, *self._life, *args]
        return self._scripts[name], session_keys(session_id, self._space), arguments

    @contextlib.asynccontextmanager
    async def store_errors(self, operation: str) -> AsyncIterator[None]:
        """Converts errors of Redis to StoreUnavailable, and those of a script to AgentError."""
        task = this_task()
        cancellations = task.cancelling()

        def check_cancelled() -> None:
            # redis-py sends under `wait_for`: Python 3.11's may swallow a cancellation (gh-86296).
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError

        try:
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            check_cancelled()
            if _is_script_error(error):
                log.error("the script %s failed", operation, exc_info=error)
                raise AgentError from error
            if self._answers:
                log.warning(
                    "Redis is unavailable: %s: %s", operation, error or type(error).__name__
                )
            self._answers = False
            self._on_unavailable(operation)
            raise StoreUnavailable from error
        check_cancelled()
        if self._answers is False:
            log.warning("Redis is available again")
        self._answers = True


def _is_script_error(error: Exception) -> bool:
    """Whether the script itself failed: Redis is available, and a retry would fail again.

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
