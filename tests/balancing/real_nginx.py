"""A real nginx, so that our strategies can be compared with the ones they follow.

One process serves both sides over Unix sockets in a temporary directory: no ports to collide.
Requests go one after the other over one connection, so nginx picks in a known order.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

# name -> (nginx's directive for the method, the parameters of server 0, of server 1, ...)
Upstreams = dict[str, tuple[str, list[str]]]
DEAD = "dead"  # a parameter of ours: this server refuses connections
FRONT = "front.sock"
CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 100000;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    {upstreams}
    server {{
        listen unix:{directory}/front.sock;
        set_real_ip_from unix:;
        real_ip_header X-Forwarded-For;
        proxy_buffering off;
        add_header X-Picked $upstream_addr always;
        {locations}
    }}
    server {{
        {listens}
        location / {{ return 200 "ok"; }}
        # The head at once, then a byte a second: such a request stays in flight.
        location /hold {{ limit_rate_after 1k; limit_rate 1; return 200 "{long}"; }}
    }}
}}
"""


class Nginx:
    """What to ask of a running nginx."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connection = self._connect()
        self._held: list[socket.socket] = []

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(20)
            connection.connect(str(self._directory / FRONT))
        except OSError:
            connection.close()
            raise
        return connection

    def pick(self, upstream: str, client_address: str = "192.0.2.1") -> list[int]:
        """The servers that nginx tried for a request from this address; the last one answered."""
        return self._ask(self._connection, f"/{upstream}/", client_address)

    def pick_and_hold(self, upstream: str) -> list[int]:
        """The same, and the request stays in flight."""
        self._held.append(self._connect())
        return self._ask(self._held[-1], f"/{upstream}/hold", "192.0.2.1")

    def _ask(self, connection: socket.socket, target: str, client_address: str) -> list[int]:
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client_address}\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += (more := connection.recv(65_536))
            assert more, received
        answer, _, body = received.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in answer.split(b"\r\n")[1:])
        while "hold" not in target and len(body) < int(fields[b"Content-Length"]):
            body += connection.recv(65_536)
        picked = fields[b"X-Picked"].decode().split(", ")
        return [int(Path(address).name[0]) for address in picked]

    def close(self) -> None:
        for connection in (self._connection, *self._held):
            connection.close()


def _config(directory: Path, upstreams: Upstreams) -> str:
    blocks = []
    for name, (method, servers) in upstreams.items():
        lines = []
        for i, parameters in enumerate(servers):
            words = parameters.split()
            path = f"{i}.dead" if DEAD in words else f"{i}.sock"
            words = [word for word in words if word != DEAD]
            lines.append(f"server unix:{directory}/{path} {' '.join(words)};")
        blocks.append(f"upstream {name} {{ {method} {' '.join(lines)} }}")
    most = max(len(servers) for _, servers in upstreams.values())
    return CONFIG.format(
        directory=directory,
        upstreams="\n    ".join(blocks),
        locations=" ".join(
            f"location /{name}/ {{ proxy_pass http://{name}/; }}" for name in upstreams
        ),
        listens=" ".join(f"listen unix:{directory}/{i}.sock;" for i in range(most)),
        long="x" * 3000,
    )


@contextmanager
def running_nginx(upstreams: Upstreams) -> Iterator[Nginx]:
    """Yields a running nginx with these upstreams, and ends it."""
    # Not tmp_path: the path of a Unix socket may have no more than about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        directory = Path(name)
        (directory / "nginx.conf").write_text(_config(directory, upstreams))
        log = directory / "error.log"
        process = subprocess.Popen(
            ["nginx", "-e", str(log), "-p", name, "-c", str(directory / "nginx.conf")],
            env={**os.environ, "LC_ALL": "C"},
            stderr=subprocess.DEVNULL,
        )
        try:
            nginx = _when_ready(process, directory)
            try:
                yield nginx
            finally:
                nginx.close()
        finally:
            process.terminate()
            process.wait(20)


def _when_ready(process: subprocess.Popen[bytes], directory: Path) -> Nginx:
    deadline = time.monotonic() + 20
    while True:
        try:
            return Nginx(directory)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                log = directory / "error.log"
                raise AssertionError(f"nginx did not start: {log.read_text()}") from None
            time.sleep(0.01)
