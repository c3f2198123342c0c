"""Sessions in Redis: a data model, and operations that are one atomic script each.

base          the protocols that the other packages depend on; `options`: settings of a store
records       what the operations take and return
store         sessions and turns, on Redis
event_log     the events of a session, for clients that reconnect
tool_ledger   which tool calls have begun, and their results
turn_index    the running turns, for workers that look for orphans
outbox        messages for the archive
operations    runs a script, and raises its refusals and failures
scripts, lua  the scripts
keys          the keys of a session
backend       the SessionBackend on Redis
client        the Redis client, for all topologies
redis_url     the forms of a Redis URL
topology      the server that holds a key; `node`: one server, `subscriber`: pub/sub on one
readiness     whether Redis accepts writes, for /ready
"""

from agent_worker.sessions.backend import RedisBackend, connect
from agent_worker.sessions.base import (
    EventLog,
    EventSink,
    Outbox,
    PubSub,
    SessionBackend,
    SessionStore,
    ToolLedger,
    TurnStore,
)
from agent_worker.sessions.keys import is_session_id, new_session_id, session_keys
from agent_worker.sessions.options import StoreOptions
from agent_worker.sessions.records import (
    Answer,
    Event,
    EventPage,
    Grant,
    Lease,
    Message,
    Nothing,
    NotTaken,
    Part,
    Queued,
    Replay,
    SessionView,
    Summary,
    ToolStart,
    TurnPage,
    Unarchived,
    turn_text,
)
from agent_worker.sessions.redis_url import shown_url
from agent_worker.sessions.store import new_nonce
