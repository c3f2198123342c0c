"""The tool ledger: what has been begun, and what it gave. Asked before every effect.

A call is known by its place, `<index of the message that asked>.<position>`, not by the id that
the model gave it: models repeat theirs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agent_worker.sessions.operations import dump
from agent_worker.sessions.records import ToolStart

if TYPE_CHECKING:
    from agent_worker.sessions.operations import Operations
    from agent_worker.sessions.records import Lease, Message


class ToolLedger:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        """Whether the call may run. `attempt` names this attempt of this worker.

        NOT_SAFE: a `once` call whose record is not on enough replicas; it must not run, and its
        record is to be taken back by `not_run`. Raises LeaseLost.
        """
        args = (lease.value, call_key, effect, arguments_hash, attempt)
        is_kept = True
        if effect == "once":
            # A failover may lose what only the old master knew: the call would run again.
            reply, is_kept = await self._operations.run_replicated(
                "tool_begin", lease.session_id, lease.principal, *args
            )
        else:
            reply = await self._operations.run(
                "tool_begin", lease.session_id, lease.principal, *args
            )
        match reply:
            case ["REPLAY", message]:
                return ToolStart("REPLAY", json.loads(message))
            case ["RUN"]:
                return ToolStart("RUN" if is_kept else "NOT_SAFE")
        return ToolStart(reply[0])

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        """Keep the call's result. Raises LeaseLost."""
        await self._end(lease, call_key, attempt, dump(message))

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        """The call has not run after all. Raises LeaseLost."""
        await self._end(lease, call_key, attempt, "")

    async def _end(self, lease: Lease, call_key: str, attempt: str, message: str) -> None:
        await self._operations.run(
            "tool_end", lease.session_id, lease.principal, lease.value, call_key, attempt, message
        )
