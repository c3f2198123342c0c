"""Targets of lines, of the access log above all: a file, an open descriptor, or a syslog daemon.

A sink blocks, so it is called by a `background.BackgroundWriter` only, in a thread of its own. It
does not raise: it returns how many lines were lost, and why. `open_sink` alone raises, at the
start; a process that must start whatever the target uses a `LateSink`.

Several processes may write to one file or pipe: a file takes each write whole at its end
(O_APPEND), and a pipe gets whole lines in pieces that it takes whole (POSIX `write`, PIPE_BUF).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args
from urllib.parse import urlsplit

from hermes_lb.config.process import Facility
from hermes_lb.observe.httplog import MONTHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config

_FACILITIES = get_args(Facility)
_INFO = 6  # severity (RFC 3164 section 4.1.1), as HAProxy has it for requests
_SYSLOG_PORT = 514
# Seconds. A daemon that takes nothing for this time is stuck: the rest of the batch is lost.
_SYSLOG_PATIENCE = 1.0
# O_NONBLOCK: opening a FIFO without a reader would block for ever. Files ignore it.
_FILE_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_FILE_MODE = 0o640  # query strings can be secrets
# Seconds between two tries to open what could not be opened.
_TRY_AGAIN = 1.0


class Outcome(NamedTuple):
    """What became of a batch."""

    lost: int  # lines
    error: str  # why; "" if none was lost


_WRITTEN = Outcome(0, "")


class Sink(Protocol):
    """Takes batches of lines in order, from one thread."""

    def write(self, lines: list[str]) -> Outcome:
        """Write all lines, each with its end. May block for long; raises no OSError."""

    def reopen(self) -> None:
        """Reopen the target by its name. OSError or ValueError: the old one stays in use."""

    def close(self) -> None:
        """Let go of what `open_sink` opened."""


def open_sink(target: str, tag: str, facility: Facility = "local0") -> Sink:
    """The sink of `[log] access`, other than "off". May block, to resolve a name.

    `tag` and `facility` are for a syslog daemon. Raises ValueError, with one line for a person, if
    `target` can't be opened.
    """
    try:
        if target == "stdout":
            return DescriptorSink(1)
        if target == "stderr":
            return DescriptorSink(2)
        if target.startswith("syslog:"):
            return SyslogSink(target.removeprefix("syslog:"), tag, facility)
        return FileSink(target)
    except OSError as error:
        raise _not_opened(target, error) from error


def try_sink(configured: config.Log) -> None:
    """Raises ValueError, one line for a person, if the access log can't be opened. May block."""
    if configured.access != "off":
        open_sink(configured.access, configured.tag, configured.facility).close()


def check_sink(configured: config.Log) -> None:
    """Raises ValueError as `try_sink` does, but leaves no trace: no file is made. May block.

    stdout and stderr are the caller's, and say nothing about the service's.
    """
    target = configured.access
    if target.startswith("syslog:"):
        try_sink(configured)
    elif target not in ("off", "stdout", "stderr"):
        try:
            _try_file(target)
        except OSError as error:
            raise _not_opened(target, error) from error


def _try_file(path: str) -> None:
    try:
        os.close(os.open(path, _FILE_FLAGS & ~os.O_CREAT))
    except FileNotFoundError:
        folder = os.path.dirname(os.path.realpath(path))
        os.stat(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _not_opened(target: str, error: OSError) -> ValueError:
    reason = error.strerror or error
    if error.errno == errno.ENXIO:
        reason = "it is a pipe without a reader, or a socket"
    return ValueError(f"the access log {target!r} can't be opened: {reason}")


class DescriptorSink:
    """An open file descriptor of the process, such as stdout; `close` leaves it open."""

    def __init__(self, fd: int) -> None:
        self._most_at_once = _most_at_once(fd)
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
                sent += self._write_some(data[sent : _end_of_piece(data, sent, self._most_at_once)])
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

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """Nothing to let go of."""


def _most_at_once(fd: int) -> int:
    """Bytes that one write appends whole beside other writers. OSError: `fd` is not open."""
    return sys.maxsize if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF


def _end_of_piece(data: bytes, start: int, most: int) -> int:
    """Where the lines from `start` that make up to `most` bytes end; a longer one goes alone."""
    if len(data) - start <= most:
        return len(data)
    return (data.rfind(b"\n", start, start + most) + 1) or (data.find(b"\n", start) + 1)


class FileSink(DescriptorSink):
    """A file, appended to. A file that was moved away (logrotate) is reopened by its name."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(self._open())
        self._identity = self._identify()

    def write(self, lines: list[str]) -> Outcome:
        if self._was_moved():
            with suppress(OSError):  # otherwise the lines still go to the file that was moved
                self.reopen()
        return super().write(lines)

    def reopen(self) -> None:
        fd = self._open()
        os.close(self._fd)
        self._fd = fd
        self._identity = self._identify()
        self._most_at_once = _most_at_once(fd)
        self._is_in_line = False

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        return os.open(self._path, _FILE_FLAGS, _FILE_MODE)

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

    By UDP the name of this machine comes before the tag, as HAProxy's `log-send-hostname` says it
    and nginx does: behind a relay or an address translation the sender's address tells nothing.
    The socket is not connected, so a daemon that was restarted is found again by itself.
    """

    def __init__(self, where: str, tag: str, facility: Facility = "local0") -> None:
        self._where = where
        self._tag = tag
        self._machine = "" if where.startswith("/") else _this_machine()
        self._priority = _FACILITIES.index(facility) * 8 + _INFO
        self._socket, self._address = self._open()

    def _open(self) -> tuple[socket.socket, Any]:
        family, address = _syslog_address(self._where)
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.settimeout(_SYSLOG_PATIENCE)
        return opened, address

    def reopen(self) -> None:
        """Its host may have another address now."""
        opened, address = self._open()
        self._socket.close()
        self._socket, self._address = opened, address

    def write(self, lines: list[str]) -> Outcome:
        when, pid = _syslog_date(time.time()), os.getpid()
        head = f"<{self._priority}>{when} {self._machine}{self._tag}[{pid}]: "
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
            trial.connect(where)  # OSError if there is no listener
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


def _this_machine() -> str:
    """Its name without the domain, which must not be sent (RFC 3164, 4.1.2), and a space."""
    name = socket.gethostname().partition(".")[0]
    return f"{name} " if name else ""


def _syslog_date(now: float) -> str:
    """`Nov 24 12:00:00`, local time; a day below 10 has a space before it (RFC 3164, 4.1.2)."""
    at = time.localtime(now)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {clock}"


class LateSink:
    """A target that may not be there yet: lines are lost until it can be opened.

    A write tries to, once a second at most. `opener` is `open_sink`, with its arguments.
    """

    def __init__(
        self, opener: Callable[[], Sink], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._opener = opener
        self._clock = clock
        self._sink: Sink | None = None
        self._try_after = float("-inf")
        self._why = ""

    def write(self, lines: list[str]) -> Outcome:
        if self._sink is None and self._clock() >= self._try_after:
            with suppress(OSError, ValueError):
                self.reopen()
        return Outcome(len(lines), self._why) if self._sink is None else self._sink.write(lines)

    def reopen(self) -> None:
        if self._sink is not None:
            self._sink.reopen()
            return
        try:
            self._sink = self._opener()
        except (OSError, ValueError) as error:
            self._why = str(error)
            self._try_after = self._clock() + _TRY_AGAIN
            raise

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
