"""What systemd and a service tell each other: readiness, the watchdog, sockets opened beforehand.

The protocols are those of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3): a few
environment variables, one datagram a message. Without systemd there are no such variables, and
nothing here does anything.

`environ` is `os.environ` but in tests.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from hermes_lb.listen.sockets import handed_over

if TYPE_CHECKING:
    from collections.abc import MutableMapping

logger = logging.getLogger("hermes_lb")

READY = "READY=1"  # all listeners are open; also the end of a reload
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"  # still alive

# The first descriptor that is passed (SD_LISTEN_FDS_START).
_FIRST_PASSED = 3
# Seconds that systemd may take to make room for a message. It reads at once, or is in trouble.
_PATIENCE = 1.0


def reloading() -> str:
    """The state at the start of a reload; `READY` tells its end, whether it came to anything."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def status(text: str) -> str:
    """The state that `systemctl status` shows: one line for a person."""
    return f"STATUS={text}"


def is_present(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether somebody wants to be told anything."""
    return bool(environ.get("NOTIFY_SOCKET"))


def notify(state: str, *, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Send a state, such as `READY` -> whether systemd was told.

    False without systemd, and, with a warning, if it can't be reached. It never raises.
    """
    name = environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    address = "\0" + name[1:] if name[0] == "@" else name  # the abstract namespace, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.sendto(state.encode(), address)
    except OSError as error:
        logger.warning("systemd can't be told %s at %s: %s", state, name, error)
        return False
    return True


def is_journal(descriptor: int, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether what is written there goes to the journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(logging.Formatter):
    """Each line with its priority before it, as the journal takes it off again (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def _priority(level: int) -> int:
    """syslog(3)'s number for a level of `logging`."""
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def watchdog_interval(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """Seconds after which to send `WATCHDOG` again: half of the time after which systemd kills us.

    None if it does not (no WatchdogSec=), or if it waits for another process than this one.
    """
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        is_ours = int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return microseconds / 2e6 if is_ours and microseconds > 0 else None


def listen_fds(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The listening sockets that systemd opened for this process, by `FileDescriptorName=`.

    They are in the order of the unit's `ListenStream=` lines, do not block, and are not inherited;
    they are the caller's to close. The variables are taken out of `environ`, so that neither a
    second call nor a child process takes them for its own. Raises ValueError, with words for a
    person, if what was passed is no listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[socket.socket]] = {}
    problem = ""
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else "unknown"
        try:
            found.setdefault(name, []).append(_listener(_FIRST_PASSED + index))
        except OSError as error:
            problem = problem or f"systemd passed {name!r}, which is {error.strerror}"
    if problem:
        for sockets in found.values():
            for sock in sockets:
                sock.close()
        raise ValueError(f"{problem}: a socket unit needs ListenStream= and Accept=no")
    return found


def _listener(descriptor: int) -> socket.socket:
    """The listening socket that `descriptor` is."""
    os.set_inheritable(descriptor, False)
    sock = handed_over(descriptor)
    try:
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.type != socket.SOCK_STREAM or not is_listening:
            raise OSError(0, "a socket that does not listen")
    except OSError:
        sock.close()
        raise
    return sock
