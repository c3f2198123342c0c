"""The servers behind every proxy: three that answer at once, three that stream, and a store."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.redis_server import RedisServerError, find_server
from bench.live.errors import BenchError
from bench.live.messages import SMALL_BODY, SMALL_HEADERS, UPSTREAM_HEADER, VARIED_PATH
from bench.live.processes import Process, free_ports, python_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = 3


@dataclass(frozen=True)
class Upstreams:
    """Ports of the running upstreams."""

    small: tuple[int, ...]  # a small answer to any GET or POST, by nginx where it is installed
    small_http2: tuple[int, ...]  # the same by HTTP/2; empty without nginx
    tokens: tuple[int, ...]  # event streams and WebSockets (token_server)
    small_server: str  # what serves `small`, for the record
    store: str  # the URL of a Valkey; empty where there is none
    store_server: Process | None
    processes: tuple[Process, ...]


@contextmanager
def running_upstreams(directory: Path, core: int) -> Iterator[Upstreams]:
    """Start the upstreams on `core`; they end with the context."""
    with ExitStack() as stack:
        tokens = tuple(free_ports(SERVERS))
        command = python_module("bench.live.token_server", *map(str, tokens))
        streamer = stack.enter_context(Process(command, core=core, log=directory / "tokens.log"))
        _wait_for_port(streamer, tokens[-1])
        url, keeper = _start_store(directory, core, stack)
        others = (streamer,) if keeper is None else (streamer, keeper)
        if (nginx := shutil.which("nginx")) is None:
            served_by = "bench.live.token_server (nginx is missing)"
            yield Upstreams(tokens, (), tokens, served_by, url, keeper, others)
            return
        ports = tuple(free_ports(2 * SERVERS))
        small, http2 = ports[:SERVERS], ports[SERVERS:]
        config = directory / "upstream-nginx.conf"
        config.write_text(_nginx_config(directory, small, http2))
        command = [nginx, "-p", str(directory), "-c", str(config)]
        server = stack.enter_context(Process(command, core=core, log=directory / "nginx.log"))
        _wait_for_port(server, http2[-1])
        others = (*others, server)
        yield Upstreams(small, http2, tokens, "nginx, one process", url, keeper, others)


def _start_store(directory: Path, core: int, stack: ExitStack) -> tuple[str, Process | None]:
    try:
        path = find_server().path
    except RedisServerError:
        return "", None
    [port] = free_ports(1)
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    store = stack.enter_context(
        Process([str(path), *words], core=core, log=directory / "store.log")
    )
    _wait_for_port(store, port)
    return f"redis://127.0.0.1:{port}/0", store


def _wait_for_port(server: Process, port: int, patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.is_running():
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"upstream did not start: {' '.join(server.argv)}\n{server.output()}")


def _nginx_config(directory: Path, ports: tuple[int, ...], http2: tuple[int, ...]) -> str:
    headers = "\n".join(
        f'    add_header {name} "{value}";'
        for name, value in SMALL_HEADERS.items()
        if name != "Content-Type"
    )
    servers = "\n".join(
        f"""  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{http2_port} http2 backlog=4096;
    default_type application/json;
    add_header {UPSTREAM_HEADER} "{number}";
    add_header X-Serial $serial;
{headers}
    return 200 '{SMALL_BODY}';
  }}"""
        for number, (port, http2_port) in enumerate(zip(ports, http2, strict=True), 1)
    )
    return f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off;
master_process off;
pid {directory}/upstream-nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_temp_path {directory}/upstream-body;
  proxy_temp_path {directory}/upstream-proxy;
  fastcgi_temp_path {directory}/upstream-fastcgi;
  uwsgi_temp_path {directory}/upstream-uwsgi;
  scgi_temp_path {directory}/upstream-scgi;
  map $uri $serial {{ default ""; ~^{VARIED_PATH}/ $request_id; }}
{servers}
}}
"""


class SyslogSink:
    """A port, TCP and UDP, that a proxy logs to, and a thread that empties it like a daemon.

    It reads a megabyte at most every few ms, so that a line costs the load's core next to nothing.
    """

    _PAUSE = 0.005  # s
    _CHUNK = 1024 * 1024  # bytes
    _MOST_DATAGRAMS = 100  # a pause: what comes faster than that is lost, and costs no more

    def __enter__(self) -> SyslogSink:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * self._CHUNK)
        self._datagrams.setblocking(False)
        self._datagrams.bind(("127.0.0.1", self.port))
        self.lines = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="syslog-sink", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._listener.close()
        self._datagrams.close()

    def _run(self) -> None:
        senders: list[socket.socket] = []
        buffer = memoryview(bytearray(self._CHUNK))
        while not self._stopping.wait(self._PAUSE):
            with suppress(BlockingIOError):
                senders.append(self._listener.accept()[0])
                senders[-1].setblocking(False)
            senders = [sender for sender in senders if self._drain(sender, buffer)]
            with suppress(BlockingIOError):
                for _ in range(self._MOST_DATAGRAMS):
                    self._datagrams.recv_into(buffer)
                    self.lines += 1
        for sender in senders:
            sender.close()

    def _drain(self, sender: socket.socket, buffer: memoryview) -> bool:
        """Read once. Return whether the sender is still there."""
        try:
            received = sender.recv_into(buffer)
        except BlockingIOError:
            return True
        except OSError:
            received = 0
        if not received:
            sender.close()
            return False
        self.lines += buffer[:received].tobytes().count(b"\n")
        return True
