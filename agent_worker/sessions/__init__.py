"""Sessions in Redis: store, lease, fence. `lua/_common.lua` states the rules."""

from agent_worker.sessions.client import connect, shown_url
from agent_worker.sessions.keys import is_session_id, new_session_id, session_keys
from agent_worker.sessions.records import (
    Answer,
    Grant,
    Lease,
    Message,
    Replay,
    SessionView,
    ToolCallRecord,
    turn_text,
)
from agent_worker.sessions.store import SessionStore, new_nonce

__all__ = [
    "Answer",
    "Grant",
    "Lease",
    "Message",
    "Replay",
    "SessionStore",
    "SessionView",
    "ToolCallRecord",
    "connect",
    "is_session_id",
    "new_nonce",
    "new_session_id",
    "session_keys",
    "shown_url",
    "turn_text",
]
