"""The shapes of the admin API's requests and responses: JSON Schema 2020-12, as in OpenAPI 3.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends.counters import RESUME_OUTCOMES, FrontendCounters, RequestCounters
from hermes_lb.backends.server import ADMINS, STATES
from hermes_lb.control.history import FIELDS, SHOWN_STATES
from hermes_lb.control.operator import MAX_WEIGHT
from hermes_lb.http.version import NAMES
from hermes_lb.observe.termination import PHASE
from hermes_lb.turns.states import NAMES as TURN_STATES

if TYPE_CHECKING:
    from hermes_lb.backends.statistics import Counters

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
SECONDS: Schema = {"type": "number", "description": "seconds"}
TIME: Schema = {"type": "number", "description": "seconds since 1970"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def one_of(values: tuple[str, ...] | list[str]) -> Schema:
    return {"type": "string", "enum": list(values)}


def table(**properties: Schema) -> Schema:
    """An object with exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def by_name(values: Schema, description: str) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": description}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def said(schema: Schema, description: str) -> Schema:
    """The same, with a description."""
    return {**schema, "description": description}


def _shown(counters: type[Counters]) -> dict[str, Schema]:
    """What `Counters.shown` gives."""
    return {
        row.slot: table(**dict.fromkeys(row.values, COUNT)) if row.is_list else COUNT
        for row in counters.ROWS
        if row.in_api
    }


_SERVER = {
    "backend": TEXT,
    "name": TEXT,
    "address": TEXT,
    "source": said(TEXT, '"config", "resolve", or the kind of its discovery'),
    "state": said(one_of(STATES), "the actual state; the worst one that applies"),
    "admin": said(one_of(ADMINS), "the state set by operators"),
    "because": said(TEXT, "the reason of its state"),
    "available": said(FLAG, "may serve: neither down, ejected nor failing"),
    "ejected": or_null(table(seconds_left=SECONDS, because=TEXT)),
    "drain": or_null(table(since=TIME, at_start=said(COUNT, "requests at that time"))),
    "weight": said(NUMBER, "below full_weight in a slow start"),
    "full_weight": said(COUNT, "apart from a slow start"),
    "configured_weight": COUNT,
    "backup": FLAG,
    "max_connections": said(COUNT, "0: no limit"),
    "in_flight": COUNT,
    "queued": said(COUNT, "requests waiting for this server only"),
    "fails": said(COUNT, "passive failures counted towards max_fails"),
    "checked": said(FLAG, "an active check has had a result; without one, up is assumed"),
    "last_check": TEXT,
    "ejections": COUNT,
}

_SAMPLE = {
    "type": "object",
    "properties": dict.fromkeys(FIELDS, or_null({"type": "number"})),
    "additionalProperties": False,
    "description": "the last second; empty before the first one is over",
}

_BACKEND = {
    "name": TEXT,
    "servers": COUNT,
    "available": said(COUNT, "available servers"),
    "in_flight": COUNT,
    "queued": COUNT,
    "resumes": said(
        table(**dict.fromkeys(RESUME_OUTCOMES, COUNT)),
        "event streams whose server was lost, by outcome: docs/metrics.md",
    ),
}

_SESSION = table(
    process=COUNT,
    client=said(or_null(TEXT), "address and port; null: it has left"),
    frontend=TEXT,
    backend=TEXT,
    server=or_null(TEXT),
    kind=said(
        one_of(["request", "stream", "tunnel", "detached"]),
        "detached: the client has left, the server finishes it",
    ),
    phase=said(
        one_of(list(PHASE)), "; ".join(f"{letter}: {what}" for letter, what in PHASE.items())
    ),
    seconds=said(NUMBER, "since its head arrived"),
    method=TEXT,
    target=said(TEXT, "without the query"),
    version=said(one_of(NAMES), "of HTTP"),
    stream=said(or_null(COUNT), "of its connection of HTTP/2"),
    bytes_in=COUNT,
    bytes_out=COUNT,
    pinned_by={"enum": ["cookie", "stick", None]},
)

_ABORT = table(
    number=said(COUNT, "from 1, in order"),
    at=TIME,
    client=TEXT,
    frontend=TEXT,
    backend=or_null(TEXT),
    server=or_null(TEXT),
    termination=said(TEXT, "HAProxy's four letters: docs/logs.md"),
    status=said({"type": "integer", "minimum": -1}, "-1: none was sent"),
    duration_ms=COUNT,
    request=TEXT,
    reason=TEXT,
    means=said(TEXT, "the first two letters, in words"),
)

_HISTORY = table(
    step=said(SECONDS, "seconds from one sample to the next"),
    states=said(array(one_of(SHOWN_STATES)), "meaning of the numbers in a server's `state`"),
    times=array(TIME),
    backends=by_name(ref("Columns"), "by backend"),
    servers=by_name(ref("Columns"), "by server of the requested backend"),
)

