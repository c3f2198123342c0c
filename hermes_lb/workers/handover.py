"""What outlives an image of the program: an upgrade executes the new one in the same process.

The process keeps its number, its children and its open files; nothing else. So what the next image
needs to know is written down, and the descriptors are named: nginx passes its listeners on in an
environment variable (`NGINX`), HAProxy's master executes itself anew (`-W`, SIGUSR2).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.counters import layout
from hermes_lb.control.operator import NotPossible
from hermes_lb.listen.sockets import handed_over
from hermes_lb.observe.messages import flush_messages
from hermes_lb.options.units import UnixAddress
from hermes_lb.tls.ticket_keys import TicketSecret
from hermes_lb.workers.admin_listener import AdminSockets
from hermes_lb.workers.block import ROWS, Block, Part
from hermes_lb.workers.gathered import Gathered
from hermes_lb.workers.image import HANDOVER
from hermes_lb.workers.limits import worker_count
from hermes_lb.workers.listening import Listening
from hermes_lb.workers.rows import Rows

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hermes_lb.config import Config
    from hermes_lb.workers.child import Child
    from hermes_lb.workers.fleet import Fleet
    from hermes_lb.workers.listening import Key

logger = logging.getLogger("hermes_lb")

_CHECK_TAKES = 60.0  # seconds
# Seconds in which a worker takes what it is told, and between two looks whether it has.
_LISTENS_WITHIN = 5.0
_LOOK_AGAIN = 0.01

# Of each generation of workers, so many may live at a time: old ones finish while new ones serve.
_GENERATIONS = 3


@dataclass
class Estate:
    """Sockets, shared memory, and who has which part of it."""

    loop: str
    listening: Listening
    block: Block
    bells: list[int]
    rows: Rows
    gathered: Gathered
    key: str  # hexadecimal, for `SharedClients` and the names in Via
    tickets: TicketSecret
    inherited: dict[str, Any] | None = None  # from the last image
    children: list[dict[str, Any]] = field(default_factory=list)
    admin: AdminSockets = field(default_factory=AdminSockets)
    _is_closed: bool = False

    @classmethod
    def found(
        cls, seats: int, loop: str, passed: Mapping[str, Sequence[socket.socket]] | None = None
    ) -> Estate:
        """A new one. `passed` are listening sockets that somebody has opened for us."""
        block = Block.create(_parts_for(seats))
        bells = _more_bells([], block)
        return cls(
            loop, Listening(seats, passed), block, bells, Rows(block), Gathered(block),
            secrets.token_hex(16), TicketSecret.new(),
        )  # fmt: skip

    @classmethod
    def inherit(cls, seats: int, loop: str) -> Estate | None:
        """From the image before; None: there was none."""
        text = os.environ.pop(HANDOVER, "")
        if not text:
            return None
        with os.fdopen(int(text), "rb") as file:
            file.seek(0)
            state = json.load(file)
        listening = Listening(seats)
        for frontend, bind, path, fds in state["listening"]:
            sockets = [handed_over(_ours(fd)) for fd in fds]
            sockets += [sockets[0].dup() for _ in range(seats - len(sockets))]
            address = UnixAddress(path) if path else None
            listening.take_over((frontend, bind), sockets, address)
        listening.take_over_closed(state.get("closed", ()))
        # Each living worker keeps its part, and as many as there are seats come beside them.
        numbers = [child["number"] for child in state["children"]]
        parts = max(_parts_for(seats), max(numbers, default=-1) + 1 + seats)
        bells = [_ours(fd) for fd in state["bells"]]
        block_fd = _ours(state["block"])
        # Code that does not say its layout has the one of the same size.
        if state["part"] == Part.size(ROWS) and state.get("layout") in (None, layout()):
            block = Block.take_over(block_fd, parts)
            rows, gathered = Rows(block), Gathered(block)
            rows.restore(state["rows"])
            gathered.restore(state["gathered"])
        else:  # the new code counts other things: the old workers are not added up
            for fd in (block_fd, *bells):
                os.close(fd)
            bells, block = [], Block.create(parts)
            rows, gathered = Rows(block), Gathered(block)
        bells = _more_bells(bells, block)
        return cls(
            loop, listening, block, bells, rows, gathered,
            state["key"], _tickets(state), state["inherited"], state["children"],
            _admin_sockets(*state.get("admin", ("", ()))),
        )  # fmt: skip

    def prepare(self, new: Config, children: int) -> None:
        """For the next image: its listeners are open then, beside so many workers that live.

        Raises NotPossible, in words, if it could not have all that it needs; nothing is changed.
        """
        seats = worker_count(new)
        if children + seats > max(len(self.block.parts), _parts_for(seats)):
            raise NotPossible("old processes are still finishing: try again when they have")
        opened: list[Key] = []
        try:
            opened = self.listening.open(new)
            if new.admin.enabled:
                self.admin.check(new.admin.bind)
        except OSError as error:
            self.listening.close(opened)
            raise NotPossible(error.strerror or str(error)) from None

    def adopt_children(self, fleet: Fleet, drain_timeout: float) -> None:
        """The workers of the last image; they will be replaced one by one."""
        everywhere = list(self.listening.groups)  # as code has it that does not say
        for child in self.children:
            sock = handed_over(_ours(child["fd"]))
            fleet.adopt(
                child["pid"], sock, drain_timeout, number=child["number"], seat=child["seat"],
                is_retired=child["is_retired"], serves=child.get("serves", True),
                asked=child["asked"],
                listens=[(name, bind) for name, bind in child.get("listens", everywhere)],
            )  # fmt: skip
        self.children = []

    def close(self) -> None:
        """All of it, at the end. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.listening.close_all()
        self.listening.remove_files()
        self.admin.close()
        for bell in self.bells:
            os.close(bell)
        self.block.close()


