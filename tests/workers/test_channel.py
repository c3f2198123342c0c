"""Messages and descriptors over a real pair of sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.testing import eventually
from hermes_lb.workers.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE = 20.0  # seconds, on a busy machine
BIG = "x" * 5_000_000


class End:
    """One end, which records what it receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[dict[str, Any]] = []
        self.descriptors: list[list[int]] = []
        self.endings = 0
        self.on_message: Callable[[dict[str, Any]], None] = lambda message: None
        self._news = asyncio.Event()
        self.channel = Channel(sock, self._hear, self._end)

    def _hear(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.heard.append(message)
        self.descriptors.append(descriptors)
        self._news.set()
        self.on_message(message)

    def _end(self) -> None:
        self.endings += 1
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def hears(self, count: int) -> list[dict[str, Any]]:
        """All messages, once there are `count`."""
        await self.until(lambda: len(self.heard) >= count)
        return self.heard

    def answers(self, **answer: Any) -> None:
        """Answer every later question like this."""
        self.on_message = lambda question: self.channel.answer(question, answer)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    first, second = map(End, socket.socketpair())
    yield first, second
    first.channel.close()
    second.channel.close()


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def file_of(text: str) -> int:
    fd = os.memfd_create("test")
    os.write(fd, text.encode())
    return fd


def read(fd: int) -> str:
    """Read and close it."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read().decode()


async def test_messages_arrive_in_order_and_whole(ends: tuple[End, End]):
    first, second = ends
    sent = [{"do": "count", "n": n, "text": "é" * (n % 7 * 50)} for n in range(2000)]
    for message in sent:
        first.channel.send(message)
    assert await second.hears(2000) == sent


async def test_a_message_that_comes_byte_by_byte_is_heard_once_it_is_whole():
    ours, theirs = socket.socketpair()
    reading, written = socket.socketpair()
    writer = Channel(written, lambda message, fds: None)
    writer.send({"do": "slowly"})
    data = reading.recv(1000)
    end = End(theirs)
    for at in range(len(data)):
        assert not end.heard
        ours.send(data[at : at + 1])
        await asyncio.sleep(0)
    assert await end.hears(1) == [{"do": "slowly"}]
    for closed in (ours, reading, writer, end.channel):
        closed.close()


async def test_large_messages_cross_without_anybody_being_blocked(ends: tuple[End, End]):
    first, second = ends
    for end in ends:
        for n in range(3):
            end.channel.send({"do": "big", "n": n, "data": BIG})
    assert [m["n"] for m in await second.hears(3)] == [0, 1, 2]
    assert [len(m["data"]) for m in await first.hears(3)] == [len(BIG)] * 3


async def test_descriptors_arrive_with_their_own_message(ends: tuple[End, End]):
    first, second = ends
    before = open_files()
    for n, fds in enumerate([0, 2, 0, 3, 1, 0]):
        files = [file_of(f"{n}.{i}") for i in range(fds)]
        padding = BIG if n % 2 else ""
        first.channel.send({"do": "take", "n": n, "data": padding}, files)
        for fd in files:
            os.close(fd)
    await second.hears(6)
    told = [[read(fd) for fd in descriptors] for descriptors in second.descriptors]
    assert told == [[], ["1.0", "1.1"], [], ["3.0", "3.1", "3.2"], ["4.0"], []]
    assert open_files() == before


async def test_descriptors_are_not_inherited(ends: tuple[End, End]):
    first, second = ends
    fd = file_of("")
    first.channel.send({"do": "take"}, [fd])
    os.close(fd)
    await second.hears(1)
    ((received,),) = second.descriptors
    assert not os.get_inheritable(received)
    os.close(received)


async def test_more_descriptors_than_the_kernel_takes_at_a_time(ends: tuple[End, End]):
    first, second = ends
    before = open_files()
    fds = [file_of(str(number)) for number in range(300)]
    for count in (253, 1, 254, 300, 0):
        first.channel.send({"do": "take"}, fds[:count])
    for fd in fds:
        os.close(fd)
    await second.hears(5)
    assert [len(descriptors) for descriptors in second.descriptors] == [253, 1, 254, 300, 0]
    for descriptors in second.descriptors:
        for number, received in enumerate(descriptors):
            assert os.pread(received, 10, 0) == str(number).encode()
            os.close(received)
    assert open_files() == before


async def test_a_question_has_its_own_answer(ends: tuple[End, End]):
    first, second = ends
    asked = [first.channel.ask({"do": "what", "n": n}, timeout=PATIENCE) for n in range(3)]
    answers = asyncio.gather(*asked)
    await second.hears(3)
    for message in reversed(second.heard):
        second.channel.answer(message, {"double": 2 * message["n"]})
    assert [answer["double"] for answer in await answers] == [0, 2, 4]


async def test_both_may_ask_at_a_time(ends: tuple[End, End]):
    first, second = ends
    first.answers(by="first")
    second.answers(by="second")
    answers = await asyncio.gather(
        first.channel.ask({"do": "who"}, timeout=PATIENCE),
        second.channel.ask({"do": "who"}, timeout=PATIENCE),
    )
    assert [answer["by"] for answer in answers] == ["second", "first"]


async def test_descriptors_may_go_with_a_question(ends: tuple[End, End]):
    first, second = ends
    second.on_message = lambda question: second.channel.answer(
        question, {"it": read(second.descriptors[-1][0])}
    )
    fd = file_of("a file")
    answer = await first.channel.ask({"do": "read"}, [fd], timeout=PATIENCE)
    os.close(fd)
    assert answer["it"] == "a file"


async def test_a_late_answer_is_not_taken_for_another_ones(ends: tuple[End, End]):
    first, second = ends
    with pytest.raises(TimeoutError):
        await first.channel.ask({"do": "late"}, timeout=0.0)
    (late,) = await second.hears(1)
    second.channel.answer(late, {"to": "late"})
    second.answers(to="next")
    assert (await first.channel.ask({"do": "next"}, timeout=PATIENCE))["to"] == "next"


async def test_questions_go_on_counting_where_another_generation_stopped():
    ours, theirs = socket.socketpair()
    second = End(theirs)
    before = Channel(ours.dup(), lambda message, fds: None)
    with pytest.raises(TimeoutError):
        await before.ask({"do": "before"}, timeout=0.0)
    after = Channel(ours, lambda message, fds: None, asked=before.asked)
    before.close()
    (unanswered,) = await second.hears(1)
    second.channel.answer(unanswered, {"to": "before"})
    second.answers(to="after")
    assert (await after.ask({"do": "after"}, timeout=PATIENCE))["to"] == "after"
    after.close()
    second.channel.close()


async def test_a_question_to_an_end_that_goes_away_fails(ends: tuple[End, End]):
    first, second = ends
    second.on_message = lambda question: second.channel.close()
    with pytest.raises(ChannelClosed):
        await first.channel.ask({"do": "what"}, timeout=PATIENCE)
    with pytest.raises(ChannelClosed):
        await first.channel.ask({"do": "what"}, timeout=PATIENCE)
    first.channel.send({"do": "nothing"})
    assert first.channel.is_closed


async def test_its_own_end_is_not_an_end_of_the_other(ends: tuple[End, End]):
    first, second = ends
    first.channel.close()
    first.channel.close()
    await second.until(lambda: second.endings)
    assert (first.endings, second.endings) == (0, 1)
    assert second.channel.is_closed


async def test_the_last_words_of_an_end_are_heard(ends: tuple[End, End]):
    first, second = ends
    for n in range(100):
        first.channel.send({"do": "say", "n": n})
    first.channel.close()
    await second.until(lambda: second.endings)
    assert [message["n"] for message in second.heard] == list(range(100))


async def test_an_end_that_is_heard_out_has_heard_all_and_is_closed():
    heard: list[Any] = []
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    channel = Channel(theirs, lambda message, _: heard.append(message["do"]))
    other = Channel(ours, lambda message, _: None)
    for number in range(3):  # more than is read at once
        other.send({"do": number, "padding": "x" * 150_000})
    assert not other.is_amid_message
    channel.hear_out()
    assert heard == [0, 1, 2]
    assert channel.is_closed
    channel.hear_out()
    other.close()


async def test_a_handler_that_raises_does_not_end_the_conversation(
    ends: tuple[End, End], caplog: pytest.LogCaptureFixture
):
    first, second = ends

    def fail(message: dict[str, Any]) -> None:
        if message["do"] == "fail":
            raise LookupError("a bug")

    second.on_message = fail
    for do in ("fail", "go on", "fail", "go on"):
        first.channel.send({"do": do})
    await second.hears(4)
    assert [record.getMessage() for record in caplog.records] == ["while dealing with 'fail'"] * 2
    assert "a bug" in caplog.text


async def test_a_handler_that_closes_hears_nothing_more(
    ends: tuple[End, End], caplog: pytest.LogCaptureFixture
):
    first, second = ends
    before = open_files()
    second.on_message = lambda message: second.channel.close()
    fd = file_of("")
    for _ in range(3):
        first.channel.send({"do": "stop"}, [fd])
        first.channel.send({"do": "stop"})
    os.close(fd)
    await first.until(lambda: first.endings)
    assert len(second.heard) == 1
    os.close(second.descriptors[0][0])
    assert open_files() == before - 2
    assert not caplog.records


async def test_descriptors_that_nobody_takes_any_more_are_closed(ends: tuple[End, End]):
    first, second = ends
    before = open_files()
    fd = file_of("")
    for _ in range(20):  # far more than the sockets hold
        first.channel.send({"do": "take", "data": BIG}, [fd, fd])
    os.close(fd)
    assert open_files() > before
    second.channel.close()
    first.channel.close()
    assert open_files() == before - 2


async def test_descriptors_that_came_before_their_message_are_closed_with_it(
    ends: tuple[End, End],
):
    first, second = ends
    before = open_files()
    fd = file_of("")
    first.channel.send({"do": "take", "data": BIG}, [fd, fd, fd])
    os.close(fd)
    async with asyncio.timeout(PATIENCE):
        while open_files() != before + 3:  # noqa: ASYNC110 - they come with the first bytes
            await asyncio.sleep(0)
    first.channel.close()
    await second.until(lambda: second.endings)
    assert not second.heard
    assert open_files() == before - 2


async def test_it_is_amid_a_message_until_all_of_it_has_been_passed():
    ours, theirs = socket.socketpair()
    writer = Channel(ours, lambda message, fds: None)
    writer.send({"do": "big", "data": BIG})
    assert writer.is_amid_message

    end = End(theirs)
    await end.hears(1)
    assert [writer.is_amid_message, end.channel.is_amid_message] == [False, False]
    ours.send(b"\0")  # the start of the next message
    await eventually(lambda: end.channel.is_amid_message)
    writer.close()
    end.channel.close()
