"""The session store in memory: the contract of `agent_worker.sessions.base` without Redis.

For fast tests, and as the model with which `machine` compares the store on Redis. The rules are
those of the Lua scripts: a lease with a fence, one write per operation, repetitions without an
effect. Operations do not await, so each is atomic among the tasks of one event loop. Times are in
ms.

session       the stored state of a session, and the rules that need nothing else
backend       all sessions, and notifications
store         the operations; event_log, tool_ledger, outbox, turn_index: its parts
"""

from tests.agent_worker.sessions.memory.backend import MemoryBackend
from tests.agent_worker.sessions.memory.session import HANDED, Session, nonce_of

__all__ = ["HANDED", "MemoryBackend", "Session", "nonce_of"]
