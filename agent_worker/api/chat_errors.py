"""Errors in the form of OpenAI's API, so that its SDKs raise the right exceptions.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agent_worker.api.errors import errors_middleware
from agent_worker.errors import AgentError, BadRequest, status_of

if TYPE_CHECKING:
    from agent_worker.api.errors import Handler

PREFIX = "/v1"

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
# Overrides the rules of the SDKs, which retry each 408, 409, 429 and 5xx.
_SHOULD_RETRY = "X-Should-Retry"
_NO_RETRY = web.RequestKey("no_retry", bool)


class BadParameter(BadRequest):
    """`param` is the place in the body, such as `messages[2].content`; `problem` is said of it."""

    code = "invalid_value"

    def __init__(self, param: str, problem: str = "", *, message: str = "") -> None:
        super().__init__(message or f'"{param}" {problem}')
        self.param = param


class Unsupported(BadParameter):
    """OpenAI supports it, this worker does not; ignoring it would change the answer's meaning."""

    code = "unsupported_value"


class ModelNotFound(AgentError):
    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model[:100]!r} does not exist; see GET {PREFIX}/models.")
        self.param = "model"


def forbid_retry(request: web.Request) -> None:
    """A retry of this request could repeat its effect."""
    request[_NO_RETRY] = True


def allow_retry(request: web.Request) -> None:
    """The request had no effect after all."""
    request.pop(_NO_RETRY, None)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_chunk(code: str, message: str) -> dict[str, Any]:
    """The last chunk of a stream that failed; the arguments are the data of its event `error`."""
    return error_body(status_of(code), code, message)


@web.middleware
async def chat_errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the errors below `/v1` OpenAI's form; `errors_middleware` handles the others."""
    if not request.path.startswith(PREFIX + "/"):
        return await handler(request)
    param = None

    async def noting(request: web.Request) -> web.StreamResponse:
        nonlocal param
        try:
            return await handler(request)
        except AgentError as error:
            param = getattr(error, "param", None)
            raise

    response = await errors_middleware(request, noting)
    if response.status < 400 or not isinstance(response, web.Response):
        return response
    return _in_form(request, response, param)


def _in_form(request: web.Request, response: web.Response, param: str | None) -> web.Response:
    assert response.text is not None
    error = json.loads(response.text)["error"]
    response.text = json.dumps(error_body(response.status, error["code"], error["message"], param))
    is_final_conflict = response.status == 409 and "Retry-After" not in response.headers
    if is_final_conflict or _NO_RETRY in request:
        response.headers[_SHOULD_RETRY] = "false"
    return response
