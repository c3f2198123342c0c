"""Host names that the system is slow to know, or never does."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends.dialing import Dialer, HostName
from hermes_lb.config import Backend
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends.dialing import ServerDialer

real = socket.getaddrinfo


class NameServer:
    """What the system asks: it is silent about some names until `speaks`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speaks = Event()

    def getaddrinfo(self, host: str, *rest: Any, **more: Any) -> Any:
        self.asked.append(host)
        if host.startswith("silent"):
            self.speaks.wait()
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1", *rest, **more)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    served = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", served.getaddrinfo)
    yield served
    served.speaks.set()


def dialer(address: str) -> ServerDialer:
    configured = Backend.model_validate({"servers": [{"name": "a", "address": address}]})
    return Dialer.of("agents", configured).to(configured.servers[0])


async def test_a_name_is_its_addresses(name_server: NameServer) -> None:
    [found] = await HostName("pods.internal", 8000).look_up()
    assert found[-1] == ("127.0.0.1", 8000)
    with pytest.raises(socket.gaierror, match="not known"):
        await HostName("unknown.internal").look_up()


async def test_names_that_nobody_tells_of_hold_up_no_others(name_server: NameServer) -> None:
    loop, tasks = asyncio.get_running_loop(), Tasks()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for number in range(40):
            silent = dialer(f"silent{number}.internal:{port}")
            tasks.spawn(silent.dial(loop, asyncio.Protocol), name=f"dial {number}")
        await asyncio.sleep(0)
        protocol = await dialer(f"known.internal:{port}").dial(loop, Recorder)
        protocol.transport.abort()
    await tasks.cancel_all()


async def test_who_asks_for_the_same_name_meanwhile_gets_the_same_answer(
    name_server: NameServer,
) -> None:
    name = HostName("silent.internal", 80)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(name.look_up(), 0.01)  # it left, and the look-up goes on
    both = asyncio.gather(name.look_up(), name.look_up())
    await asyncio.sleep(0)
    name_server.speaks.set()
    first, second = await both
    assert first == second
    assert name_server.asked == ["silent.internal"]
    await name.look_up()
    assert name_server.asked == ["silent.internal"] * 2


async def test_without_a_thread_to_be_had_it_is_an_error_like_others(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    name = HostName("pods.internal", 80)
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", start)
        with pytest.raises(OSError, match="no more threads"):
            await name.look_up()
    assert await name.look_up()


ENDS = """
import asyncio, socket, threading
from hermes_lb import LoadBalancer

look_up, asked = socket.getaddrinfo, threading.Event()

def getaddrinfo(host, *args, **options):
    if host != "silent.internal":
        return look_up(host, *args, **options)
    print("asked", flush=True)
    asked.set()
    threading.Event().wait()

socket.getaddrinfo = getaddrinfo

async def main():
    server = {"name": "a", "address": "silent.internal:80"}
    config = {
        "admin": {"enabled": False}, "log": {"access": "off"},
        "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "b"}],
        "backends": {"b": {"health": {"path": "/", "interval": "10ms"}, "servers": [server]}},
    }
    async with LoadBalancer(config) as lb:
        [server] = lb.pools["b"].servers
        while not (asked.is_set() and server.last_check):
            await asyncio.sleep(0.01)
    print("ended", flush=True)

asyncio.run(main())
"""


def test_a_process_ends_while_a_name_server_is_silent() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "ended"
    assert "asked" in ended.stdout


class Recorder(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
