"""The tool ledger on Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agent_worker.sessions.base import ToolLedger
from agent_worker.sessions.operations import dump
from agent_worker.sessions.records import ToolStart

if TYPE_CHECKING:
    from agent_worker.sessions.operations import Operations
    from agent_worker.sessions.records import Lease, Message


class RedisToolLedger(ToolLedger):
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        args = (lease, call_key, effect, arguments_hash, attempt)
        is_kept = True
        if effect == "once":
            # A failover may lose a record that only the old master had: the call would run again.
            reply, is_kept = await self._operations.run_replicated("tool_begin", *args)
        else:
            reply = await self._operations.run_held("tool_begin", *args)
        match reply:
            case ["REPLAY", message]:
                return ToolStart("REPLAY", json.loads(message))
            case ["RUN"]:
                return ToolStart("RUN" if is_kept else "NOT_SAFE")
        return ToolStart(reply[0])

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        await self._operations.run_held("tool_end", lease, call_key, attempt, dump(message))

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        await self._operations.run_held("tool_end", lease, call_key, attempt, "")
