"""A worker process as the supervisor sees it: start, messages, exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.workers.channel import Channel, ChannelClosed
from hermes_lb.workers.child import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Start = Callable[..., "Watched"]

PATIENCE = 30.0  # seconds, on a busy machine


class Watched:
    """A child, and its process's end of the channel."""

    def __init__(self, script: str, **about: Any) -> None:
        ours, theirs = socket.socketpair()
        self.heard: list[dict[str, Any]] = []
        self.endings: list[int | None] = []
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.theirs = Channel(theirs, lambda message, _: self._said.put_nowait(message))
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)
        about = {"number": 1, "slot": 0, **about}
        self.child = Child(pid, ours, heard=self._hear, ended=self._ended, **about)

    def _hear(self, child: Child, message: dict[str, Any]) -> None:
        assert child is self.child
        self.heard.append(message)

    def _ended(self, child: Child) -> None:
        self.endings.append(child.exit_status)

    async def is_told(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self._said.get()

    async def ends(self) -> int | None:
        async with asyncio.timeout(PATIENCE):
            await self.child.wait()
        return self.child.exit_status


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start children that run a shell script; all are killed at the end."""
    started: list[Watched] = []

    def start(script: str, **about: Any) -> Watched:
        started.append(Watched(script, **about))
        return started[-1]

    yield start
    for one in started:
        if not one.child.has_ended:
            one.child.kill()
            await one.ends()
        one.theirs.close()


def has_exited(pid: int) -> None:
    """Block until it has exited, without reaping it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


def is_this_interpreter(pid: int) -> bool:
    return os.path.samefile(f"/proc/{pid}/exe", sys.executable)


async def test_its_exit_status_is_known_and_reported_once(start: Start):
    watched = start("exit 3")
    assert await watched.ends() == 3
    assert await watched.ends() == 3  # also for a later caller
    assert watched.endings == [3]
    assert watched.child.has_ended
    assert watched.child.channel.is_closed


async def test_who_was_killed_has_the_signal_as_its_status(start: Start):
    watched = start("sleep 100")
    assert not watched.child.has_ended
    watched.child.kill()
    assert await watched.ends() == -signal.SIGKILL
    watched.child.kill()  # the process is gone
    assert watched.endings == [-signal.SIGKILL]


async def test_no_zombie_and_no_descriptor_is_left(start: Start):
    before = len(os.listdir("/proc/self/fd"))
    watched = start("exit 0")
    pid = watched.child.pid
    await watched.ends()
    watched.theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        reap(pid)


async def test_a_child_that_another_has_waited_for_has_ended_all_the_same(start: Start):
    watched = start("exit 0")
    reap(watched.child.pid)
    assert await watched.ends() == -1


async def test_two_are_distinguished(start: Start):
    one, two = start("exit 1"), start("exit 2", number=2)
    assert [await one.ends(), await two.ends()] == [1, 2]
    assert (one.endings, two.endings) == ([1], [2])


async def test_what_it_says_is_heard_and_what_it_is_asked_is_answered(start: Start):
    watched = start("sleep 100")
    watched.theirs.send({"do": "failed"})
    asking = asyncio.gather(watched.child.channel.ask({"do": "sessions"}, timeout=PATIENCE))
    watched.theirs.answer(await watched.is_told(), {"sessions": []})
    assert (await asking)[0]["sessions"] == []
    assert watched.heard == [{"do": "failed"}]


async def test_its_last_words_are_heard_before_its_end_is_reported(start: Start):
    """In whatever order exit and messages are noticed."""
    watched = start("exit 0")
    has_exited(watched.child.pid)
    for number in range(3):
        watched.theirs.send({"do": "recent", "number": number})
    heard: list[int] = []
    watched.child._ended = lambda child: heard.append(len(watched.heard))
    await watched.ends()
    assert [message["number"] for message in watched.heard] == [0, 1, 2]
    assert heard == [3]


async def test_a_question_to_one_that_ends_fails(start: Start):
    watched = start("sleep 100")
    watched.child.kill()
    with pytest.raises(ChannelClosed):
        await watched.child.channel.ask({"do": "sessions"}, timeout=PATIENCE)


async def test_who_is_retired_gets_how_long_it_has(start: Start):
    watched = start("sleep 100")
    assert not watched.child.is_retired
    watched.child.retire(12.5)
    assert watched.child.is_retired
    assert await watched.is_told() == {"do": "drain", "timeout": 12.5}


async def test_it_says_who_it_is(start: Start):
    watched = start("sleep 100", number=7)
    pid = watched.child.pid
    assert repr(watched.child) == f"<Child 7: process {pid}, running>"
    watched.child.retire(0.0)
    assert repr(watched.child) == f"<Child 7: process {pid}, retired>"
    watched.child.kill()
    await watched.ends()
    assert repr(watched.child) == f"<Child 7: process {pid}, ended>"


async def test_a_worker_is_this_interpreter_and_ends_if_the_supervisor_goes():
    endings: list[Child] = []
    child = Child.start(
        "asyncio", number=0, slot=0, heard=lambda child, message: None, ended=endings.append
    )
    assert is_this_interpreter(child.pid)
    child.channel.close()
    async with asyncio.timeout(PATIENCE):
        await child.wait()
    assert (child.exit_status, endings) == (0, [child])
