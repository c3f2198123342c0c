"""Slots without a worker: their clients go to other slots; listeners work again afterwards."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.workers.unserved_listeners import UnservedListeners

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = ("public", "127.0.0.1:0")


def a_socket(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


@pytest.fixture
def two() -> Iterator[list[socket.socket]]:
    """Two sockets of one port."""
    first = a_socket(0)
    with first, a_socket(first.getsockname()[1]) as second:
        yield [first, second]


def unserved_listeners(group: list[socket.socket]) -> UnservedListeners:
    listening: Any = SimpleNamespace(
        groups={KEY: group}, slots=len(group), of_slot=lambda slot: [(KEY, group[slot])]
    )
    return UnservedListeners(listening)


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


async def test_a_slot_that_is_found_unserved_twice_is_as_good_as_new_when_it_is_taken(
    two: list[socket.socket],
) -> None:
    mine, other = two
    slots = unserved_listeners(two)
    for _ in range(2):
        slots.update([0], others_serve=True)
    assert (listens(mine), listens(other)) == (False, True)
    mine.listen()
    other.shutdown(socket.SHUT_RD)  # leaves the kernel no choice
    with socket.create_connection(mine.getsockname(), timeout=10) as client:
        accepted, _ = mine.accept()
        with accepted:
            accepted.settimeout(10)
            client.sendall(b"hello")
            assert accepted.recv(100) == b"hello"


async def test_a_socket_of_several_slots_is_left_to_others_when_all_of_them_are_unserved(
    two: list[socket.socket],
) -> None:
    """An upgrade from two processes to four: the new slots have duplicates."""
    first, second = two
    with first.dup() as third, first.dup() as fourth:
        slots = unserved_listeners([first, second, third, fourth])
        slots.update([0, 2], others_serve=True)
        assert listens(first)
        slots.update([0, 2, 3], others_serve=True)
        assert (listens(first), listens(second)) == (False, True)
