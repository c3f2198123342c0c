"""What every proxy under test has to offer, and how one is started and checked."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.live.errors import BenchError
from bench.live.messages import (
    SDK_BODY,
    SDK_PATH,
    SMALL_BODY,
    UPSTREAM_HEADER,
    sdk_headers,
)
from bench.live.processes import Process, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.live.bench import Bench
    from bench.live.certificate import Certificate

# Beyond any case's needs (3,000 streams) and, at two descriptors a stream, below `ulimit -n`.
MAX_CONNECTIONS = 8_000
BACKLOG = 4096
HEALTH_PATH = "/health"
_START_PATIENCE = 15.0  # s
_PATIENCE = 5.0  # s, for one answer


@dataclass(frozen=True)
class Setup:
    """What a peer's configuration is made from. Every address is 127.0.0.1."""

    directory: Path
    port: int
    admin_port: int
    upstreams: tuple[int, ...]
    syslog_port: int
    certificate: Certificate | None  # None: plain HTTP. With one: no tickets, see cases.requests
    store: str  # the URL of a Valkey
    http2: bool = False  # clients may use HTTP/2
    http2_servers: bool = False  # the servers use it

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"


@dataclass(frozen=True)
class Running:
    """A proxy that answers. `process` and `setup` are None for the direct connection."""

    port: int
    process: Process | None
    setup: Setup | None
    http2_port: int = 0  # for clients that begin by HTTP/2


class Peer(ABC):
    """A proxy: least connections over three servers, kept-alive upstreams, an access log."""

    name: ClassVar[str]
    install: ClassVar[str]  # the command that installs it
    has_tls: ClassVar[bool] = True
    has_websocket: ClassVar[bool] = True
    has_http2: ClassVar[bool] = False
    has_http2_servers: ClassVar[bool] = False
    cases: ClassVar[frozenset[str]] = frozenset()  # the only ones it is there for; empty: all
    python: ClassVar[str | None] = None  # the interpreter that it runs on
    environment: ClassVar[Mapping[str, str] | None] = None  # added to ours

    @abstractmethod
    def is_installed(self) -> bool: ...

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def command(self, setup: Setup) -> list[str]:
        """Write the configuration into `setup.directory`; return the command that runs it."""

    def http2_port(self, setup: Setup) -> int:
        """Where it takes clients that begin by HTTP/2."""
        return setup.port

    @contextmanager
    def running(
        self,
        bench: Bench,
        upstreams: tuple[int, ...],
        *,
        tls: bool = False,
        http2: bool = False,
        cores: Sequence[int] = (),
    ) -> Iterator[Running]:
        """Start a fresh proxy alone on its core, check its answers, end it with the context.

        `cores` are those it has instead.
        """
        with tempfile.TemporaryDirectory(dir=bench.directory, prefix=f"{self.name}-") as name:
            port, admin_port = free_ports(2)
            setup = Setup(
                directory=Path(name),
                port=port,
                admin_port=admin_port,
                upstreams=upstreams,
                syslog_port=bench.syslog_port,
                certificate=bench.certificate if tls else None,
                store=bench.upstreams.store,
                http2=http2,
                http2_servers=upstreams == bench.upstreams.small_http2,
            )
            command = self.command(setup)
            log = setup.directory / "output.log"
            with Process(
                command, core=cores or bench.proxy_core, log=log, environment=self.environment
            ) as process:
                try:
                    wait_until_ready(process, port, tls=tls)
                    check_answers(port, tls=tls)
                except (OSError, BenchError, http.client.HTTPException) as error:
                    raise BenchError(f"{error}\n{process.output()}".strip()) from error
                yield Running(port, process, setup, self.http2_port(setup))
                if not process.is_running():
                    raise BenchError(f"died\n{process.output()}")


def wait_until_ready(process: Process, port: int, *, tls: bool) -> None:
    """Wait until the proxy answers 200: it listens and holds its servers for healthy."""
    deadline = time.monotonic() + _START_PATIENCE
    last: object = "nothing"
    while time.monotonic() < deadline:
        if not process.is_running():
            raise BenchError("ended at once")
        try:
            status = _ask(port, tls=tls)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return
            last = f"status {status}"
        time.sleep(0.05)
    raise BenchError(f"no answer in {_START_PATIENCE:.0f} s, last: {last}")


def check_answers(port: int, *, tls: bool) -> None:
    """Check GET and POST, their bodies, keep-alive, and that all three servers get a share."""
    served = set()
    for _ in range(10):
        with closing(_connect(port, tls=tls)) as connection:
            # POST last: it goes out in two writes, and nginx does not keep a connection whose
            # upload it is still reading when the upstream has answered.
            for method in ("GET", "GET", "POST"):
                try:
                    status, headers, body = _exchange(connection, method)
                except TimeoutError:
                    raise BenchError(f"{method}: no answer in {_PATIENCE:.0f} s") from None
                if status != 200 or body != SMALL_BODY.encode():
                    raise BenchError(f"{method} answered {status} {body[:80]!r}")
                if connection.sock is None:  # closed by http.client, for the answer said so
                    raise BenchError(f"{method}: the client's connection was not kept")
                served.add(headers[UPSTREAM_HEADER])
    if served != {"1", "2", "3"}:
        raise BenchError(f"only upstreams {sorted(served)} were used")


def _ask(port: int, *, tls: bool) -> int:
    with closing(_connect(port, tls=tls)) as connection:
        return _exchange(connection, "GET")[0]


def _connect(port: int, *, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=_PATIENCE, context=context)


def _exchange(
    connection: http.client.HTTPConnection, method: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    if method == "POST":
        headers = sdk_headers(f"127.0.0.1:{connection.port}")
        connection.request("POST", SDK_PATH, body=SDK_BODY, headers=headers)
    else:
        connection.request("GET", "/")
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def first_line(*command: str) -> str:
    """The first line that a command prints (where a version is), or "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line), "")


def to_json(value: object) -> str:
    return json.dumps(value, indent=1)
