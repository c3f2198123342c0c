"""A server behind a balancer that responds, or misbehaves on demand."""

from __future__ import annotations

import asyncio
import inspect
import random
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from hermes_lb.tasks import Tasks
from hermes_lb.testing import websocket
from hermes_lb.testing.collected import PATIENCE, Collected
from hermes_lb.testing.connection import Connection, Over
from hermes_lb.testing.faults import Fault
from hermes_lb.testing.messages import Answer, Reply, Request, reply_to

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import Any

    from hermes_lb.testing.application import Application
    from hermes_lb.testing.messages import Handler

_WELL = Fault()

# What ends a connection, or the test itself. Everything else that escapes from a handler or a fault
# is an error of the test, including `pytest.fail`, which is not an Exception.
_ENDS = (Over, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class Server:
    """An HTTP/1.1 server on its own loopback port.

    It responds with 200 and its name, or by `handler` or `application`; without either, a WebSocket
    gets an echo. `fault` is its misbehaviour. `async with` runs it.
    """

    def __init__(
        self, name: str, handler: Handler | None = None, application: Application | None = None
    ) -> None:
        self.name = name
        self.handler = handler
        self.in_flight = 0  # requests in progress
        self.accepted = 0  # connections so far
        self.rng = random.Random(0)
        self.errors: list[BaseException] = []  # escaped from the handler or a fault
        self._application = application
        self._requests: Collected[Request] = Collected(f"requests to {name}")
        self._fault = _WELL
        self._fault_changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._background: asyncio.Task[None] | None = None  # the fault's
        self._tasks = Tasks()
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._port = _reserve()
        host, port = self._port.getsockname()
        self.address = f"{host}:{port}"  # kept while it does not listen

    def __repr__(self) -> str:
        state = "listens" if self._listener else "refuses"
        return f"<Server {self.name} {self.address} {state}, {len(self._requests)} requests>"

    # Address and requests.

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def requests(self) -> list[Request]:
        """Requests received so far, complete."""
        return self._requests.items

    async def asked(self, count: int = 1) -> list[Request]:
        """All requests, once there are `count`. Raises AssertionError if they do not come."""
        return await self._requests.wait(count)

    # Misbehaviour.

    @property
    def fault(self) -> Fault:
        """The misbehaviour, or `None`. It may be changed at any time.

        Also from another thread than its loop's, which then waits until the change is in effect.
        Raises TypeError for anything but a fault, without a change.
        """
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        if not isinstance(fault, Fault | None):
            raise TypeError(_not_a_fault(fault))
        if self._loop is None:
            self._fault = fault or _WELL  # begins with the server
        elif self._loop is _running_loop():
            self._set_fault(fault or _WELL)
        elif self._loop.is_running():
            setting = self._set_fault_in_its_loop(fault or _WELL)
            asyncio.run_coroutine_threadsafe(setting, self._loop).result(PATIENCE)
        else:
            self._loop.run_until_complete(self._set_fault_in_its_loop(fault or _WELL))

    def _set_fault(self, fault: Fault) -> None:
        if self._background is not None:
            self._background.cancel()
            self._background = None
        self._fault = fault
        self._fault_changed.set()
        self._fault_changed = asyncio.Event()
        fault.begin(self)

    async def _set_fault_in_its_loop(self, fault: Fault) -> None:
        self._set_fault(fault)

    async def another_fault(self) -> None:
        """Return when `fault` is set again."""
        await self._fault_changed.wait()

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """For a fault: run `work` until another fault is set."""
        self._background = self._tasks.spawn(work, name=f"fault of {self.name}")

    def stop_listening(self) -> None:
        """Refuse connections, and end open ones after their present response."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.end_when_idle()

    def listen(self) -> None:
        """Accept connections again. Idempotent."""
        if self._listener is None:
            self._listener = _listen(self._port)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    # Lifecycle.

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            if self._application is not None:
                await self._application.start()
            self.fault.begin(self)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        self.stop_listening()
        self._loop = None
        await self._tasks.cancel_all()
        if self._application is not None:
            await self._application.stop()
        self._port.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # the client has left
            return
        self.accepted += 1
        connection = Connection(self, sock)
        self._connections.add(connection)
        task = self._tasks.spawn(connection.run(), name=f"connection to {self.name}")
        task.add_done_callback(lambda _: self._connections.discard(connection))

    @contextmanager
    def asked_for(self, request: Request) -> Iterator[None]:
        """While `request` is in progress. An error is recorded and ends the connection."""
        self.in_flight += 1
        self._requests.add(request)
        try:
            yield
        except _ENDS:
            raise
        except BaseException as error:
            self._keep(error, request)
            raise Over from error
        finally:
            self.in_flight -= 1

    async def reply(self, request: Request, fault: Fault, connection: Connection) -> Reply:
        """The reply to `request`, before the fault sends it."""
        if (instead := fault.replaces(request, self)) is not None:
            return reply_to(request, instead)
        if self._application is not None:
            return await self._application.reply(request, connection)
        if self.handler is not None:
            return await self._handle(self.handler, request)
        if request.is_websocket:
            return websocket.echo(request, connection)
        return reply_to(request, Answer(body=self.name))

    async def _handle(self, handler: Handler, request: Request) -> Reply:
        try:
            returned = handler(request)
            if not inspect.isawaitable(returned):
                raise TypeError("a handler is an async function: `async def`, this one is not")
            return reply_to(request, Answer.of(await returned))
        except _ENDS:
            raise
        except BaseException as error:
            self._keep(error, request)
            text = f"the handler of {self.name} failed: {error!r}\n"
            return reply_to(request, Answer(500, {}, text))

    def _keep(self, error: BaseException, request: Request) -> None:
        error.add_note(f"while server {self.name} answered {request.method} {request.target}")
        self.errors.append(error)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Of this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _not_a_fault(fault: object) -> str:
    if isinstance(fault, type) and issubclass(fault, Fault):
        name = fault.__name__
        return f"a fault is an instance, such as {name}(...); this is the class {name} itself"
    return f"a fault is None or one of hermes_lb.testing.faults, such as Refuse(); not {fault!r}"


def _reserve() -> socket.socket:
    """A port that stays reserved while nothing listens: bound, so that connecting is refused."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def _listen(port: socket.socket) -> socket.socket:
    """Listen on the port of `port`: both have SO_REUSEADDR, and only one listens."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(port.getsockname())
    sock.setblocking(False)
    sock.listen(1000)
    return sock
