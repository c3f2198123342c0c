"""Sinks by themselves: what reaches the target, and what is said to be lost."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.observe import sinks
from hermes_lb.observe.sinks import DescriptorSink, SyslogSink, open_sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(target: str) -> Iterator[sinks.Sink]:
    sink = open_sink(target, "hermes_lb")
    try:
        yield sink
    finally:
        sink.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            assert fd == reader  # a test closed it


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    with opened(str(path)) as sink:
        assert sink.write(["a", "b"]) == (0, "")
        assert sink.write(["c"]) == (0, "")
    assert path.read_text() == "before\na\nb\nc\n"


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with opened(str(path)):
        assert path.stat().st_mode & 0o007 == 0


def test_after_logrotate_moved_the_file_a_new_one_is_begun(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with opened(str(path)) as sink:
        sink.write(["a"])
        path.rename(tmp_path / "access.log.1")
        sink.write(["b"])
        path.unlink()
        sink.write(["c"])
    assert (tmp_path / "access.log.1").read_text() == "a\n"
    assert path.read_text() == "c\n"


def test_if_the_new_file_cannot_be_opened_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with opened(str(folder / "access.log")) as sink:
        sink.write(["a"])
        folder.rename(tmp_path / "moved")
        assert sink.write(["b"]) == (0, "")
    assert (tmp_path / "moved" / "access.log").read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{tmp}", "Is a directory"),
        ("{tmp}/missing/access.log", "No such file or directory"),
        ("syslog:{tmp}/missing", "No such file or directory"),
        ("syslog:tcp://127.0.0.1:514", "write .syslog:/dev/log. or .syslog:udp://host:514."),
        ("syslog:udp://127.0.0.1:99999", "write .syslog:/dev/log."),
        ("syslog:udp://", "write .syslog:/dev/log."),
        ("syslog:", "write .syslog:/dev/log."),
    ],
)
def test_a_target_that_cannot_be_opened_is_reported_clearly(
    target: str, why: str, tmp_path: Path
) -> None:
    target = target.format(tmp=tmp_path)
    with pytest.raises(ValueError, match=f"access log '{re.escape(target)}' can't.*{why}"):
        open_sink(target, "hermes_lb")


def test_a_fifo_that_nobody_reads_is_refused_instead_of_awaited(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="a pipe without a reader"):
        open_sink(str(tmp_path / "fifo"), "hermes_lb")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_a_full_disk_loses_lines_and_says_so() -> None:
    with opened("/dev/full") as sink:
        assert sink.write(["a", "b", "c"]) == (3, "No space left on device")
        assert sink.write(["d"]) == (1, "No space left on device")


def test_a_reader_that_left_loses_lines_and_says_so(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = DescriptorSink(writer)
    os.close(reader)
    assert sink.write(["a", "b"]) == (2, "Broken pipe")


@pytest.mark.parametrize(("left", "name"), [(1, "stdout"), (2, "stderr")])
def test_standard_streams(left: int, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(name) as sink:
        sink.write(["a", "b"])
    os.fstat(left)  # still open
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == (("a\nb\n", "") if left == 1 else ("", "a\nb\n"))


def test_a_non_blocking_stdout_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = [f"{n:0999}" for n in range(500)]  # more than a pipe holds
    received: list[bytes] = []

    def read() -> None:
        while sum(map(len, received)) < 500 * 1000:
            received.append(os.read(reader, 100_000))

    thread = threading.Thread(target=read)
    thread.start()
    assert DescriptorSink(writer).write(lines) == (0, "")
    thread.join()
    assert b"".join(received).decode().splitlines() == lines


def test_lines_leave_for_a_pipe_in_pieces_that_it_takes_whole(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    _, writer = pipe
    pieces: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        pieces.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    long = "x" * (select.PIPE_BUF + 1)
    lines = ["a" * 1500] * 5 + [long] + ["b" * (select.PIPE_BUF - 1)] * 2 + ["c"]
    assert DescriptorSink(writer).write(lines) == (0, "")
    assert b"".join(pieces).decode().splitlines() == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert [len(piece) for piece in pieces] == [3002, 3002, 1501, 4098, 4096, 4096, 2]


def test_a_file_takes_a_batch_in_one_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes: list[int] = []
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    with opened(str(tmp_path / "log")) as sink:
        sink.write(["x" * 999] * 100)
    assert sizes == [100_000]


WRITES_MANY_LINES = """
import sys
from hermes_lb.observe.sinks import open_sink

sink = open_sink(sys.argv[1], "hermes_lb")
mark = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for batch in range(10):
    lines = [mark * (40 + 7 * n % 900) for n in range(300)]
    assert sink.write(lines) == (0, "")
