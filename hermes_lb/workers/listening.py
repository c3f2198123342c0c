"""The listening sockets of all workers: opened once, kept open by the supervisor for life.

Each worker has a socket of its own at every address (SO_REUSEPORT), so that the kernel spreads the
connections. A client that waits in the backlog of a socket is not lost when the worker dies: who
takes the seat accepts it. A socket in the file system can't be shared out like that; there all
workers accept from one.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hermes_lb.listen.sockets import listening_socket, remove_stale
from hermes_lb.options.units import Address, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from hermes_lb.config import Bind, Config, Frontend

Key = tuple[str, str]
"""The frontend's name, and the address as it is configured."""


class Listening:
    """`groups[key][seat]` is the socket of the worker in that seat."""

    def __init__(
        self, seats: int, passed: Mapping[str, Sequence[socket.socket]] | None = None
    ) -> None:
        """`passed`: sockets that systemd has opened, by the name of the frontend or the address."""
        self.seats = seats
        self.groups: dict[Key, list[socket.socket]] = {}
        self._passed = {name: list(sockets) for name, sockets in (passed or {}).items()}
        self._unix: dict[Key, UnixAddress] = {}
        self._closed: set[UnixAddress] = set()  # whose files may still be there

    def open(self, configured: Config) -> list[Key]:
        """Listen at every address that is not listened at yet -> these.

        Raises OSError, with the address in its `strerror`; nothing is changed then.
        """
        opened: list[Key] = []
        try:
            for frontend in configured.frontends:
                for bind in frontend.bind:
                    key = frontend.name, str(bind)
                    if key not in self.groups:
                        self.groups[key] = self._open(bind, frontend)
                        opened.append(key)
                        if isinstance(bind.address, UnixAddress):
                            self._unix[key] = bind.address
        except BaseException:
            self.close(opened)
            raise
        return opened

    def all(self) -> list[tuple[Key, list[socket.socket], str]]:
        """Everything, with the path of those that are in the file system."""
        return [
            (key, sockets, self._unix[key].path if key in self._unix else "")
            for key, sockets in self.groups.items()
        ]

    @property
    def untaken(self) -> list[str]:
        """Sockets that were passed and are nobody's: clients are let in there, and wait in vain."""
        return [
            f'{_in_words(sock.getsockname())} ("{name}")'
            for name, sockets in self._passed.items()
            for sock in sockets
        ]

    def take_over(
        self, key: Key, sockets: list[socket.socket], address: UnixAddress | None
    ) -> None:
        """What another has opened."""
        self.groups[key] = sockets
        if address is not None:
            self._unix[key] = address

    def take_over_closed(self, paths: Iterable[str]) -> None:
        """Of sockets that another has closed, and whose files it has left."""
        self._closed.update(map(UnixAddress, paths))

    @property
    def closed(self) -> list[str]:
        """The paths of files that could not be removed yet, if they are there: `remove_files`."""
        return sorted(address.path for address in self._closed)

    def of_seat(
        self, seat: int, keys: Iterable[Key] | None = None
    ) -> list[tuple[Key, socket.socket]]:
        """What the worker in that seat listens on: for all keys, or for these.

        There may be more sockets than seats: before an upgrade there were more. To close one would
        reset who waits in its backlog, and the kernel goes on to put clients there.
        """
        return [
            (key, sock)
            for key in (self.groups if keys is None else keys)
            for sock in self.groups[key][seat :: self.seats]
        ]

    def used(self, configured: Config) -> list[Key]:
        """Of what is open, the addresses that a configuration listens at."""
        used = {(f.name, str(bind)) for f in configured.frontends for bind in f.bind}
        return [key for key in self.groups if key in used]

    def unused(self, configured: Config) -> list[Key]:
        """The addresses that a configuration does not listen at any more."""
        used = set(self.used(configured))
        return [key for key in self.groups if key not in used]

    def close(self, keys: Iterable[Key]) -> None:
        """For good. Who has been accepted is not touched."""
        for key in list(keys):
            for sock in self.groups.pop(key):
                sock.close()
            if (address := self._unix.pop(key, None)) is not None:
                self._closed.add(address)
        self.remove_files()

    def remove_files(self) -> None:
        """Of sockets that are closed, if no worker listens on one any more."""
        self._closed.difference_update(self._unix.values())
        for address in self._closed:
            remove_stale(address)

    def close_all(self) -> None:
        self.close(list(self.groups))

    def _open(self, bind: Bind, frontend: Frontend) -> list[socket.socket]:
        for (_, address), sockets in self.groups.items():
            if address == str(bind) and not bind.is_any_port:
                return [sock.dup() for sock in sockets]  # another frontend had it, or has it still
        if (passed := self._take_passed(bind, frontend)) is not None:
            passed.setblocking(False)
            return [passed, *(passed.dup() for _ in range(self.seats - 1))]
        return self._listen(bind, frontend.name)

    def _listen(self, bind: Bind, frontend: str) -> list[socket.socket]:
        if self.seats == 1 or isinstance(bind.address, UnixAddress):
            first = listening_socket(bind, frontend)
            return [first, *(first.dup() for _ in range(self.seats - 1))]
        # Another program there would be shared with, and get a part of the clients, unless it is
        # found out first.
        listening_socket(bind, frontend).close()
        sockets = [listening_socket(bind, frontend, reuse_port=True)]
        try:
            host, port = bind.address.host, sockets[0].getsockname()[1]
            same = bind.model_copy(update={"address": Address(host, port)})
            while len(sockets) < self.seats:
                sockets.append(listening_socket(same, frontend, reuse_port=True))
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def _take_passed(self, bind: Bind, frontend: Frontend) -> socket.socket | None:
        """By its address, or else by the name that the socket unit gives it, if only one socket
        and one bind have the name: then it may be anywhere."""
        for sockets in self._passed.values():
            for sock in sockets:
                if _is_at(sock, bind):
                    sockets.remove(sock)
                    return sock
        named = self._passed.get(frontend.name, [])
        return named.pop() if len(named) == len(frontend.bind) == 1 else None


def _is_at(sock: socket.socket, bind: Bind) -> bool:
    where = sock.getsockname()
    if isinstance(bind.address, UnixAddress):
        return bool(where == bind.address.path)
    return bool(where == _as_kernel_has_it(bind.address))


def _in_words(where: Any) -> str:
    return str(Address(*where[:2]) if isinstance(where, tuple) else UnixAddress(where))


def _as_kernel_has_it(address: Address) -> tuple[Any, ...] | None:
    """What `getsockname` tells of a socket there, however the address is written; None: a name."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except socket.gaierror:
        return None
    host, *rest = found[0][4]
    return str(host).partition("%")[0], *rest  # the zone is a number of its own, behind