_STATUS = {
    "version": TEXT,
    "python": TEXT,
    "is_draining": FLAG,
    "started_at": TIME,
    "loaded_at": said(TIME, "when the configuration in use was loaded"),
    "reloads": COUNT,
    "failed_reloads": COUNT,
    "process_restarts": said(COUNT, "worker processes that ended unexpectedly"),
    "processes": array(ref("Process")),
    "frontends": array(ref("Frontend")),
    "certificates": array(ref("Certificate")),
}

SCHEMAS: dict[str, Schema] = {
    "Status": table(**_STATUS, backends=array(ref("Backend"))),
    "Process": table(
        number=COUNT, pid=COUNT, started_at=TIME, is_draining=FLAG, connections=COUNT,
        open_files=COUNT, max_files=COUNT, log_lines_dropped=COUNT,
        loop_lag_p99=SECONDS, loop_lag_worst=SECONDS,
    ),
    "Frontend": table(
        name=TEXT, **_shown(FrontendCounters), refused=COUNT, routes=array(ref("Route"))
    ),
    "Route": table(
        conditions=said(TEXT, "all that it asks of a request; the first route that fits wins"),
        backend=said(TEXT, "`agents`, `agents 95, canary 5`, or `return 404`"),
        rules=said(TEXT, "what else it does, in the order of docs/routes.md"),
        turns=said(FLAG, "its requests are turns: docs/turn-gateway.md"),
        resume=said(FLAG, "its streams continue at another server"),
    ),
    "Certificate": table(
        frontend=said(TEXT, "<ADMIN>: the admin listener"), file=TEXT,
        names=said(array(TEXT), "DNS names in it; may be none"), not_after=TIME,
    ),
    "Backend": table(
        **_BACKEND, unserved=said(ref("Counters"), "requests that ended without a server")
    ),
    "Scaling": table(
        servers=COUNT, available=said(COUNT, "available servers"),
        in_flight=said(COUNT, "requests, streams and tunnels on servers"),
        queued=said(COUNT, "requests that wait for a server"),
        demand=said(COUNT, "in_flight + queued: what servers are needed for"),
        queued_for=said(SECONDS, "seconds for which the queue has not been empty"),
        queue_wait=said(SECONDS, "mean wait of requests that ended in the last minute"),
        requests_per_second=said(NUMBER, "that ended, in the last minute"),
        bytes_per_second=said(NUMBER, "of responses that ended, in the last minute"),
    ),
    "Server": table(**_SERVER, counters=ref("Counters")),
    "ServerSet": table(
        **_SERVER, counters=ref("Counters"),
        settled=said(
            FLAG,
            "all processes have applied it, and the counters are from after that; false: one has "
            "not answered yet, and applies it as soon as it does",
        ),
    ),
    "Counters": table(**_shown(RequestCounters)),
    "Sessions": table(total=COUNT, sessions=array(ref("Session"))),
    "Session": _SESSION,
    "Turns": table(turns=array(ref("Turn"))),
    "Turn": table(
        id=said(TEXT, "the beginning of it"), principal=TEXT, state=one_of(TURN_STATES),
        reason=TEXT, server=TEXT, has_key=FLAG, has_session=FLAG, attempt=COUNT, begun_at=TIME,
        ended_at=or_null(TIME),
    ),
    "Purged": table(purged=COUNT),
    "Cancelled": table(cancelled=COUNT),
    "Abort": _ABORT,
    "Change": table(
        number=COUNT, time=TIME, backend=TEXT, server=TEXT, state=one_of(STATES), because=TEXT
    ),
    "History": _HISTORY,
    "Columns": {
        "type": "object",
        "properties": dict.fromkeys(FIELDS, array(or_null({"type": "number"}))),
        "additionalProperties": False,
    },
    "Sample": _SAMPLE,
    "Moment": table(
        time=TIME,
        sampled_at=said(TIME, "time of the samples"),
        status=table(
            **_STATUS, backends=array(table(**_BACKEND, sample=ref("Sample")))
        ),
        servers=array(table(**_SERVER, sample=ref("Sample"))),
        last_change=said(COUNT, "the newest number in /changes"),
        last_abort=said(COUNT, "the newest number in /recent"),
    ),
    "State": table(state=one_of(ADMINS)),
    "Weight": table(
        weight={
            "type": ["integer", "null"], "minimum": 0, "maximum": MAX_WEIGHT,
            "description": "0: pinned sessions only; null: as configured",
        }
    ),
    "Nothing": {"type": "object", "maxProperties": 0},
    "Ended": table(ended=COUNT),
    "Changes": table(changes=array(said(TEXT, "a change"))),
    "Begun": table(status=one_of(["begun"])),
    "Error": table(
        error={
            "type": "object",
            "properties": {
                "status": COUNT, "message": TEXT,
                "problems": said(array(TEXT), "errors of a configuration, with positions"),
            },
            "required": ["status", "message"],
        }
    ),
}  # fmt: skip
