"""A real HAProxy with cookie affinity, before servers whose answers a test chooses.

All over Unix sockets in a temporary directory: no ports to collide.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy installed")

CONFIG = """
defaults
    mode http
    timeout connect 10s
    timeout client 20s
    timeout server 20s
    http-reuse never
frontend front
    bind unix@{directory}/front.sock
    default_backend back
backend back
    cookie SERVERID {mode}
    server agent1 unix@{directory}/server.sock cookie agent1
    server agent2 unix@{directory}/server.sock cookie agent2
    server agent3 unix@{directory}/server.sock cookie agent3 disabled
"""


class Answer(NamedTuple):
    """A response, and the Cookie headers that the server saw."""

    cookies_seen: list[bytes]
    set_cookies: list[bytes]
    cache_control: list[bytes]


class _Server(socketserver.StreamRequestHandler):
    """Answers with the head in `X-Answer` and, in it, the Cookie headers that arrived."""

    def handle(self) -> None:
        lines = list(iter(lambda: self.rfile.readline().rstrip(b"\r\n"), b""))
        seen = [text.decode("latin-1") for text in _values(lines, b"cookie")]
        wanted = _values(lines, b"x-answer")
        if not wanted:
            return
        self.wfile.write(
            base64.b64decode(wanted[0])
            + b"X-Seen: %s\r\n" % base64.b64encode(json.dumps(seen).encode())
            + b"Connection: close\r\n\r\n"
        )


def _values(lines: list[bytes], name: bytes) -> list[bytes]:
    fields = (line.partition(b":") for line in lines)
    return [value.strip() for field, _, value in fields if field.lower() == name]


class HAProxy:
    """What to ask of a running HAProxy."""

    def __init__(self, directory: Path) -> None:
        self._front = str(directory / "front.sock")

    def ask(
        self,
        method: str = "GET",
        cookies: list[bytes] | None = None,
        status: int = 200,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Answer:
        answer = b"HTTP/1.1 %d X\r\n" % status
        answer += b"".join(b"%s: %s\r\n" % field for field in headers or [])
        lines = [
            f"{method} / HTTP/1.1".encode(),
            b"Host: x",
            b"Connection: close",
            b"Content-Length: 0",
            b"X-Answer: " + base64.b64encode(answer),
            *(b"Cookie: " + cookie for cookie in cookies or []),
        ]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self._front)
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
        got = received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        [seen] = _values(got, b"x-seen")
        return Answer(
            [text.encode("latin-1") for text in json.loads(base64.b64decode(seen))],
            _values(got, b"set-cookie"),
            _values(got, b"cache-control"),
        )


@contextmanager
def running_haproxy(mode: str = "insert indirect nocache") -> Iterator[HAProxy]:
    # Not tmp_path: the path of a Unix socket may have no more than about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="haproxy-") as name:
        directory = Path(name)
        config = directory / "haproxy.cfg"
        config.write_text(CONFIG.format(directory=directory, mode=mode))
        with socketserver.ThreadingUnixStreamServer(str(directory / "server.sock"), _Server) as up:
            thread = threading.Thread(target=up.serve_forever, args=(0.05,))
            thread.start()
            process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)])
            try:
                _wait_until_ready(process, directory / "front.sock")
                yield HAProxy(directory)
            finally:
                process.terminate()
                process.wait(20)
                up.shutdown()
                thread.join(20)


def _wait_until_ready(process: subprocess.Popen[bytes], front: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                return connection.connect(str(front))
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError("haproxy did not start") from None
        time.sleep(0.01)
