"""A worker process: the data path, controlled by the supervisor.

It is a fresh interpreter whose descriptor 3 is its end of a `Channel`. Messages that it receives
("answered": with an answer):

    start        the configuration, sockets, rows of the shared memory; answered when it listens.
                 `is_first`: the access log has to open. `is_alone`: there is no other worker.
                 `bells`: how many of the descriptors are wakeups
    reconfigure  another configuration; answered when it is in use
    servers      decisions of operators and health checks about servers. Optional fields:
                 `is_alone`, when it changes; `is_replaced`: the supervisor executes new code and
                 answers later; `publish`: publish the counters now, the answer confirms it;
                 `marked_down`: backend and name of a server that its checks took down, and
                 whether it hangs; `inboxes`: the worker's slot and the number of slots, with the
                 descriptors of all inboxes (once, after the start); `discovered`: servers of a
                 backend's discovery that are new, have changed or are gone, with their rows.
                 (Workers of older code ignore unknown fields.)
    load         the load that a server reported to a health check
    failed       a passive failure, seen by another worker
    recovered    the server has since answered a request of another worker, or passed a check that
                 `began` at this time
    pin          a session learned by another worker
    reopen       reopen log files by name
    sessions     list the requests in flight; answered
    end          cut the requests on a server; answered
    command      a command of `hermes_lb.process_commands`; answered
    moved        has a response of this server made progress within a given time? answered
    drain        stop accepting, finish, exit

It sends: failed, recovered, ejected, pin, find (look up a pin; answered), refused, recent,
certificates (those that it presents, whenever they change), incarnation (its id in the store of
turns), leaving (it got a SIGTERM). If the supervisor is gone, it drains too, so streams survive
that.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.options import DiscoveredServer
from hermes_lb.config import Config
from hermes_lb.errors import reason
from hermes_lb.listen.sockets import handed_over
from hermes_lb.observe.recent import KEPT
from hermes_lb.plane import DataPlane
from hermes_lb.process_commands import ProcessCommands
from hermes_lb.signals import HANDLED
from hermes_lb.tasks import Tasks
from hermes_lb.tls.certificates import TlsFiles
from hermes_lb.tls.ticket_keys import TicketSecret
from hermes_lb.workers.channel import Channel
from hermes_lb.workers.found import found_in
from hermes_lb.workers.inbox import Inbox
from hermes_lb.workers.pins import ChannelPins
from hermes_lb.workers.published import EVERY
from hermes_lb.workers.shared_memory import HEARTBEAT, SharedMemory
from hermes_lb.workers.sharing import Sharing
from hermes_lb.workers.spread import ConnectionSpread

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from hermes_lb.backends import Server
    from hermes_lb.tls.certificates import Certificates
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.shared_memory import Region

logger = logging.getLogger("hermes_lb.workers")

CHANNEL_FD = 3

# An exchange leaves no cycles, so passes of the collector find nothing: with the default of 700
# objects they are 5 % of the CPU of requests whose heads are new. A pass over 10,000 takes 16 ms.
_GC_THRESHOLDS = (10_000, 20, 50)

# Seconds; a century: the drain itself has no deadline, a timer that can be shortened ends it.
_NO_END = 3.2e9


class Worker:
    """`await run()` serves until the worker has to exit."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = Channel(sock, self._hear, self._lost_supervisor)
        self._tasks = Tasks()
        self._inbox: asyncio.Queue[tuple[Message, list[int]]] = asyncio.Queue()
        self._end = asyncio.Event()
        self._is_draining = False
        self._is_listening_to = True  # False while decisions of the supervisor are applied
        self._plane: DataPlane | None = None
        self._memory: SharedMemory | None = None
        self._sharing: Sharing | None = None
        self._spread: ConnectionSpread | None = None
        self._is_supervisor_replaced = False  # it executes new code, and answers later
        self._reported_refused: dict[str, int] = {}
        self._reported_certificates: list[Certificates | None] = []
        self._unsaid: list[dict[str, Any]] = []  # recent aborts, not sent yet

    async def run(self) -> None:
        for number in HANDLED:
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._tasks.spawn(self._obey(), name="messages of the supervisor")
        await self._end.wait()
        await self._tasks.cancel_all()  # they use what is stopped next
        if self._plane is not None:
            if self._plane.context.live.clients:
                logger.info("process %d: what still ran was cut", os.getpid())
            self._publish()
            await self._plane.stop()
            self._publish()  # the requests that were cut count, too
        self._channel.close()

    def _signalled(self, number: signal.Signals) -> None:
        """Only TERM is for this process; a terminal sends the others to the whole group."""
        if number == signal.SIGTERM:
            self._channel.send({"do": "leaving"})
            self._leave()

    def _lost_supervisor(self) -> None:
        if not self._is_draining:
            logger.warning("the supervisor is gone: process %d ends when it is done", os.getpid())
        self._leave()

    def _leave(self) -> None:
        """Drain without a message. During a start the request queues behind it, so that a worker
        that may have clients does not go on to listen."""
        if self._plane is None:
            self._end.set()
        else:
            self._hear({"do": "drain", "timeout": self._plane.config.process.drain_timeout}, [])

    @property
    def plane(self) -> DataPlane:
        assert self._plane is not None, "it was not started"
        return self._plane

    @property
    def sharing(self) -> Sharing:
        assert self._sharing is not None, "it was not started"
        return self._sharing

    # Messages of the supervisor.

    def _hear(self, message: Message, descriptors: list[int]) -> None:
        self._inbox.put_nowait((message, descriptors))

    async def _obey(self) -> None:
        """Handle messages one after the other, in order."""
        while True:
            message, descriptors = await self._inbox.get()
            try:
                handle = getattr(self, f"_on_{message['do']}")
                result = handle(message, descriptors)
                answer = await result if asyncio.iscoroutine(result) else result
            except (OSError, ValueError) as error:
                answer = {"error": reason(error)}
            except Exception as error:
                logger.exception("while dealing with %r", message["do"])
                answer = {"error": repr(error)}
            if "ask" in message:
                self._channel.answer(message, answer or {})

    async def _on_start(self, message: Message, descriptors: list[int]) -> Message | None:
        configured = Config.restored(message)
        number, wakeups = message["number"], message["bells"]
        self._memory = memory = SharedMemory(descriptors[0])
        plane = DataPlane(
            configured, process_number=number, tls_files=_tls_files(message.get("tls_files"))
        )
        plane.on_incarnation = self._note_incarnation
        tickets = TicketSecret.restore(message["tickets"])
        key = bytes.fromhex(message["key"])
        await plane.open(
            before_backends=partial(self._join, tickets, key),
            log_may_be_late=not message.get("is_first", True),
        )
        self._plane = plane
        self._sharing = sharing = Sharing(plane, memory, number, descriptors[1 : 1 + wakeups], key)
        plane.context.recent.on_add = self._note_abort
        plane.set_discovered(found_in(message.get("discovered", {})))
        self._set_rows(message["rows"])
        sharing.set_alone(message["is_alone"])
        self._restore(message["servers"])
        # Before clients come in: a collection of what the start has made takes 40 ms of the loop.
        # Later ones skip it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        await plane.listen(_sockets(message["sockets"], descriptors[1 + wakeups :]))
        self._tasks.spawn(self._keep_publishing(memory.regions[number]), name="publish")
        return {"urls": [u.url for f in plane.frontends for u in f.listeners]}

    def _note_incarnation(self, incarnation: str) -> None:
        """If this process dies, the supervisor ends its turns."""
        self._channel.send({"do": "incarnation", "incarnation": incarnation})

    def _join(self, tickets: TicketSecret, key: bytes, plane: DataPlane) -> None:
        """Before backends are made: install the state shared with other workers."""
        plane.tickets = tickets
        plane.context.identity.key = key
        plane.shared_store = lambda backend: ChannelPins(
            self._channel, backend, lambda: self._is_supervisor_replaced
        )

    async def _on_reconfigure(self, message: Message, descriptors: list[int]) -> None:
        configured = Config.restored(message)

        def before_serving() -> None:
            self.plane.set_discovered(found_in(message.get("discovered", {})))
            self._set_rows(message["rows"])
            self._restore(message["servers"])

        sockets = _sockets(message["sockets"], descriptors)
        tls_files = _tls_files(message.get("tls_files"))
        await self.plane.reconfigure(configured, sockets, before_serving, tls_files)
        if self._spread is not None:
            self._spread.set_listeners(self.plane.frontends)

    def _on_servers(self, message: Message, descriptors: list[int]) -> None:
        found = message.get("discovered")
        if found is not None:
            self._discover(found, message["servers"])
        else:
            self._restore(message["servers"])
        if "is_alone" in message and self._sharing is not None:
            self._sharing.set_alone(message["is_alone"])
        self._is_supervisor_replaced = message.get("is_replaced", self._is_supervisor_replaced)
        if "marked_down" in message:
            backend, name, stands_still = message["marked_down"]
            server = self._find({"backend": backend, "server": name})
            if server is not None:
                self.plane.marked_down(self.plane.backends[backend], server, stands_still)
        if message.get("publish"):
            self._publish()
        if "inboxes" in message and not self._is_draining:
            slot, slots = message["inboxes"]
            self._spread_connections(slot, slots, descriptors)

    def _discover(self, found: Message, snapshots: list[Any]) -> None:
        """Servers of a discovery are new, changed or gone; no request is served in between."""
        name = found["backend"]
        servers = [DiscoveredServer.model_validate(one) for one in found["servers"]]
        discovered = self.plane.discover(name, servers, found["gone"])
        if discovered is not None:
            self.sharing.change_rows(name, found["rows"], discovered)
            self._restore(snapshots)
            self.plane.pools[name].look_at_queue()

    def _spread_connections(self, slot: int, slots: int, descriptors: list[int]) -> None:
        ends = iter(descriptors)
        inboxes = [
            Inbox.of(receiving, sending) for receiving, sending in zip(ends, ends, strict=True)
        ]
        assert self._memory is not None, "it was not started"
        number = self.plane.process.number
        self._spread = ConnectionSpread(
            self.plane.context, self._memory, number, inboxes, slot, slots
        )
        self._spread.set_listeners(self.plane.frontends)

    def _on_load(self, message: Message, descriptors: list[int]) -> None:
        if (server := self._find(message)) is not None:
            self.plane.load_reported(server, message["load"])

    def _on_failed(self, message: Message, descriptors: list[int]) -> None:
        if (server := self._find(message)) is not None:
            self.plane.pools[message["backend"]].failed(
                server, message["at"], message.get("because", "")
            )

    def _on_recovered(self, message: Message, descriptors: list[int]) -> None:
        if (server := self._find(message)) is not None:
            self.plane.pools[message["backend"]].recovered(server, message.get("began"))

    def _on_pin(self, message: Message, descriptors: list[int]) -> None:
        backend = self.plane.backends.get(message["backend"])
        if backend is not None:
            backend.session_table.note(bytes.fromhex(message["key"]), message["server"])

    def _on_reopen(self, message: Message, descriptors: list[int]) -> None:
        self.plane.reopen_log()

    def _on_sessions(self, message: Message, descriptors: list[int]) -> Message:
        return {"sessions": self.plane.running_sessions()}

    def _on_end(self, message: Message, descriptors: list[int]) -> Message:
        named = {"backend": message["backend"], "server": message["server"]}
        return {"ended": self.plane.end_sessions(**named)}

    def _on_command(self, message: Message, descriptors: list[int]) -> Message:
        commands = ProcessCommands(self.plane)
        return {"result": commands.call(message["command"], message["arguments"])}

    def _on_moved(self, message: Message, descriptors: list[int]) -> Message:
        server = self._find(message)
        moved = server is not None and self.plane.is_sending(server, message["seconds"])
        return {"moved": moved}

    def _on_drain(self, message: Message, descriptors: list[int]) -> None:
        self._drain(message["timeout"])

    def _drain(self, timeout: float) -> None:
        """Exit after `timeout` seconds at most; of two timeouts the one that ends sooner counts."""
        if self._plane is None:
            self._end.set()
            return
        asyncio.get_running_loop().call_later(timeout, self._end.set)
        if not self._is_draining:
            self._is_draining = True
            if self._spread is not None:
                self._spread.leave()
            self._tasks.spawn(self._finish(self._plane), name="drain")

    async def _finish(self, plane: DataPlane) -> None:
        await plane.drain(_NO_END)
        self._end.set()

    # States of servers.

    def _set_rows(self, rows: dict[str, int]) -> None:
        self.sharing.set_rows(rows)
        for pool in self.plane.pools.values():
            pool.is_leading = False
            pool.on_change = partial(self._changed, pool.name)
            pool.on_failed = partial(self._failed, pool.name)
            pool.on_recovered = partial(self._recovered, pool.name)

    def _restore(self, servers: list[Any]) -> None:
        self._is_listening_to = False
        try:
            for backend, name, snapshot in servers:
                server = self._find({"backend": backend, "server": name})
                if server is not None:
                    server.restore(snapshot)
        finally:
            self._is_listening_to = True

    def _changed(self, backend: str, server: Server) -> None:
        """Report an ejection, the only decision about a server that a worker makes.

        The supervisor may refuse it if the workers together have ejected too many.
        """
        if self._is_listening_to and server.is_ejected:
            self._channel.send(
                {
                    "do": "ejected", "backend": backend, "server": server.name,
                    "until": server.ejected_until, "because": server.ejected_because,
                }
            )  # fmt: skip

    def _failed(self, backend: str, server: Server, at: float, because: str) -> None:
        named = {"backend": backend, "server": server.name}
        self._channel.send({"do": "failed", "at": at, "because": because, **named})

    def _recovered(self, backend: str, server: Server, began: float | None) -> None:
        self._channel.send({"do": "recovered", "backend": backend, "server": server.name})

    def _find(self, message: Message) -> Server | None:
        """None if a reconfiguration has removed it."""
        pool = self.plane.pools.get(message["backend"])
        return pool.find(message["server"]) if pool is not None else None

    # Messages to the supervisor.

    async def _keep_publishing(self, region: Region) -> None:
        loop = asyncio.get_running_loop()
        while True:
            region.gauges[HEARTBEAT] = loop.time()
            await asyncio.sleep(EVERY)
            try:
                for _ in self._publish_in_parts():
                    await asyncio.sleep(0)
            except Exception:  # a bug in the counters must not stop the heartbeat
                logger.exception("while publishing")

    def _publish(self) -> None:
        for _ in self._publish_in_parts():
            pass

    def _publish_in_parts(self) -> Iterator[None]:
        """In the shared memory, and then by messages."""
        if self._sharing is None:
            return  # not started
        yield from self._sharing.publisher.publish_in_parts()
        for name, counters in self.plane.counters.items():
            total = sum(counters.refused.values())
            if total != self._reported_refused.get(name):
                self._reported_refused[name] = total
                refused = [[*reason, count] for reason, count in counters.refused.items()]
                self._channel.send({"do": "refused", "frontend": name, "refused": refused})
        served = [frontend.certificates for frontend in self.plane.frontends]
        if served != self._reported_certificates:
            self._reported_certificates = served
            certificates = self.plane.certificates()
            self._channel.send({"do": "certificates", "certificates": certificates})
        if self._unsaid:
            aborts, self._unsaid = self._unsaid, []
            self._channel.send({"do": "recent", "aborts": aborts})

    def _note_abort(self, abort: dict[str, Any]) -> None:
        if len(self._unsaid) < KEPT:
            self._unsaid.append(abort)


def _sockets(
    listed: list[list[Any]], descriptors: list[int]
) -> dict[tuple[str, str], list[socket.socket]]:
    """`[frontend, bind]` of each descriptor, in order -> sockets by both."""
    groups: dict[tuple[str, str], list[socket.socket]] = {}
    for (frontend, bind), fd in zip(listed, descriptors, strict=True):
        groups.setdefault((frontend, bind), []).append(handed_over(fd))
    return groups


def _tls_files(states: dict[str, Any] | None) -> dict[str, TlsFiles] | None:
    """By frontend. None if the supervisor is of older code, which sends none."""
    if states is None:
        return None
    return {frontend: TlsFiles.restore(state) for frontend, state in states.items()}


async def serve_worker() -> None:
    """Run a worker process until it ends."""
    sock = handed_over(CHANNEL_FD)
    async with AsyncExitStack() as stack:
        stack.callback(sock.close)
        with contextlib.suppress(asyncio.CancelledError):
            await Worker(sock).run()
