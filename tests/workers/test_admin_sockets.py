"""The admin listener's sockets: checked before they are needed, and never in their own way."""

from __future__ import annotations

import errno
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hermes_lb.options.units import Address
from hermes_lb.workers.admin_listener import AdminSockets
from tests.support.balancer_process import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as number:
        yield number


def listen(sockets: AdminSockets, bind: Address) -> None:
    for sock in sockets.at(bind):
        sock.close()


def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == errno.ECONNREFUSED


@pytest.mark.parametrize(("before", "after"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
def test_they_move_to_an_address_that_overlaps_with_theirs(
    port: int, before: str, after: str
) -> None:
    with closing(AdminSockets()) as sockets:
        listen(sockets, Address(before, port))
        sockets.check(Address(after, port))
        listen(sockets, Address(after, port))
        assert [sock.getsockname() for sock in sockets.sockets] == [(after, port)]


def test_an_address_that_another_has_is_refused_and_theirs_is_kept(port: int) -> None:
    with closing(AdminSockets()) as sockets, socket.create_server(("127.0.0.1", 0)) as another:
        listen(sockets, Address("127.0.0.1", port))
        taken = Address("0.0.0.0", another.getsockname()[1])
        for ask in (sockets.check, sockets.at):
            with pytest.raises(OSError, match="in use"):
                ask(taken)
        assert not is_refused(port)


def test_an_address_that_this_machine_does_not_have_is_refused(port: int) -> None:
    with closing(AdminSockets()) as sockets:
        listen(sockets, Address("127.0.0.1", port))
        with pytest.raises(OSError, match="assign"):
            sockets.check(Address("192.0.2.1", port))
        assert not is_refused(port)


def test_who_comes_is_refused_until_somebody_listens_again_and_the_port_is_kept(
    port: int,
) -> None:
    with closing(AdminSockets()) as sockets:
        listen(sockets, Address("127.0.0.1", port))
        for _ in range(2):
            sockets.refuse()
        assert is_refused(port)
        [sock] = sockets.at(Address("127.0.0.1", port))
        with sock:
            sock.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                accepted, _ = accept(sock)
                with accepted:
                    client.sendall(b"hello")
                    assert accepted.recv(100) == b"hello"


def accept(sock: socket.socket) -> tuple[socket.socket, object]:
    sock.settimeout(10)
    return sock.accept()
