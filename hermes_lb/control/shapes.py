"""The shapes of the admin API: of every answer, body and query.

The only source of them. Handlers return these (`control.views`, checked by mypy), `control.openapi`
describes them by pydantic's JSON Schemas, `ctl` prints them (`ctl.tables`, checked by mypy), and a
test compares the fields that the page reads.

Answers are plain dicts: some come from other processes, and an event of 500 servers a second is
not worth validating. Bodies and queries come from clients: pydantic validates them.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic does not take that of typing before 3.12
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import (
    TypedDict,
)

from hermes_lb.backends.counters import RESUME_OUTCOMES, FrontendCounters, RequestCounters
from hermes_lb.backends.server import Admin, State  # noqa: TC001 - pydantic reads them
from hermes_lb.control.history import FIELDS, SHOWN_STATES, SPANS
from hermes_lb.control.operator import MAX_WEIGHT
from hermes_lb.http.version import NAMES
from hermes_lb.observe.termination import PHASE
from hermes_lb.options.section import Name  # noqa: TC001 - pydantic reads it
from hermes_lb.turns.states import NAMES as TURN_STATES

if TYPE_CHECKING:
    from hermes_lb.backends.statistics import Counters as Record

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(description="seconds")]
Time = Annotated[float, Field(description="seconds since 1970")]

MOST_ROWS = 1000
_make: Any = TypedDict


def _exactly(name: str, fields: dict[str, Any], *, total: bool = True) -> Any:
    """A shape whose fields are those of a table elsewhere."""
    made: Any = _make(name, fields, total=total)
    made.__module__ = __name__
    return made


def _shown(counters: type[Record]) -> dict[str, Any]:
    """What `Counters.shown` gives."""
    return {
        row.slot: _exactly(row.slot.title().replace("_", ""), dict.fromkeys(row.values, Count))
        if row.is_list
        else Count
        for row in counters.ROWS
        if row.in_api
    }


if TYPE_CHECKING:
    Counters = dict[str, Any]
    Resumes = dict[str, int]
    Sample = dict[str, float | None]
    Columns = dict[str, list[float | None]]
    _FrontendCounters = TypedDict
    HttpVersion = str
    Phase = str
    ShownState = str
    TurnState = str
    SpanName = str
else:
    Counters = _exactly("Counters", _shown(RequestCounters))
    Resumes = _exactly("Resumes", dict.fromkeys(RESUME_OUTCOMES, Count))
    Sample = _exactly("Sample", dict.fromkeys(FIELDS, float | None), total=False)
    Columns = _exactly("Columns", dict.fromkeys(FIELDS, list[float | None]), total=False)
    HttpVersion = Literal[*NAMES]
    Phase = Literal[*PHASE]
    ShownState = Literal[*SHOWN_STATES]
    TurnState = Literal[*TURN_STATES]
    SpanName = Literal[*SPANS]


class Shape(TypedDict):
    """Base of the answers: an object with exactly these keys."""


# Servers and backends.


class Ejection(Shape):
    seconds_left: Seconds
    because: str


class Drain(Shape):
    since: Time
    at_start: Annotated[Count, Field(description="requests at that time")]


class Tally(Shape):
    """Since the start, or since the counters were cleared."""

    since: Time
    changed_at: Annotated[Time | None, Field(description="the last change of its state")]
    downs: Annotated[Count, Field(description="how often it went out of service")]
    downtime: Annotated[Seconds, Field(description="seconds out of service")]
    max_in_flight: Count
    max_queued: Count
    max_rate: Annotated[Number, Field(description="requests ended, per second")]


class _Server(Shape):
    backend: str
    name: str
    address: str
    source: Annotated[str, Field(description='"config", "resolve", or the kind of its discovery')]
    state: Annotated[State, Field(description="the actual state; the worst one that applies")]
    admin: Annotated[Admin, Field(description="the state set by operators")]
    because: Annotated[str, Field(description="the reason of its state")]
    available: Annotated[bool, Field(description="may serve: neither down, ejected nor failing")]
    ejected: Ejection | None
    drain: Drain | None
    weight: Annotated[Number, Field(description="below full_weight in a slow start")]
    full_weight: Annotated[Count, Field(description="apart from a slow start")]
    configured_weight: Count
    backup: bool
    max_connections: Annotated[Count, Field(description="0: no limit")]
    in_flight: Count
    queued: Annotated[Count, Field(description="requests waiting for this server only")]
    fails: Annotated[Count, Field(description="passive failures counted towards max_fails")]
    checked: Annotated[
        bool, Field(description="an active check has had a result; without one, up is assumed")
    ]
    last_check: str
    ejections: Count
    counters: Counters
    tally: Tally | None


class Server(_Server):
    pass


class ServerSet(_Server):
    settled: Annotated[
        bool,
        Field(
            description="all processes have applied it, and the counters are from after that; "
            "false: one has not answered yet, and applies it as soon as it does"
        ),
    ]


class SampledServer(_Server):
    sample: Annotated[Sample, Field(description="the last second; empty before the first one")]


class _Backend(Shape):
    name: str
    servers: Count
    available: Annotated[Count, Field(description="available servers")]
    in_flight: Count
    queued: Count
    resumes: Annotated[
        Resumes,
        Field(description="event streams whose server was lost, by outcome: docs/metrics.md"),
    ]
    unserved: Annotated[Counters, Field(description="requests that ended without a server")]
    tally: Tally | None


class Backend(_Backend):
    pass


class SampledBackend(_Backend):
    sample: Annotated[Sample, Field(description="the last second; empty before the first one")]


class Scaling(Shape):
    servers: Count
    available: Annotated[Count, Field(description="available servers")]
    in_flight: Annotated[Count, Field(description="requests, streams and tunnels on servers")]
    queued: Annotated[Count, Field(description="requests that wait for a server")]
    demand: Annotated[Count, Field(description="in_flight + queued: what servers are needed for")]
    queued_for: Annotated[
        Seconds, Field(description="seconds for which the queue has not been empty")
    ]
    queue_wait: Annotated[
        Seconds, Field(description="mean wait of requests that ended in the last minute")
    ]
    requests_per_second: Annotated[Number, Field(description="that ended, in the last minute")]
    bytes_per_second: Annotated[
        Number, Field(description="of responses that ended, in the last minute")
    ]


# The balancer.


class Process(Shape):
    number: Count
    pid: Count
    started_at: Time
    is_draining: bool
    connections: Count
    open_files: Count
    max_files: Count
    log_lines_dropped: Count
    loop_lag_p99: Seconds
    loop_lag_worst: Seconds


class Route(Shape):
    conditions: Annotated[
        str, Field(description="all that it asks of a request; the first route that fits wins")
    ]
    backend: Annotated[str, Field(description="`agents`, `agents 95, canary 5`, or `return 404`")]
    rules: Annotated[str, Field(description="what else it does, in the order of docs/routes.md")]
    turns: Annotated[bool, Field(description="its requests are turns: docs/turn-gateway.md")]
    resume: Annotated[bool, Field(description="its streams continue at another server")]


if TYPE_CHECKING:
    Frontend = dict[str, Any]
else:
    Frontend = _exactly(
        "Frontend",
        {"name": str, **_shown(FrontendCounters), "refused": Count, "routes": list[Route]},
    )


class Certificate(Shape):
    frontend: Annotated[str, Field(description="<ADMIN>: the admin listener")]
    file: str
    names: Annotated[list[str], Field(description="DNS names in it; may be none")]
    not_after: Time


class _Status(Shape):
    version: str
    python: str
    is_draining: bool
    started_at: Time
    loaded_at: Annotated[Time, Field(description="when the configuration in use was loaded")]
    reloads: Count
    failed_reloads: Count
    process_restarts: Annotated[
        Count, Field(description="worker processes that ended unexpectedly")
    ]
    processes: list[Process]
    frontends: list[Frontend]
    certificates: list[Certificate]


class Status(_Status):
    backends: list[Backend]


class SampledStatus(_Status):
    backends: list[SampledBackend]


class Moment(Shape):
    time: Time
    sampled_at: Annotated[Time, Field(description="time of the samples")]
    status: SampledStatus
    servers: list[SampledServer]
    gone: Annotated[list[str], Field(description="BACKEND/SERVER that are no more")]
    is_whole: Annotated[
        bool,
        Field(description="has all servers: the first event; others have those that differ"),
    ]
    last_change: Annotated[Count, Field(description="the newest number in /changes")]
    last_abort: Annotated[Count, Field(description="the newest number in /recent")]


class History(Shape):
    step: Annotated[Seconds, Field(description="seconds from one sample to the next")]
    states: Annotated[
        list[ShownState], Field(description="meaning of the numbers in a server's `state`")
    ]
    times: list[Time]
    backends: Annotated[dict[str, Columns], Field(description="by backend")]
    servers: Annotated[dict[str, Columns], Field(description="by server of the requested backend")]


# What runs, and what has happened.


class Session(Shape):
    """A request in flight."""

    id: Annotated[str, Field(description="for DELETE /sessions/{id}")]
    process: Annotated[Count, Field(description="number of its worker process, from 0")]
    client: Annotated[str | None, Field(description="address and port; null: it has left")]
    frontend: str
    backend: str
    server: Annotated[str | None, Field(description="null: not selected yet")]
    kind: Annotated[
        Literal["request", "stream", "tunnel", "detached"],
        Field(description="detached: the client has left, the server finishes it"),
    ]
    phase: Annotated[
        Phase,
        Field(description="; ".join(f"{letter}: {what}" for letter, what in PHASE.items())),
    ]
    seconds: Annotated[Number, Field(description="since its head arrived")]
    method: str
    target: Annotated[str, Field(description="without the query, which may hold secrets")]
    version: Annotated[HttpVersion, Field(description="of HTTP")]
    stream: Annotated[Count | None, Field(description="of its connection of HTTP/2")]
    bytes_in: Annotated[Count, Field(description="from the client")]
    bytes_out: Annotated[Count, Field(description="to the client")]
    pinned_by: Annotated[
        Literal["cookie", "stick"] | None,
        Field(description="the affinity that selected the server"),
    ]


class Sessions(Shape):
    total: Count
    sessions: list[Session]


class Abort(Shape):
    number: Annotated[Count, Field(description="from 1, in order")]
    at: Time
    client: str
    frontend: str
    backend: str | None
    server: str | None
    termination: Annotated[str, Field(description="HAProxy's four letters: docs/logs.md")]
    status: Annotated[int, Field(ge=-1, description="-1: none was sent")]
    duration_ms: Count
    request: str
    reason: str
    means: Annotated[str, Field(description="the first two letters, in words")]


class Change(Shape):
    number: Count
    time: Time
    backend: str
    server: str
    state: State
    because: str


class Refusal(Shape):
    """Requests that the balancer has refused, or failures of a server."""

    where: Annotated[str, Field(description="frontend NAME, or BACKEND/SERVER")]
    status: Annotated[int | None, Field(description="of the response; null: of a server")]
    count: Count
    because: str


class Pin(Shape):
    id: Annotated[str, Field(description="digest of the session's key, which may be a secret")]
    backend: str
    server: str


class UnreadPins(Shape):
    """Pins in a store that are not, or not all, in the answer."""

    backend: str
    because: str


class Pins(Shape):
    total: Annotated[Count, Field(description="found; there may be more, as `unread` says")]
    elsewhere: Annotated[list[str], Field(description="backends whose table is in a store")]
    unread: Annotated[list[UnreadPins], Field(description="stores that were not read to their end")]
    pins: list[Pin]


class Resolved(Shape):
    """A server whose host name is looked up."""

    backend: str
    server: str
    host: str
    interval: Seconds
    addresses: list[str]
    is_failing: Annotated[bool, Field(description="the last look-up came to nothing")]
    failures: Annotated[Count, Field(description="look-ups of the backend that failed")]


class Setting(Shape):
    """A value of the running configuration."""

    key: str
    value: Annotated[Any, Field(description="JSON; secrets are not shown")]
    origin: Annotated[str, Field(description="FILE:LINE, default, runtime or environment")]


class Turn(Shape):
    id: Annotated[str, Field(description="the beginning of it")]
    principal: str
    state: TurnState
    reason: str
    server: str
    has_key: bool
    has_session: bool
    attempt: Count
    begun_at: Time
    ended_at: Time | None


class Turns(Shape):
    turns: list[Turn]


# Answers to commands.


class Purged(Shape):
    purged: Count


class Cancelled(Shape):
    cancelled: Count


class Ended(Shape):
    ended: Count


class Cleared(Shape):
    cleared: Count


class Changes(Shape):
    changes: Annotated[list[str], Field(description="in words")]


class Begun(Shape):
    status: Literal["begun"]


class ErrorDetails(Shape):
    status: Count
    message: str
    problems: NotRequired[
        Annotated[
            list[str], Field(description="a line each: errors of a configuration, with positions")
        ]
    ]


class Error(Shape):
    error: ErrorDetails


class Given(BaseModel):
    """Base of what clients send: exactly these keys, of exactly these types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# Bodies.


