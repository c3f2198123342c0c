"""Converts errors to responses: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

_HTTP_CODES = {
    404: ("not_found", "No route matched."),
    405: ("method_not_allowed", "The method is not allowed here."),
    413: ("too_large", "The request is too large."),
}


def error_response(error: AgentError) -> web.Response:
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return _json_error(error.status, error.code, str(error), headers)


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes JSON; unexpected ones are logged, and not disclosed to the client."""
    try:
        return await handler(request)
    except AgentError as error:
        return error_response(error)
    except web.HTTPException as error:
        code, message = _HTTP_CODES.get(error.status, ("bad_request", error.reason))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _json_error(error.status, code, message, headers)
    except ConnectionError:
        # The client has left, or does not read. A graceful close would wait for it to read.
        if request.transport is not None:
            request.transport.abort()
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(AgentError())


def _json_error(status: int, code: str, message: str, headers: dict[str, str]) -> web.Response:
    body = {"error": {"code": code, "message": message}}
    return web.json_response(body, status=status, headers=headers)
