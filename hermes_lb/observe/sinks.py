"""Where access-log lines go: a file, an open descriptor, or a syslog daemon.

A sink blocks, so its `write` is called by a `BackgroundWriter` only, in a thread of its own. It
does not raise: it says how many lines were lost, and why. `open_sink` alone raises, at the start.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import stat
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from hermes_lb.observe.httplog import MONTHS

# local0.info, as for HAProxy's `log ... local0`: facility 16 * 8 + severity 6 (RFC 3164, 4.1.1).
_PRIORITY = 16 * 8 + 6
_SYSLOG_PORT = 514
# Seconds. A daemon that takes nothing for so long is stuck: the rest of the batch is lost.
_SYSLOG_PATIENCE = 1.0
_FILE_MODE = 0o640  # query strings can be secrets


class Outcome(NamedTuple):
    """What became of a batch."""

    lost: int  # lines
    error: str  # why; "" if none was lost


_WRITTEN = Outcome(0, "")


class Sink(Protocol):
    """Takes batches of lines in order, from one thread."""

    def write(self, lines: list[str]) -> Outcome:
        """Write all lines, each with its end. May block for long; raises no OSError."""

    def close(self) -> None:
        """Let go of what `open_sink` opened."""


def open_sink(target: str, tag: str) -> Sink:
    """The sink of `[log] access`, other than "off". May block, to resolve a name.

    `tag` names the program to a syslog daemon. Raises ValueError, with one line for a person, if
    `target` can't be opened.
    """
    try:
        if target == "stdout":
            return DescriptorSink(1)
        if target == "stderr":
            return DescriptorSink(2)
        if target.startswith("syslog:"):
            return SyslogSink(target.removeprefix("syslog:"), tag)
        return FileSink(target)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"the access log {target!r} can't be opened: {why}") from error


class DescriptorSink:
    """An open file descriptor of the process, such as stdout; `close` leaves it open."""

    def __init__(self, fd: int) -> None:
        os.fstat(fd)  # OSError if it is closed
        self._fd = fd
        self._is_in_line = False  # the last write failed in the middle of a line

    def write(self, lines: list[str]) -> Outcome:
        text = "\n".join(lines) + "\n"
        if self._is_in_line:
            text = "\n" + text  # so that half a line spoils no other
        data = text.encode("utf-8", "backslashreplace")
        sent = 0
        error: OSError | None = None
        try:
            while sent < len(data):
                sent += self._write_some(data[sent:] if sent else data)
        except OSError as caught:
            error = caught
        if sent:
            self._is_in_line = data[sent - 1] != 0x0A
        if error is None:
            return _WRITTEN
        return Outcome(min(len(lines), data.count(b"\n", sent)), error.strerror or repr(error))

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # a full FIFO, or a stdout that someone made non-blocking
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                room.poll()

    def close(self) -> None:
        """Nothing to let go of."""


class FileSink(DescriptorSink):
    """A file, appended to. A file that was moved away (logrotate) is opened anew by its name."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(self._open())
        self._identity = self._identify()

    def write(self, lines: list[str]) -> Outcome:
        if self._was_moved():
            with suppress(OSError):  # otherwise the lines still go to the file that was moved
                fd = self._open()
                os.close(self._fd)
                self._fd = fd
                self._identity = self._identify()
                self._is_in_line = False
        return super().write(lines)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        # O_NONBLOCK: to open a FIFO that nobody reads would take for ever. Files ignore it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, _FILE_MODE)

    def _identify(self) -> tuple[int, int]:
        at = os.fstat(self._fd)
        return at.st_dev, at.st_ino

    def _was_moved(self) -> bool:
        try:
            at = os.stat(self._path)
        except OSError:
            return True
        return (at.st_dev, at.st_ino) != self._identity and stat.S_ISREG(at.st_mode)


class SyslogSink:
    """One datagram a line, in HAProxy's form of RFC 3164: `<134>Nov 24 12:00:00 tag[pid]: line`.

    The socket is not connected, so a daemon that was restarted is found again by itself.
    """

    def __init__(self, where: str, tag: str) -> None:
        family, self._address = _syslog_address(where)
        self._tag = tag
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(_SYSLOG_PATIENCE)

    def write(self, lines: list[str]) -> Outcome:
        head = f"<{_PRIORITY}>{_syslog_date(time.time())} {self._tag}[{os.getpid()}]: "
        for sent, line in enumerate(lines):
            datagram = f"{head}{line}\n".encode("utf-8", "backslashreplace")
            try:
                self._socket.sendto(datagram, self._address)
            except OSError as error:  # TimeoutError too
                return Outcome(len(lines) - sent, error.strerror or "the daemon takes nothing")
        return _WRITTEN

    def close(self) -> None:
        self._socket.close()


def _syslog_address(where: str) -> tuple[int, Any]:
    """`/dev/log` or `udp://host:514` -> socket family and address. OSError or ValueError."""
    if where.startswith("/"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trial:
            trial.connect(where)  # OSError if nobody listens there
        return socket.AF_UNIX, where
    try:
        url = urlsplit(where)
        port = url.port or _SYSLOG_PORT
        if url.scheme != "udp" or not url.hostname or url.path or url.query:
            raise ValueError(where)
    except ValueError:
        raise ValueError(
            f"the access log 'syslog:{where}' can't be opened: "
            'write "syslog:/dev/log" or "syslog:udp://host:514"'
        ) from None
    found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_DGRAM)
    family, _, _, _, address = found[0]
    return family, address


def _syslog_date(now: float) -> str:
    """`Nov 24 12:00:00`, local time; a day below 10 has a space before it (RFC 3164, 4.1.2)."""
    at = time.localtime(now)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {clock}"


class BackgroundWriter:
    """A thread that opens a sink and writes batches to it, one after the other.

    It is a daemon, and not one of an executor's: a reader that has stopped reading our stdout must
    not keep the process from ending.
    """

    def __init__(self, target: str, tag: str) -> None:
        self.opened: Future[None] = _running_future()  # its exception is `open_sink`'s
        self._batches: queue.SimpleQueue[tuple[list[str], Future[Outcome]] | None]
        self._batches = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(target, tag), name="access log", daemon=True
        )
        self._thread.start()

    def write(self, lines: list[str]) -> Future[Outcome]:
        """Hand over a batch, which then is the writer's own. The outcome comes in order."""
        written: Future[Outcome] = _running_future()
        self._batches.put((lines, written))
        return written

    def stop(self, *, wait: bool) -> None:
        """End the thread after all that was handed over; `wait` for it only if it is idle."""
        self._batches.put(None)
        if wait:
            self._thread.join()

    def _run(self, target: str, tag: str) -> None:
        try:
            sink = open_sink(target, tag)
        except Exception as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        while (batch := self._batches.get()) is not None:
            lines, written = batch
            try:
                outcome = sink.write(lines)
            except Exception as error:  # a bug: never the end of the log
                outcome = Outcome(len(lines), repr(error))
            written.set_result(outcome)
        sink.close()


def _running_future() -> Future[Any]:
    """One that its waiter can't cancel: cancelled, it would refuse the thread's result."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
