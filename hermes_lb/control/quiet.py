"""What aiohttp has to say of the admin listener's connections.

It shows a traceback for each request that it can't read. Anybody may send such a one, before any
token is asked for, and the answer (400) says what is wrong. So that is a line for who debugs.
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
"""A head that is none, a body that is not what its head says, a client that has left."""


class QuietLog(Adapter):
    """Stands in for aiohttp's `logger`: what clients do wrong has no traceback, a bug has one."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        if isinstance(exc_info, CLIENT_ERRORS):
            # Its name only: the message may repeat what was sent.
            self.debug(f"{msg}: %s", *args, type(exc_info).__name__)
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)
