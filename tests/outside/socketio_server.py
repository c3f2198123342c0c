"""A Socket.IO server that answers with what it is sent.

python -m tests.outside.socketio_server SOCKET
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import socketio
from aiohttp import web


def main() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")
    app = web.Application()
    server.attach(app)

    @server.event  # type: ignore[untyped-decorator]
    async def echo(sid: str, data: Any) -> Any:
        return data

    with socket.socket(fileno=int(sys.argv[1])) as sock:
        web.run_app(app, sock=sock, print=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