sink.close()
"""


@pytest.mark.parametrize("kind", ["fifo", "file"])
def test_lines_of_two_processes_never_mix(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    fifo = -1
    if kind == "fifo":
        os.mkfifo(path)
        fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(fifo, True)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_MANY_LINES, str(path), mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for mark in "ab"
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    received = bytearray()
    while received.count(b"\n") < 6000 and kind == "fifo":
        received += os.read(fifo, 1 << 16)
    for child in children:
        child.communicate(timeout=30)
        assert child.returncode == 0
    if kind == "fifo":
        os.close(fifo)
    lines = (bytes(received) or path.read_bytes()).decode().splitlines()
    assert len(lines) == 6000
    assert all(len(set(line)) == 1 for line in lines)
    for mark in "ab":
        expected = [40 + 7 * n % 900 for n in range(300)] * 10
        assert [len(line) for line in lines if line[0] == mark] == expected


def test_a_file_is_reopened_when_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with opened(str(path)) as sink:
        sink.write(["a"])
        path.rename(tmp_path / "access.log.1")
        sink.reopen()
        assert path.read_text() == ""
        sink.write(["b"])
    assert (tmp_path / "access.log.1").read_text() == "a\n"
    assert path.read_text() == "b\n"


def test_half_a_line_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    sink = DescriptorSink(writer)
    real_write = os.write
    failures = [OSError(28, "No space left on device"), OSError(28, "still none")]
    steps: Iterator[int | OSError] = iter([4, *failures])

    def short_write(fd: int, data: bytes) -> int:
        step = next(steps, len(data))
        if isinstance(step, OSError):
            raise step
        return real_write(fd, data[:step])

    monkeypatch.setattr(os, "write", short_write)
    assert sink.write(["aa", "bb", "cc"]) == (2, "No space left on device")
    assert sink.write(["dd"]) == (1, "still none")
    assert sink.write(["ee", "ff"]) == (0, "")
    monkeypatch.undo()
    assert os.read(reader, 100) == b"aa\nb\nee\nff\n"


def test_what_is_not_utf8_is_still_written(tmp_path: Path) -> None:
    with opened(str(tmp_path / "log")) as sink:
        assert sink.write(["a\ud800b"]) == (0, "")
    assert (tmp_path / "log").read_text() == "a\\ud800b\n"


DATAGRAM = re.compile(
    rb"<134>(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123]\d \d\d:\d\d:\d\d "
    rb"hermes_lb\[(\d+)\]: (.*)\n"
)


def test_syslog_by_unix_socket_and_a_daemon_that_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = open_sink(f"syslog:{path}", "hermes_lb")
        assert sink.write(["a", "b"]) == (0, "")
        for expected in (b"a", b"b"):
            match = DATAGRAM.fullmatch(daemon.recv(1000))
            assert match
            assert match.groups()[1:] == (str(os.getpid()).encode(), expected)
    assert sink.write(["c", "d"]) == (2, "Connection refused")
    os.unlink(path)
    assert sink.write(["e"]) == (1, "No such file or directory")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        assert sink.write(["f"]) == (0, "")
        assert daemon.recv(1000).endswith(b": f\n")
    sink.close()


@pytest.mark.parametrize(
    ("facility", "priority"), [("kern", 6), ("daemon", 30), ("local0", 134), ("local7", 190)]
)
def test_syslog_has_the_facility_and_the_tag(facility: Any, priority: int, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = open_sink(f"syslog:{path}", "edge-1", facility)
        sink.write(["line"])
        sink.close()
        datagram = daemon.recv(1000).decode()
    assert datagram.startswith(f"<{priority}>")
    assert datagram.endswith(f" edge-1[{os.getpid()}]: line\n")


def test_syslog_goes_on_with_the_old_address_if_the_new_one_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = open_sink(f"syslog:{path}", "hermes_lb")
        sink.reopen()
        assert sink.write(["a"]) == (0, "")
        os.rename(path, f"{path}.away")
        with pytest.raises(OSError, match="No such file"):
            sink.reopen()
        os.rename(f"{path}.away", path)
        assert sink.write(["b"]) == (0, "")
        assert [daemon.recv(1000)[-2:] for _ in "ab"] == [b"a\n", b"b\n"]
        sink.close()


def test_a_syslog_daemon_that_takes_nothing_costs_the_rest_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_SYSLOG_PATIENCE", 0.02)
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = SyslogSink(path, "hermes_lb")
        lost, error = sink.write(["x" * 1000] * 20_000)
        assert 0 < lost < 20_000
        assert error == "the daemon takes nothing"
        sink.close()


@pytest.mark.parametrize(
    ("name", "told"),
    [("edge-1", b"edge-1 "), ("edge-1.example.org", b"edge-1 "), ("", b"")],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_syslog_by_udp_says_from_which_machine(
    host: str, name: str, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(10)
        port = daemon.getsockname()[1]
        family, address = sinks._syslog_address(f"udp://{host}:{port}")
        if family == socket.AF_INET6:
            pytest.skip(f"localhost is {address} here")
        with opened(f"syslog:udp://{host}:{port}") as sink:
            assert sink.write(["a"]) == (0, "")
            datagram = daemon.recv(1000)
            date, separator, rest = datagram.partition(told + b"hermes_lb[")
            assert DATAGRAM.fullmatch(date + b"hermes_lb[" + rest)
            assert separator


@pytest.mark.parametrize(
    ("now", "date"),
    [("2026-11-04 01:02:03", "Nov  4 01:02:03"), ("2026-02-28 23:59:59", "Feb 28 23:59:59")],
)
def test_the_syslog_date_has_a_space_before_a_day_below_ten(now: str, date: str) -> None:
    from datetime import datetime

    assert sinks._syslog_date(datetime.fromisoformat(now).timestamp()) == date
