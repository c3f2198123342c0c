"""What a server of this folder does in a process of its own; see `support.server_process`."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler


def serve(handlers: dict[str, Handler]) -> None:
    """Answer GETs on the socket whose number is the first argument: our parent listens on it."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_get(path, handler)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        web.run_app(app, sock=sock, print=None, shutdown_timeout=1)
