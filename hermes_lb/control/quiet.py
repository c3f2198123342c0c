"""aiohttp's log messages about connections of the admin listener.

aiohttp logs a traceback for each request that it can't parse. Any client can send such a request
without a token, and its response (400) names the error, so it is logged as a debug line.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter

CLIENT_ERRORS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
"""Errors of clients: a malformed head, a body that does not fit its head, a closed connection."""


class QuietLog(Adapter):
    """Replaces aiohttp's `logger`: no traceback for errors of clients, one for bugs."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        if isinstance(exc_info, CLIENT_ERRORS):
            # Only the name of the error: its message may repeat the input.
            self.debug(f"{msg}: %s", *args, type(exc_info).__name__)
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)
