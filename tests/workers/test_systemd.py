"""systemd's protocols, over real datagram sockets and real descriptors."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from hermes_lb.workers import systemd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """systemd's end: its address as in NOTIFY_SOCKET, and the socket."""
    name = f"@hermes-{secrets.token_hex(8)}"
    if request.param == "path":
        name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(name.replace("@", "\0"))
        yield name, sock


def test_a_state_arrives_as_one_message(listener: tuple[str, socket.socket]) -> None:
    name, sock = listener
    assert systemd.notify(systemd.READY, environ={"NOTIFY_SOCKET": name})
    assert sock.recv(4096) == b"READY=1"


def test_a_reload_says_when_it_began(listener: tuple[str, socket.socket]) -> None:
    name, sock = listener
    before = time.monotonic_ns() // 1000
    systemd.notify(systemd.reloading(), environ={"NOTIFY_SOCKET": name})
    lines = dict(line.split("=") for line in sock.recv(4096).decode().splitlines())
    assert lines["RELOADING"] == "1"
    assert before <= int(lines["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_is_reported(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not systemd.notify(systemd.READY, environ=environ)
    assert not caplog.records


def test_a_systemd_that_has_gone_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(tmp_path / "gone")
    assert not systemd.notify(systemd.STOPPING, environ={"NOTIFY_SOCKET": name})
    [record] = caplog.records
    assert record.getMessage().startswith(f"could not notify systemd of STOPPING=1 at {name}: ")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(
    environ: dict[str, str], interval: float | None
) -> None:
    assert systemd.watchdog_interval(environ) == interval


# Socket activation. Descriptors are passed from number 3 on, which needs a process of its own.

_CHILD = """
import os, socket, sys
from hermes_lb.workers.systemd import listen_fds
os.environ["LISTEN_PID"] = sys.argv[1] or str(os.getpid())
try:
    found = listen_fds()
except ValueError as error:
    sys.exit(str(error))
for name, sockets in found.items():
    for sock in sockets:
        where = sock.getsockname()
        print(name, where if isinstance(where, str) else where[1],
              sock.getblocking(), sock.get_inheritable())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), listen_fds())
"""


def activate(
    *sockets: socket.socket, names: str | None = None, count: str | None = None, pid: str = ""
) -> subprocess.CompletedProcess[str]:
    """Start a process as systemd does, with these sockets as descriptors 3, 4, ..."""
    environ = {**os.environ, "LISTEN_FDS": str(len(sockets)) if count is None else count}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    # Free numbers above the final ones.
    copies = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 20) for sock in sockets]
    moves = "; ".join(f"exec {3 + index}<&{copy} {copy}<&-" for index, copy in enumerate(copies))
    try:
        script = f'{moves or ":"}; exec "$@"'
        return subprocess.run(
            ["/bin/bash", "-c", script, "bash", sys.executable, "-c", _CHILD, pid],
            env=environ,
            pass_fds=copies,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    finally:
        for copy in copies:
            os.close(copy)


def test_sockets_come_by_the_names_of_their_units(tmp_path: Path) -> None:
    path = str(tmp_path / "lb.sock")
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.socket(socket.AF_UNIX) as second,
        socket.create_server(("127.0.0.1", 0)) as third,
    ):
        second.bind(path)
        second.listen()
        ran = activate(first, second, third, names="public:admin:public")
        ports = [sock.getsockname()[1] for sock in (first, third)]
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        f"public {ports[0]} False False",
        f"public {ports[1]} False False",
        f"admin {path} False False",
        "[] {}",
    ]


def test_sockets_without_names_are_of_the_unknown_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        ran = activate(sock)
        port = sock.getsockname()[1]
    assert ran.stdout.splitlines() == [f"unknown {port} False False", "[] {}"]


def test_sockets_of_another_process_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        ran = activate(sock, names="public", pid="1")
    assert ran.stdout.splitlines() == ["[] {}"]


@pytest.mark.parametrize("count", ["", "0", "-1", "many"])
def test_no_sockets_are_no_sockets(count: str) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    assert systemd.listen_fds(environ) == {}
    assert environ == {}


def test_what_does_not_listen_is_refused_in_words() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as good,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bad,
    ):
        bad.bind(("127.0.0.1", 0))
        ran = activate(good, bad, names="public:syslog")
    assert ran.returncode == 1
    assert ran.stderr == (
        "systemd passed 'syslog', which is a socket that does not listen: "
        "a socket unit needs ListenStream= and Accept=no\n"
    )


def test_what_goes_to_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert systemd.is_journal(stream.fileno(), ours)
        assert not systemd.is_journal(stream.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not systemd.is_journal(stream.fileno(), {})


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)],
)
def test_each_line_for_the_journal_has_its_priority(level: int, priority: int) -> None:
    record = logging.LogRecord("hermes_lb", level, "", 0, "one:\n%s", ("two",), None)
    formatter = systemd.JournalFormatter("%(name)s: %(message)s")
    assert formatter.format(record) == f"<{priority}>hermes_lb: one:\n<{priority}>two"
