"""The listening sockets of all workers, opened by the supervisor and kept open until the end.

Each worker has its own socket at every address (SO_REUSEPORT), and the kernel spreads connections
over them. A client in the backlog of a worker that dies is accepted by its replacement in the slot.
Unix sockets can't be spread: all workers accept from one.
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
"""The frontend's name, and the address as configured."""


class Listening:
    """`groups[key][slot]` is the socket of the worker in that slot."""

    def __init__(
        self, slots: int, passed: Mapping[str, Sequence[socket.socket]] | None = None
    ) -> None:
        """`passed`: sockets opened by systemd, by frontend name or address."""
        self.slots = slots
        self.groups: dict[Key, list[socket.socket]] = {}
        self._passed = {name: list(sockets) for name, sockets in (passed or {}).items()}
        self._unix: dict[Key, UnixAddress] = {}
        self._closed: set[UnixAddress] = set()  # their files may still exist

    def open(self, configured: Config) -> list[Key]:
        """Open all addresses that are not open yet -> their keys.

        Raises OSError with the address in its `strerror`; nothing is changed then.
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
        """All keys and sockets, with the path of Unix sockets."""
        return [
            (key, sockets, self._unix[key].path if key in self._unix else "")
            for key, sockets in self.groups.items()
        ]

    @property
    def untaken(self) -> list[str]:
        """Passed sockets that no frontend uses: clients connect there and are never accepted."""
        return [
            f'{_in_words(sock.getsockname())} ("{name}")'
            for name, sockets in self._passed.items()
            for sock in sockets
        ]

    def take_over(
        self, key: Key, sockets: list[socket.socket], address: UnixAddress | None
    ) -> None:
        """Use sockets that the previous generation has opened."""
        self.groups[key] = sockets
        if address is not None:
            self._unix[key] = address

    def take_over_closed(self, paths: Iterable[str]) -> None:
        """Paths of Unix sockets that the previous generation has closed but not removed."""
        self._closed.update(map(UnixAddress, paths))

    @property
    def closed(self) -> list[str]:
        """Paths of closed Unix sockets that could not be removed yet (`remove_files`)."""
        return sorted(address.path for address in self._closed)

    def of_slot(
        self, slot: int, keys: Iterable[Key] | None = None
    ) -> list[tuple[Key, socket.socket]]:
        """The sockets of the worker in that slot, for all keys or for these.

        A slot has several of an address if an upgrade has reduced the slots: closing the surplus
        would reset clients in its backlog.
        """
        return [
            (key, sock)
            for key in (self.groups if keys is None else keys)
            for sock in self.groups[key][slot :: self.slots]
        ]

    def used(self, configured: Config) -> list[Key]:
        """Keys of open sockets that the configuration uses."""
        used = {(f.name, str(bind)) for f in configured.frontends for bind in f.bind}
        return [key for key in self.groups if key in used]

    def unused(self, configured: Config) -> list[Key]:
        """Keys of open sockets that the configuration does not use."""
        used = set(self.used(configured))
        return [key for key in self.groups if key not in used]

    def close(self, keys: Iterable[Key]) -> None:
        """Close them; accepted connections are kept."""
        for key in list(keys):
            for sock in self.groups.pop(key):
                sock.close()
            if (address := self._unix.pop(key, None)) is not None:
                self._closed.add(address)
        self.remove_files()

    def remove_files(self) -> None:
        """Remove the files of closed Unix sockets on which no worker listens any more."""
        self._closed.difference_update(self._unix.values())
        for address in self._closed:
            remove_stale(address)

    def close_all(self) -> None:
        self.close(list(self.groups))

    def _open(self, bind: Bind, frontend: Frontend) -> list[socket.socket]:
        for (_, address), sockets in self.groups.items():
            if address == str(bind) and not bind.is_any_port:
                return [sock.dup() for sock in sockets]  # another frontend uses or used it
        if (passed := self._take_passed(bind, frontend)) is not None:
            passed.setblocking(False)
            return [passed, *(passed.dup() for _ in range(self.slots - 1))]
        return self._listen(bind, frontend.name)

    def _listen(self, bind: Bind, frontend: str) -> list[socket.socket]:
        if self.slots == 1 or isinstance(bind.address, UnixAddress):
            first = listening_socket(bind, frontend)
            return [first, *(first.dup() for _ in range(self.slots - 1))]
        # With SO_REUSEPORT another program's socket at the address would go unnoticed and get a
        # part of the clients: probe without it first.
        listening_socket(bind, frontend).close()
        sockets = [listening_socket(bind, frontend, reuse_port=True)]
        try:
            host, port = bind.address.host, sockets[0].getsockname()[1]
            same = bind.model_copy(update={"address": Address(host, port)})
            while len(sockets) < self.slots:
                sockets.append(listening_socket(same, frontend, reuse_port=True))
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def _take_passed(self, bind: Bind, frontend: Frontend) -> socket.socket | None:
        """By its address; or, at any address, by the socket unit's name for it, if one socket and
        one bind have that name."""
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
    """The address as `getsockname` returns it, in whatever way it is written; None for a name."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except socket.gaierror:
        return None
    host, *rest = found[0][4]
    return str(host).partition("%")[0], *rest  # the zone is also a number at the end
