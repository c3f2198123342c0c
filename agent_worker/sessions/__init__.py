"""Sessions in Redis: a data model, and operations that each are one atomic script.

keys          the keys of a session
client        Redis as it is reached: plain, TLS, Sentinel, Cluster
redis_url     which Redis a URL means
topology      which server holds a key now; `node`: one of them, `subscriber`: pub/sub on one
scripts, lua  the operations themselves
operations    runs one: refusals and failures as errors
store         sessions and turns
event_log     what happened, for whoever reconnects
turn_index    which turns run, for those whose worker died
tool_ledger   what tools have been begun, and gave
readiness     does Redis accept writes? for /ready
outbox        what the archive has not got yet
records       what all of them take and give
"""

from agent_worker.sessions.client import Client, connect, shown_url
from agent_worker.sessions.keys import is_session_id, new_session_id, session_keys
from agent_worker.sessions.records import (
    Answer,
    Event,
    EventPage,
    Grant,
    Lease,
    Message,
    Nothing,
    NotTaken,
    Queued,
    Replay,
    SessionView,
    Summary,
    ToolStart,
    TurnPage,
    turn_text,
)
from agent_worker.sessions.store import SessionStore, new_nonce

__all__ = [
    "Answer",
    "Client",
    "Event",
    "EventPage",
    "Grant",
    "Lease",
    "Message",
    "NotTaken",
    "Nothing",
    "Queued",
    "Replay",
    "SessionStore",
    "SessionView",
    "Summary",
    "ToolStart",
    "TurnPage",
    "connect",
    "is_session_id",
    "new_nonce",
    "new_session_id",
    "session_keys",
    "shown_url",
    "turn_text",
]
