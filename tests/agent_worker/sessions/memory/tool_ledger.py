"""The tool ledger of the store in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agent_worker.errors import LeaseLost
from agent_worker.sessions import ToolStart
from agent_worker.sessions.operations import dump
from tests.agent_worker.sessions.memory.session import Call

if TYPE_CHECKING:
    from agent_worker.sessions import Lease, Message
    from tests.agent_worker.sessions.memory.store import MemoryStore


class MemoryToolLedger:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        session = self._store.held(lease)
        known = session.tools.get(call_key)
        if known is not None:
            if known.digest != arguments_hash:
                return ToolStart("ARGS_MISMATCH")
            if known.message is not None:
                return ToolStart("REPLAY", json.loads(known.message))
            if known.effect == "once" and known.attempt != attempt:
                return ToolStart("UNKNOWN")
        session.tools[call_key] = Call(effect, arguments_hash, attempt)
        self._store.touch(session)
        return ToolStart("RUN")

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        known = self._store.held(lease).tools.get(call_key)
        if known is None or known.attempt != attempt:
            raise LeaseLost
        known.message = dump(message)

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        tools = self._store.held(lease).tools
        if call_key in tools and tools[call_key].attempt != attempt:
            raise LeaseLost
        tools.pop(call_key, None)