async def check_new_code(file: Path) -> None:
    """Have the code that is on the disk now load itself, and check the configuration.

    Raises NotPossible with what it says, or with the signal that has ended it (out of memory?).
    """
    command = [
        sys.executable, *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
        "-m", "hermes_lb.workers", "--check", str(file),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_CHECK_TAKES):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotPossible("the new code takes too long to check the configuration") from None
    if process.returncode is not None and process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise NotPossible(
            f"the new code was ended by a signal ({name}) while it checked the configuration"
        )
    if process.returncode != 0:
        why = said.decode(errors="replace").strip() or f"exit status {process.returncode}"
        raise NotPossible(f"the new code refuses: {why}")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Until the new image is ready for them, signals wait: their default is to end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def until_sure(children: Sequence[Child]) -> None:
    """Those that have said goodbye are no more."""
    for child in [one for one in children if one.channel.is_closed]:
        await child.wait()


async def until_between_messages(children: Sequence[Child]) -> None:
    """Of none has only a part been passed. Raises NotPossible, if one does not listen."""
    try:
        async with asyncio.timeout(_LISTENS_WITHIN):
            while _amid_message(children):  # noqa: ASYNC110 - rare, and a few turns then
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        pid = _amid_message(children)[0].pid
        raise NotPossible(f"worker process {pid} does not listen") from None


def _amid_message(children: Sequence[Child]) -> list[Child]:
    return [child for child in children if child.channel.is_amid_message]


def execute_anew(estate: Estate, fleet: Fleet, inheritance: dict[str, Any]) -> None:
    """Become the new code. It does not return; if it raises, all is as it was before."""
    with ExitStack() as undoing:
        state = _state(estate, fleet, inheritance, undoing)
        fd = os.memfd_create("hermes-lb-handover", 0)
        undoing.callback(os.close, fd)
        os.write(fd, json.dumps(state).encode())
        os.environ[HANDOVER] = str(fd)
        undoing.callback(os.environ.pop, HANDOVER, None)
        logger.info("executing the new code")
        flush_messages()  # its thread is none of the next image
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _state(
    estate: Estate, fleet: Fleet, inheritance: dict[str, Any], undoing: ExitStack
) -> dict[str, Any]:
    """What `Estate.inherit` takes. Descriptors stay open for the next image, until `undoing`."""

    def theirs(fd: int) -> int:
        os.set_inheritable(fd, True)
        undoing.callback(os.set_inheritable, fd, False)
        return fd

    children = [
        {
            "pid": child.pid, "number": child.number, "seat": child.seat,
            "is_retired": child.is_retired, "serves": child.serves,
            "listens": list(child.listens),
            "fd": theirs(child.channel.fileno()), "asked": child.channel.asked,
        }
        for child in fleet.children
    ]  # fmt: skip
    return {
        "listening": [
            [*key, path, [theirs(sock.fileno()) for sock in sockets]]
            for key, sockets, path in estate.listening.all()
        ],
        "closed": estate.listening.closed,
        "part": Part.size(ROWS),
        "layout": layout(),
        "block": theirs(estate.block.fd),
        "bells": [theirs(bell) for bell in estate.bells],
        "rows": estate.rows.state(),
        "gathered": estate.gathered.state(),
        "children": children,
        "admin": [estate.admin.bind, [theirs(sock.fileno()) for sock in estate.admin.sockets]],
        "inherited": inheritance,
        "key": estate.key,
        "tickets": estate.tickets.state,
    }


def _parts_for(seats: int) -> int:
    """One for each worker, of all generations; and one for who takes a seat meanwhile."""
    return _GENERATIONS * seats + 1


def _more_bells(bells: list[int], block: Block) -> list[int]:
    """An eventfd for each part, of which there are these already."""
    missing = len(block.parts) - len(bells)
    return bells + [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(missing)]


def _tickets(state: dict[str, Any]) -> TicketSecret:
    """Older code had none."""
    known = state.get("tickets")
    return TicketSecret.restore(known) if known else TicketSecret.new()


def _admin_sockets(bind: str, fds: Sequence[int]) -> AdminSockets:
    return AdminSockets(bind, [handed_over(_ours(fd)) for fd in fds])


def _ours(fd: int) -> int:
    """It is not for programs that this one starts."""
    os.set_inheritable(fd, False)
    return fd
