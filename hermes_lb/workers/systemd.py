"""The service's side of systemd's protocols: readiness, watchdog, socket activation.

sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3): a few environment variables, one datagram
a message. Without systemd the variables are missing, and all of this does nothing.

`environ` is `os.environ` except in tests.
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
# Seconds to wait for room in systemd's socket. It reads at once, or is in trouble.
_PATIENCE = 1.0


def reloading() -> str:
    """The state at the start of a reload; `READY` ends it, successful or not."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def status(text: str) -> str:
    """The state that `systemctl status` shows: one line for a person."""
    return f"STATUS={text}"


def is_present(environ: MutableMapping[str, str] = os.environ) -> bool:
    """True if a service manager wants notifications."""
    return bool(environ.get("NOTIFY_SOCKET"))


def notify(state: str, *, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Send a state, such as `READY` -> whether it was sent.

    False without systemd and, with a warning, if it can't be reached. Never raises.
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
        logger.warning("could not notify systemd of %s at %s: %s", state, name, error)
        return False
    return True


def is_journal(descriptor: int, environ: MutableMapping[str, str] = os.environ) -> bool:
    """True if the descriptor is connected to the journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(logging.Formatter):
    """Prefixes each line with its priority, which the journal removes (sd-daemon(3))."""

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
    """Seconds between two `WATCHDOG` messages: half of systemd's limit.

    None without one (no WatchdogSec=), or if it is for another process.
    """
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        is_ours = int(environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return microseconds / 2e6 if is_ours and microseconds > 0 else None


def listen_fds(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The listening sockets that systemd opened for this process, by `FileDescriptorName=`.

    In the order of the unit's `ListenStream=` lines, non-blocking, not inheritable; the caller has
    to close them. The variables are removed from `environ`, so that neither a second call nor a
    child process uses them. Raises ValueError, with a message for a person, if a descriptor is not
    a listening stream socket.
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
    """`descriptor` as a listening socket."""
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
