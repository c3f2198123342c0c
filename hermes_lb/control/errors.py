"""Errors of requests to the API, and parameters that may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web


class ApiError(Exception):
    """An error response: `details` go into its body beside the message."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


def number_of(request: web.Request, name: str, default: int, *, most: int = 2**53) -> int:
    """A parameter of the query. Raises ApiError."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
        raise ApiError(400, f"{name} is an integer from 0 to {most}")
    return int(text)
