"""A connection that is passed to another process by its descriptor, unread."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from hermes_lb.proxy.ports import AcceptLimit
from tests.support.certificates import site
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.tls import tls_client
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from hermes_lb.listen.listener import Listener
    from tests.support.stage import Stage

PROXIED = {"address": "127.0.0.1:0", "proxy_protocol": True}
HEADER = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"


class PassOn(AcceptLimit):
    """Passes all connections to a listener of another balancer, or fails to."""

    def __init__(self, to: LoadBalancer | None) -> None:
        self._to = to

    def taker(self, listener: object) -> Callable[[int], bool]:
        return self._pass

    def _pass(self, descriptor: int) -> bool:
        if self._to is None:
            return False
        sock = socket.socket(fileno=os.dup(descriptor))
        sock.setblocking(False)
        listener = listener_of(self._to)
        self._to._context.tasks.spawn(listener.adopt(sock), name="adopt")
        return True


def listener_of(lb: LoadBalancer) -> Listener:
    [frontend] = lb._plane.frontends
    [listener] = frontend.listeners
    return listener


def connections(lb: LoadBalancer) -> int:
    [frontend] = lb._plane.frontends
    return frontend.counters.connections_total


@pytest.mark.http1_only("a PROXY header comes before either version")
@on_both_loops
@pytest.mark.parametrize("kind", ["plain", "PROXY header", "TLS"])
async def test_the_other_process_serves_and_counts_it(
    stage: Stage, tmp_path: Path, kind: str
) -> None:
    options: dict[str, object] = {"bind": PROXIED if kind == "PROXY header" else "127.0.0.1:0"}
    if kind == "TLS":
        options = {
            "bind": {"address": "127.0.0.1:0", "tls": True},
            "tls": {"certificate": str(site(tmp_path, "a.test"))},
        }
    origin = await stage.serving()
    first, second = [await stage.balancer(origin, frontend=options) for _ in range(2)]
    first._context.live.gate = PassOn(second)
    client = await (tls_client(stage, first) if kind == "TLS" else stage.client(first))
    if kind == "PROXY header":
        await client.send(HEADER)
    for _ in range(2):
        assert (await client.ask()).body == b"ok"
    assert (connections(first), connections(second)) == (0, 1)
    assert not first._context.live.clients
    client.close()
    await eventually(lambda: not second._context.live.clients)


@on_both_loops
async def test_what_was_sent_before_it_was_accepted_is_read_by_the_other(stage: Stage) -> None:
    origin = await stage.serving()
    first, second = [await stage.balancer(origin) for _ in range(2)]
    first._context.live.gate = PassOn(second)
    first_listener = listener_of(first)
    first_listener.pause()
    client = await stage.client(first)
    await client.send(request("GET", "/early"))
    first_listener.resume()
    assert (await client.read_response()).body == b"ok"
    assert (connections(first), connections(second)) == (0, 1)


@on_both_loops
async def test_one_that_cannot_be_passed_is_served_here(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    lb._context.live.gate = PassOn(None)
    client = await stage.client(lb)
    for _ in range(2):
        assert (await client.ask()).body == b"ok"
    assert connections(lb) == 1


@on_both_loops
async def test_a_client_that_has_gone_on_the_way_is_nobodys_problem(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.setblocking(False)
    await listener_of(lb).adopt(ours)
    await eventually(lambda: not lb._context.live.clients)
