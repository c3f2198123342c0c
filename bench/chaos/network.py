"""Two networks of our own, joined by a cable that can be cut: packets vanish, without an error.

    near (the balancer)  10.231.7.1 ---- 10.231.7.2  far (clients and workers that vanish)

They are network namespaces, which only root may make. Cutting gives either end a wrong link-layer
address of the other: what is sent has a route and leaves, but is not received. No FIN, no RST and
no ICMP error comes back, and the link stays up.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.chaos.scenario import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:99"


class Side:
    """One of the two networks."""

    def __init__(self, name: str, address: str) -> None:
        self.address = address
        self.prefix = ["ip", "netns", "exec", name]  # runs a command there
        self._name = name
        # A thread lives there for ever: a socket belongs to the network of the thread that made it.
        self._thread = ThreadPoolExecutor(1, initializer=self._move_in)

    def _move_in(self) -> None:
        descriptor = os.open(Path("/run/netns") / self._name, os.O_RDONLY)
        try:
            if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {self._name} failed")
        finally:
            os.close(descriptor)

    def make_socket(self) -> socket.socket:
        return self._thread.submit(socket.socket).result()

    def ip(self, *words: str) -> None:
        _run("ip", "-n", self._name, *words)

    def set(self, key: str, value: str) -> None:
        """A sysctl of this network alone."""
        _run(*self.prefix, "sysctl", "-q", "-w", f"{key}={value}")

    def close(self) -> None:
        self._thread.shutdown()


class Cable:
    """What joins the two."""

    def __init__(self, near: Side, far: Side, ends: tuple[str, str]) -> None:
        self.near = near
        self.far = far
        self._ends = ends

    def cut(self) -> None:
        self._point_at(_NOBODY, _NOBODY)

    def mend(self) -> None:
        """As it was: the neighbours find each other again."""
        for side, other, end in self._both():
            side.ip("neigh", "del", other.address, "dev", end)

    def _point_at(self, near: str, far: str) -> None:
        for (side, other, end), wrong in zip(self._both(), (near, far), strict=True):
            words = ("lladdr", wrong, "dev", end, "nud", "permanent")
            side.ip("neigh", "replace", other.address, *words)

    def _both(self) -> tuple[tuple[Side, Side, str], tuple[Side, Side, str]]:
        return (self.near, self.far, self._ends[0]), (self.far, self.near, self._ends[1])


@contextmanager
def running_cable() -> Iterator[Cable]:
    """Make it all, and take it away. Raises Skipped where that can't be done."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise Skipped("network namespaces need root, and ip (apt-get install iproute2)")
    unique = os.getpid()
    names = f"chaos-near-{unique}", f"chaos-far-{unique}"
    ends = f"cn{unique}", f"cf{unique}"
    with ExitStack() as stack:
        for name in names:
            try:
                _run("ip", "netns", "add", name)
            except subprocess.CalledProcessError as error:
                raise Skipped(f"no network namespaces here: {error.stderr.strip()}") from None
            stack.callback(_run, "ip", "netns", "del", name)
        _run(
            "ip", "-n", names[0], "link", "add", ends[0],
            "type", "veth", "peer", "name", ends[1], "netns", names[1],
        )  # fmt: skip
        near, far = Side(names[0], "10.231.7.1"), Side(names[1], "10.231.7.2")
        for side, end in ((near, ends[0]), (far, ends[1])):
            stack.callback(side.close)
            side.ip("addr", "add", f"{side.address}/30", "dev", end)
            for link in (end, "lo"):
                side.ip("link", "set", link, "up")
        yield Cable(near, far, ends)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