class SetState(Given):
    state: Admin


class SetWeight(Given):
    weight: Annotated[
        Annotated[int, Field(ge=0, le=MAX_WEIGHT)] | None,
        Field(description="0: pinned sessions only; null: as configured"),
    ]


class SetHealth(Given):
    health: Annotated[Literal["up", "down", "auto"], Field(description="auto: by its checks again")]


class AddServer(Given):
    name: Name
    address: str
    options: Annotated[
        dict[str, Any], Field(description="keys of [[backends.NAME.servers]], as JSON")
    ] = {}
    state: Admin = "ready"


class SetServer(Given):
    options: Annotated[
        dict[str, Any],
        Field(
            description="other values of address, server_name, max_connections, max_fails, "
            "fail_timeout, slow_start",
            min_length=1,
        ),
    ]


class Nothing(Given):
    pass


# Queries, whose values are text.


def _integer(value: object) -> object:
    """Not by `int`, which takes other digits and any length."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        return int(value)
    return value


_Integer = Annotated[int, BeforeValidator(_integer), Field(ge=0)]
Limit = Annotated[_Integer, Field(le=MOST_ROWS, description="maximum number; default: 100")]


class Since(Given):
    since: Annotated[_Integer, Field(le=2**53, description="only those with a higher number")] = 0


class WhichSessions(Given):
    backend: Annotated[str | None, Field(description="only of this backend")] = None
    server: Annotated[str | None, Field(description="only on servers of this name")] = None
    limit: Limit = 100


class WhichTurns(Given):
    id: Annotated[
        str, Field(description="only those whose id begins so: a principal, or one turn")
    ] = ""
    limit: Limit = 100


class WhichPrincipal(Given):
    principal: Annotated[str, Field(description="as the list shows it")] = ""


class WhichPins(Given):
    backend: Annotated[str | None, Field(description="only of this backend")] = None
    server: Annotated[str | None, Field(description="only to servers of this name")] = None
    id: Annotated[str | None, Field(description="only this one")] = None
    limit: Limit = 100


class WhichSettings(Given):
    under: Annotated[str, Field(description="only keys that begin so, such as backends.agents")] = (
        ""
    )


def _fields(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


if TYPE_CHECKING:
    FieldName = str
else:
    FieldName = Literal[*FIELDS]


class WhichHistory(Given):
    span: Annotated[SpanName, Field(description="each second of 5 min, or 10 s of 1 h")] = "5m"
    backend: Annotated[
        str | None, Field(description="include its servers; default: backends only")
    ] = None
    fields: Annotated[
        list[FieldName],
        BeforeValidator(_fields),
        Field(description=f"separated by commas, of {', '.join(FIELDS)}"),
    ] = list(FIELDS)
