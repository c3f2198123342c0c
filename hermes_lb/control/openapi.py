"""The description of the admin API, as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1)."""

from __future__ import annotations

from functools import cache
from typing import Any

from hermes_lb.control.history import FIELDS, SPANS
from hermes_lb.control.schemas import SCHEMAS, Schema, array, by_name, one_of, ref
from hermes_lb.observe.metric_table import version

Operation = dict[str, Any]

_ABOUT = """\
Queries and commands for operators. Without a token it is on loopback only, and open to every \
local process; with one, send `Authorization: Bearer TOKEN`. Commands need \
`Content-Type: application/json`, and are refused for pages of other origins."""

_ERRORS = {
    400: "the query or the body is invalid",
    401: "a token is needed",
    404: "no such backend or server",
    409: "not possible; the message has the reason",
    422: "the configuration has errors; the old one goes on",
    503: "too many live streams are open",
}
_ANY_ERROR = "another error, such as 403 for pages of other origins, or 415"


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_SERVER = [_in_path("backend"), _in_path("server")]
_SINCE = _query("since", {"type": "integer", "minimum": 0}, "only those with a higher number")


def _operation(
    summary: str,
    answer: Schema,
    *,
    body: str = "",
    parameters: list[Schema] | None = None,
    errors: tuple[int, ...] = (),
    status: int = 200,
    media: str = "application/json",
) -> Operation:
    responses = {str(status): {"description": "done", "content": {media: {"schema": answer}}}}
    refusals = {str(code): _ERRORS[code] for code in sorted((401, *errors))}
    for code, why in (refusals | {"default": _ANY_ERROR}).items():
        responses[code] = {
            "description": why,
            "content": {"application/json": {"schema": ref("Error")}},
        }
    operation: Operation = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": ref(body)}},
        }
    return operation


def _reading() -> dict[str, Operation]:
    text = {"type": "string"}
    return {
        "/api/v1/status": {"get": _operation("The balancer as a whole", ref("Status"))},
        "/api/v1/backends": {"get": _operation("The backends", array(ref("Backend")))},
        "/api/v1/scaling": {
            "get": _operation(
                "The load of each backend, for autoscalers",
                by_name(ref("Scaling"), "by backend"),
            )
        },
        "/api/v1/scaling/{backend}": {
            "get": _operation(
                "The load of one backend, for autoscalers", ref("Scaling"),
                parameters=[_in_path("backend")], errors=(404,),
            )
        },
        "/api/v1/servers": {"get": _operation("All servers", array(ref("Server")))},
        "/api/v1/servers/{backend}/{server}": {
            "get": _operation("One server", ref("Server"), parameters=_SERVER, errors=(404,))
        },
        "/api/v1/sessions": {
            "get": _operation(
                "Requests in flight, longest first",
                ref("Sessions"),
                parameters=[
                    _query("backend", text, "only of this backend"),
                    _query("server", text, "only on servers of this name"),
                    _query(
                        "limit", {"type": "integer", "minimum": 0, "maximum": 1000},
                        "maximum number; default: 100",
                    ),
                ],
                errors=(400,),
            )
        },
        "/api/v1/turns": {
            "get": _operation(
                "Turns in the store, newest first, of all balancers that share it",
                ref("Turns"),
                parameters=[
                    _query("id", text, "only those whose id begins so: a principal, or one turn"),
                    _query(
                        "limit", {"type": "integer", "minimum": 0, "maximum": 1000},
                        "maximum number; default: 100",
                    ),
                ],
                errors=(400, 409, 503),
            ),
            "delete": _operation(
                "Cancel and delete all turns of a principal, with their responses",
                ref("Purged"),
                parameters=[_query("principal", text, "as the list shows it")],
                errors=(409, 503),
            ),
        },
        "/api/v1/recent": {
            "get": _operation(
                "The last requests that ended abnormally", array(ref("Abort")),
                parameters=[_SINCE], errors=(400,),
            )
        },
        "/api/v1/changes": {
            "get": _operation(
                "The last changes of servers' states, with reasons", array(ref("Change")),
                parameters=[_SINCE], errors=(400,),
            )
        },
        "/api/v1/history": {
            "get": _operation(
                "Rates, queues and percentiles of the last minutes, for charts",
                ref("History"),
                parameters=[
                    _query("span", one_of(list(SPANS)), "each second of 5 min, or 10 s of 1 h"),
                    _query("backend", text, "include its servers; default: backends only"),
                    _query("fields", text, f"separated by commas, of {', '.join(FIELDS)}"),
                ],
                errors=(400, 404),
            )
        },
        "/api/v1/events": {
            "get": _operation(
                "Live: server-sent events, one a second, each a Moment as JSON", ref("Moment"),
                errors=(503,), media="text/event-stream",
            )
        },
    }  # fmt: skip


def _changing() -> dict[str, Operation]:
    server = "/api/v1/servers/{backend}/{server}"
    return {
        f"{server}/state": {
            "put": _operation(
                "Set a server to ready, drain or maint",
                ref("ServerSet"), body="State", errors=(400, 404), parameters=_SERVER,
            )
        },
        f"{server}/weight": {
            "put": _operation(
                "Change a server's weight",
                ref("Server"), body="Weight", errors=(400, 404), parameters=_SERVER,
            )
        },
        f"{server}/sessions": {
            "delete": _operation(
                "Cut the requests on a server, also on one that a reload has removed",
                ref("Ended"), errors=(404,), parameters=_SERVER,
            )
        },
        "/api/v1/turns/{id}": {
            "delete": _operation(
                "Ask for the cancellation of a turn", ref("Cancelled"), errors=(404, 409, 503),
                parameters=[
                    {
                        "name": "id", "in": "path", "required": True,
                        "schema": {"type": "string"}, "description": "as the list shows it",
                    }
                ],
            )
        },
        "/api/v1/reload": {
            "post": _operation(
                "Reload the configuration file", ref("Changes"),
                body="Nothing", errors=(400, 409, 422),
            )
        },
        "/api/v1/upgrade": {
            "post": _operation(
                "Replace the processes one by one by ones that run the code now on disk",
                ref("Begun"), body="Nothing", errors=(400, 409), status=202,
            )
        },
    }  # fmt: skip


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "hermes_lb", "version": version(), "description": _ABOUT},
        "paths": _reading() | _changing(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
