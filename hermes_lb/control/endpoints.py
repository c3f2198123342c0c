"""How an operation of the API is declared: a decorated method.

    @put("servers/{backend}/{server}/state", "Set a server to ready, drain or maint",
         answers=shapes.ServerSet, body=shapes.SetState, errors=(404,))
    async def set_state(self, request: web.Request, body: shapes.SetState) -> shapes.ServerSet: ...

The route, the validation of the body or the query, and the description (`control.openapi`) come
from the declaration.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aiohttp import web
from pydantic import ValidationError

from hermes_lb.control.errors import ApiError
from hermes_lb.control.quiet import CLIENT_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hermes_lb.control.shapes import Given

PREFIX = "/api/v1/"


class Endpoint(NamedTuple):
    """One operation. `body` and `query` exclude each other; the handler is given what was sent."""

    method: str
    path: str  # below PREFIX
    summary: str
    answers: Any  # a type of `control.shapes`
    body: type[Given] | None = None
    query: type[Given] | None = None
    errors: tuple[int, ...] = ()
    status: int = 200
    media: str = "application/json"


_MARK = "__endpoint__"
Handler = TypeVar("Handler", bound="Callable[..., Any]")


def _declared(method: str, path: str, summary: str, **more: Any) -> Callable[[Handler], Handler]:
    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Endpoint(method, path, summary, **more))
        return handler

    return mark


def get(path: str, summary: str, **more: Any) -> Callable[[Handler], Handler]:
    return _declared("GET", path, summary, **more)


def put(path: str, summary: str, **more: Any) -> Callable[[Handler], Handler]:
    return _declared("PUT", path, summary, **more)


def post(path: str, summary: str, **more: Any) -> Callable[[Handler], Handler]:
    return _declared("POST", path, summary, **more)


def delete(path: str, summary: str, **more: Any) -> Callable[[Handler], Handler]:
    return _declared("DELETE", path, summary, **more)


def endpoints_of(*groups: type) -> list[Endpoint]:
    """All that these classes declare, in order."""
    return [getattr(handler, _MARK) for group in groups for handler in _marked(vars(group))]


def routes_of(group: object) -> list[web.RouteDef]:
    """For aiohttp's router."""
    routes = []
    for handler in _marked(vars(type(group))):
        endpoint: Endpoint = getattr(handler, _MARK)
        answer = _answering(endpoint, handler.__get__(group))
        options: dict[str, Any] = (
            {"allow_head": False} if endpoint.media == "text/event-stream" else {}
        )
        if endpoint.method == "GET":
            routes.append(web.get(PREFIX + endpoint.path, answer, **options))
        else:
            routes.append(web.route(endpoint.method, PREFIX + endpoint.path, answer))
    return routes


def _marked(members: Any) -> Iterable[Any]:
    return (member for member in members.values() if hasattr(member, _MARK))


def _answering(endpoint: Endpoint, handler: Callable[..., Any]) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        if endpoint.body is not None:
            found = await handler(request, _valid(endpoint.body, await _json(request, endpoint)))
        elif endpoint.query is not None:
            known = endpoint.query.model_fields
            given = {key: request.query[key] for key in known if key in request.query}
            found = await handler(request, _valid(endpoint.query, given))
        else:
            found = await handler(request)
        if isinstance(found, web.StreamResponse):
            return found
        return web.json_response(found, status=endpoint.status)

    return answer


async def _json(request: web.Request, endpoint: Endpoint) -> Any:
    """The body; an empty one counts as an object without keys. Raises ApiError."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "send the body without Content-Encoding")
    try:
        body = json.loads(await request.read() or b"{}")
    except CLIENT_ERRORS:
        raise ApiError(400, "the body did not come as its head says") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        assert endpoint.body is not None
        wanted = ", ".join(f'"{key}": ...' for key in endpoint.body.model_fields)
        raise ApiError(400, f"send {{{wanted}}}")
    return body


def _valid(shape: type[Given], given: Any) -> Given:
    """Raises ApiError."""
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        place = ".".join(map(str, first["loc"]))
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise ApiError(400, f"{place}: {said}" if place else said) from None
