"""State that survives an upgrade, which executes the new code in the same process.

Process ID, child processes and open descriptors survive an exec, nothing else. So the state that
the next generation needs is written to a memfd, with the numbers of the descriptors: nginx passes
its listeners in an environment variable (`NGINX`), HAProxy's master re-executes itself (`-W`,
SIGUSR2).
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import counters
from hermes_lb.control.operator import NotPossible
from hermes_lb.errors import reason
from hermes_lb.listen.sockets import handed_over
from hermes_lb.options.units import UnixAddress
from hermes_lb.tls.ticket_keys import TicketSecret
from hermes_lb.turns.store.embedded import EmbeddedStore
from hermes_lb.workers.admin_listener import AdminSockets
from hermes_lb.workers.gathered import Gathered
from hermes_lb.workers.generation import HANDOVER
from hermes_lb.workers.inbox import Inbox
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.limits import worker_count
from hermes_lb.workers.listening import Listening
from hermes_lb.workers.shared_memory import ROWS, Region, SharedMemory

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from hermes_lb.config import Config
    from hermes_lb.workers.child import Child
    from hermes_lb.workers.fleet import Fleet
    from hermes_lb.workers.listening import Key

# Generations of workers that may live at a time: old ones drain while new ones serve.
_GENERATIONS = 3


@dataclass
class Handover:
    """Sockets, shared memory, and the users of its regions and rows."""

    loop: str
    listening: Listening
    memory: SharedMemory
    wakeups: list[int]
    layout: Layout
    gathered: Gathered
    key: str  # hexadecimal, for `SharedClients` and the names in Via
    tickets: TicketSecret
    inherited: dict[str, Any] | None = None  # decisions of the previous generation
    children: list[dict[str, Any]] = field(default_factory=list)
    admin: AdminSockets = field(default_factory=AdminSockets)
    store: EmbeddedStore = field(default_factory=EmbeddedStore)
    inboxes: list[Inbox] = field(default_factory=list)  # of each slot, if there are several
    _is_closed: bool = False

    @classmethod
    def create(
        cls, slots: int, loop: str, passed: Mapping[str, Sequence[socket.socket]] | None = None
    ) -> Handover:
        """For a first generation. `passed` are listening sockets opened by a service manager."""
        memory = SharedMemory.create(_regions_for(slots))
        wakeups = _add_wakeups([], memory)
        return cls(
            loop, Listening(slots, passed), memory, wakeups, Layout(memory), Gathered(memory),
            secrets.token_hex(16), TicketSecret.new(), inboxes=_add_inboxes([], slots),
        )  # fmt: skip

    @classmethod
    def inherit(cls, slots: int, loop: str) -> Handover | None:
        """From the previous generation; None if there is none."""
        text = os.environ.pop(HANDOVER, "")
        if not text:
            return None
        with os.fdopen(int(text), "rb") as file:
            file.seek(0)
            state = json.load(file)
        listening = Listening(slots)
        for frontend, bind, path, fds in state["listening"]:
            sockets = [handed_over(_ours(fd)) for fd in fds]
            sockets += [sockets[0].dup() for _ in range(slots - len(sockets))]
            address = UnixAddress(path) if path else None
            listening.take_over((frontend, bind), sockets, address)
        listening.take_over_closed(state.get("closed", ()))
        # Each living worker keeps its region; as many as there are slots are started beside them.
        numbers = [child["number"] for child in state["children"]]
        regions = max(_regions_for(slots), max(numbers, default=-1) + 1 + slots)
        wakeups = [_ours(fd) for fd in state["bells"]]
        memory_fd = _ours(state["block"])
        # Code that does not say its layout has the one of the same size.
        is_known = state.get("layout") in (None, counters.layout())
        if state["part"] == Region.size(ROWS) and is_known:
            memory = SharedMemory.take_over(memory_fd, regions)
            layout, gathered = Layout(memory), Gathered(memory)
            layout.restore(state["rows"])
            gathered.restore(state["gathered"])
        else:  # the new code has other counters: those of old workers are not added up
            for fd in (memory_fd, *wakeups):
                os.close(fd)
            wakeups, memory = [], SharedMemory.create(regions)
            layout, gathered = Layout(memory), Gathered(memory)
        wakeups = _add_wakeups(wakeups, memory)
        inboxes = [Inbox.of(_ours(r), _ours(s)) for r, s in state.get("inboxes", ())]
        secret, (bind, fds) = state.get("tickets"), state.get("admin", ("", ()))  # None: older code
        tickets = TicketSecret.restore(secret) if secret else TicketSecret.new()
        store = EmbeddedStore()
        store.adopt(state.get("store"))
        return cls(
            loop, listening, memory, wakeups, layout, gathered,
            state["key"], tickets, state["inherited"], state["children"],
            AdminSockets(bind, [handed_over(_ours(fd)) for fd in fds]), store,
            _add_inboxes(inboxes, slots),
        )  # fmt: skip

    def prepare(self, new: Config, children: int) -> None:
        """For the next generation: open its listeners, check its admin address and regions.

        `children` is the number of living workers. Raises NotPossible; nothing is changed then.
        """
        slots = worker_count(new)
        if children + slots > max(len(self.memory.regions), _regions_for(slots)):
            raise NotPossible("old processes are still finishing: try again when they have")
        opened: list[Key] = []
        try:
            opened = self.listening.open(new)
            if new.admin.enabled:
                self.admin.check(new.admin.bind)
        except OSError as error:
            self.listening.close(opened)
            raise NotPossible(reason(error)) from None

    def adopt_children(self, fleet: Fleet, drain_timeout: float) -> None:
        """Adopt the previous generation's workers, which will be replaced one by one."""
        everywhere = list(self.listening.groups)  # older code does not say where a worker listens
        for child in self.children:
            sock = handed_over(_ours(child["fd"]))
            fleet.adopt(
                child["pid"], sock, drain_timeout, number=child["number"], slot=child["seat"],
                is_retired=child["is_retired"], serves=child.get("serves", True),
                asked=child["asked"], incarnation=child.get("incarnation", ""),
                listens=[(name, bind) for name, bind in child.get("listens", everywhere)],
            )  # fmt: skip
        self.children = []

    def state(
        self, children: Sequence[Child], inheritance: dict[str, Any], undoing: ExitStack
    ) -> dict[str, Any]:
        """The format that `inherit` reads. Descriptors stay inheritable until `undoing`.

        The keys have to stay, as older and newer code use them: "block", "part", "bells" and "seat"
        are shared memory, region, wakeups and slot.
        """

        def theirs(fd: int) -> int:
            os.set_inheritable(fd, True)
            undoing.callback(os.set_inheritable, fd, False)
            return fd

        workers = [
            {
                "pid": child.pid, "number": child.number, "seat": child.slot,
                "is_retired": child.is_retired, "serves": child.serves,
                "listens": list(child.listens),
                "fd": theirs(child.channel.fileno()), "asked": child.channel.asked,
                "incarnation": child.incarnation,
            }
            for child in children
        ]  # fmt: skip
        return {
            "listening": [
                [*key, path, [theirs(sock.fileno()) for sock in sockets]]
                for key, sockets, path in self.listening.all()
            ],
            "closed": self.listening.closed,
            "part": Region.size(ROWS),
            "layout": counters.layout(),
            "block": theirs(self.memory.fd),
            "bells": [theirs(wakeup) for wakeup in self.wakeups],
            "inboxes": [list(map(theirs, inbox.descriptors)) for inbox in self.inboxes],
            "rows": self.layout.state(),
            "gathered": self.gathered.state(),
            "children": workers,
            "admin": [self.admin.bind, [theirs(sock.fileno()) for sock in self.admin.sockets]],
            "store": self.store.state,
            "inherited": inheritance,
            "key": self.key,
            "tickets": self.tickets.state,
        }

    def close(self) -> None:
        """Close all of it. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.listening.close_all()
        self.listening.remove_files()
        self.admin.close()
        for inbox in self.inboxes:
            inbox.close()
        for wakeup in self.wakeups:
            os.close(wakeup)
        self.memory.close()


def _regions_for(slots: int) -> int:
    """One for each worker of all generations, and one for a replacement of a draining one."""
    return _GENERATIONS * slots + 1


def _add_wakeups(wakeups: list[int], memory: SharedMemory) -> list[int]:
    """An eventfd for each region; `wakeups` are those that exist."""
    missing = len(memory.regions) - len(wakeups)
    return wakeups + [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(missing)]


def _add_inboxes(inboxes: list[Inbox], slots: int) -> list[Inbox]:
    """One for each slot; `inboxes` are those that exist. A single slot has none."""
    missing = slots - len(inboxes) if slots > 1 else 0
    return inboxes + [Inbox.create() for _ in range(missing)]


def _ours(fd: int) -> int:
    """Not to be inherited by programs that this process starts."""
    os.set_inheritable(fd, False)
    return fd
