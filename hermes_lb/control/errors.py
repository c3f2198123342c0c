"""Errors of requests to the API, and their responses."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hermes_lb.control.operator import NotPossible, UnknownServer


class ApiError(Exception):
    """An error response: `details` go into its body beside the message."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


def answer_for(error: Exception) -> web.Response | None:
    """The response for a handler's exception; None for a bug."""
    if isinstance(error, web.HTTPException):
        response = error_response(error.status, error.reason)
        for name in ("Allow", "WWW-Authenticate", "Retry-After"):
            if name in error.headers:  # RFC 9110 section 15.5.6: a 405 must carry Allow
                response.headers[name] = error.headers[name]
        return response
    if isinstance(error, ApiError):
        return error_response(error.status, str(error), **error.details)
    if isinstance(error, UnknownServer):
        return error_response(404, str(error))
    if isinstance(error, NotPossible):
        return error_response(409, str(error))
    return None


def error_response(status: int, message: str, **details: Any) -> web.Response:
    """The form of all errors."""
    return web.json_response(
        {"error": {"status": status, "message": message, **details}}, status=status
    )
