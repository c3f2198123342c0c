"""Connections on their way to another worker: none is lost, whatever is lacking."""

from __future__ import annotations

import resource
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hermes_lb.workers.inbox import DIGEST_SIZE, Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = b"listener"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox.create()
    yield made
    made.close()


@contextmanager
def a_connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends: the client, and what a worker has accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), timeout=10)
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


def test_what_the_client_has_sent_goes_with_its_connection(inbox: Inbox) -> None:
    with a_connection() as (client, accepted):
        client.sendall(b"hello")
        assert inbox.waiting() == 0
        assert inbox.send(DIGEST, accepted.fileno())
        accepted.close()
        assert inbox.waiting() == 1
        found = inbox.receive()
        assert found is not None
        digest, taken = found
        with taken:
            assert digest == DIGEST
            assert taken.recv(100) == b"hello"
            assert not taken.get_inheritable()
            assert taken.getblocking() is False
        assert client.recv(100) == b""
    assert inbox.waiting() == 0
    assert inbox.receive() is None


def test_a_full_inbox_is_the_senders_to_notice(inbox: Inbox) -> None:
    with a_connection() as (_, accepted):
        sent = 0
        while inbox.send(DIGEST, accepted.fileno()):
            sent += 1
        assert sent > 100
        assert inbox.waiting() == sent
        assert accepted.fileno() >= 0
        found = inbox.receive()
        assert found is not None
        found[1].close()
        inbox.refuse_all()
        assert inbox.send(DIGEST, accepted.fileno())


def test_without_descriptors_connections_stay_in_it(inbox: Inbox) -> None:
    with a_connection() as (_, accepted):
        assert inbox.send(DIGEST, accepted.fileno())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                inbox.receive()
            inbox.refuse_all()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert inbox.waiting() == 1
        found = inbox.receive()
        assert found is not None
        found[1].close()


def test_connections_of_a_slot_without_a_worker_are_reset(inbox: Inbox) -> None:
    with a_connection() as (client, accepted):
        assert inbox.send(DIGEST, accepted.fileno())
        accepted.close()
        inbox.refuse_all()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_a_copy_by_its_descriptors_is_the_same_inbox(inbox: Inbox) -> None:
    copy = Inbox.of(*(socket.dup(fd) for fd in inbox.descriptors))
    with a_connection() as (_, accepted):
        assert copy.send(bytes(DIGEST_SIZE), accepted.fileno())
    assert inbox.waiting() == copy.waiting() == 1
    copy.refuse_all()
    copy.close()
    assert inbox.waiting() == 0
