"""`AccessLog`: order, bounds, slow targets, and that nothing of it blocks or fails."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe.access_log import AccessLog, Backlog
from tests.support.slow_pipe import SlowPipe
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOON = 0.002


@asynccontextmanager
async def logging_to(target: object, **options: Any) -> AsyncIterator[AccessLog]:
    log = AccessLog(str(target), **{"flush_every": SOON, **options})
    await log.start()
    try:
        yield log
    finally:
        await log.close()


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "access log"]


def open_files() -> list[str]:
    """Paths of this process's descriptors (Linux)."""
    paths = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the listing itself is closed by now
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return paths


async def test_lines_reach_the_file_in_order_and_soon(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logging_to(path) as log:
        assert log.enabled
        for n in range(100):
            log.write(f"line {n}")
            if n % 7 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: path.read_text().count("\n") == 100)
        log.write("the last")
    expected = [*(f"line {n}" for n in range(100)), "the last"]
    assert path.read_text().splitlines() == expected
    assert log.dropped == 0


async def test_lines_from_before_the_start_are_kept(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log.write("early")
    await log.start()
    await log.close()
    assert (tmp_path / "log").read_text() == "early\n"


async def test_close_flushes_at_once_whatever_the_interval(tmp_path: Path) -> None:
    async with asyncio.timeout(10), logging_to(tmp_path / "log", flush_every=3600) as log:
        log.write("a")
    assert (tmp_path / "log").read_text() == "a\n"


async def test_close_leaves_nothing_behind(tmp_path: Path) -> None:
    tasks, threads = asyncio.all_tasks(), writers()
    log = AccessLog(str(tmp_path / "log"))
    await log.start()
    assert writers() != threads
    assert str(tmp_path / "log") in open_files()
    await log.close()
    assert str(tmp_path / "log") not in open_files()
    assert asyncio.all_tasks() == tasks
    assert writers() == threads
    log.write("after the end: ignored")
    await log.close()
    assert (tmp_path / "log").read_text() == ""
    assert repr(log) == f"<AccessLog {tmp_path / 'log'} closed, 0 dropped>"


async def test_a_file_that_was_moved_away_is_begun_again_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logging_to(path, flush_every=3600) as log:
        path.rename(tmp_path / "log.1")
        log.reopen()
        await eventually(path.exists)
        log.write("new")
    assert path.read_text() == "new\n"
    assert (tmp_path / "log.1").read_text() == ""


async def test_if_it_cannot_be_reopened_that_is_reported_and_the_old_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    async with logging_to(folder / "log") as log:
        folder.rename(tmp_path / "moved")
        log.reopen()
        await eventually(lambda: caplog.messages)
        log.write("a")
    assert caplog.messages == [
        f"access log {folder / 'log'}: it can't be reopened: No such file or directory"
    ]
    assert (tmp_path / "moved" / "log").read_text() == "a\n"
    assert log.dropped == 0


async def test_to_reopen_what_is_not_open_does_nothing(tmp_path: Path) -> None:
    log = AccessLog("off")
    log.reopen()
    async with logging_to(tmp_path / "log") as log:
        pass
    log.reopen()


async def test_off_does_nothing() -> None:
    before = writers()
    async with logging_to("off") as log:
        assert not log.enabled
        log.write("nothing")
        assert writers() == before
    assert log.dropped == 0


async def test_a_target_that_cannot_be_opened_fails_the_start(tmp_path: Path) -> None:
    before = writers()
    log = AccessLog(str(tmp_path / "missing" / "log"))
    with pytest.raises(ValueError, match="can't be opened: No such file or directory"):
        await log.start()
    await log.close()
    await eventually(lambda: writers() == before)


async def test_a_slow_reader_never_holds_up_the_loop_and_loses_no_line(tmp_path: Path) -> None:
    pipe = SlowPipe(tmp_path / "fifo")
    sent = [f"{n:07}".ljust(199, ".") for n in range(10_000)]  # 2 MB
    received = bytearray()
    async with logging_to(pipe.path) as log:
        for line in sent[:5000]:
            log.write(line)
        await asyncio.sleep(0.02)  # the writer is stuck now, and the loop is here
        for line in sent[5000:]:
            log.write(line)
        while len(received) < 200 * len(sent):
            received += pipe.read()
            await asyncio.sleep(0)
    pipe.close()
    assert received.decode().splitlines() == sent
    assert log.dropped == 0


async def test_beyond_the_bound_the_newest_lines_are_dropped_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = SlowPipe(tmp_path / "fifo")
    log = AccessLog(str(pipe.path), flush_every=SOON, max_lines=1000, say_every=3600)
    await log.start()
    for n in range(900):
        log.write(f"{n:0199}")  # 180 kB: more than the pipe holds
    await eventually(lambda: len(log._backlog.lines) == 0)
    for n in range(900, 1500):
        log.write(f"{n:0199}")
    await eventually(lambda: log.dropped == 500)
    for n in range(1500, 1600):
        log.write(f"{n:0199}")
    await eventually(lambda: log.dropped == 600)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [f"access log {pipe.path}: 500 lines lost: it is too slow"]
    received = bytearray()
    closing = asyncio.get_running_loop().create_task(log.close())
    while not closing.done():
        received += pipe.read()
        await asyncio.sleep(0)
    received += pipe.read()
    pipe.close()
    assert [int(line) for line in received.decode().splitlines()] == list(range(1000))
    # Losses that were not reported yet are reported at the end.
    assert caplog.messages[1:] == [f"access log {pipe.path}: 100 lines lost: it is too slow"]


async def test_room_comes_back_when_lines_are_written(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log", max_lines=10, max_size=100) as log:
        for batch in range(20):
            for n in range(10):
                log.write(f"{batch:04} {n:04}!")
            await eventually(lambda: not log._backlog.lines and not log._being_written)
    assert log.dropped == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 200


async def test_a_reader_that_never_reads_does_not_keep_close_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = SlowPipe(tmp_path / "fifo")
    log = AccessLog(str(pipe.path), flush_every=SOON)
    await log.start()
    for n in range(1000):
        log.write(f"{n:0199}")
    await eventually(lambda: log._being_written)
    log.write("too late")
    async with asyncio.timeout(10):
        await log.close(timeout=0.01)
    assert log.dropped == 1001
    assert caplog.messages == [f"access log {pipe.path}: 1001 lines lost: it takes nothing"]
    stuck = writers()
    assert stuck
    assert all(thread.daemon for thread in stuck)  # or the process could not end
    pipe.close()  # EPIPE frees the thread
    await eventually(lambda: not any(thread.is_alive() for thread in stuck))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
async def test_a_full_disk_is_counted_and_said_once_a_period(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with logging_to("/dev/full", say_every=3600) as log:
        for dropped in (2, 4, 6):
            log.write("lost")
            log.write("lost too")
            await eventually(functools.partial(lambda total: log.dropped == total, dropped))
        assert caplog.messages == ["access log /dev/full: 2 lines lost: No space left on device"]
    assert caplog.messages[1:] == ["access log /dev/full: 4 lines lost: No space left on device"]


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    max_lines=st.integers(0, 20),
    max_size=st.integers(0, 200),
    trim_after=st.integers(1, 10),
)
def test_a_backlog_stays_within_its_room_and_in_order(
    sizes: list[int], max_lines: int, max_size: int, trim_after: int
) -> None:
    backlog = Backlog(max_lines, max_size)
    dropped = 0
    for n, size in enumerate(sizes):
        backlog.lines.append(str(n).ljust(size))
        if n % trim_after == 0:
            dropped += backlog.trim()
            assert len(backlog.lines) <= max_lines
            assert sum(map(len, backlog.lines)) <= max_size
    dropped += backlog.trim()
    kept = [int(line) for line in backlog.lines]
    assert kept == sorted(kept)
    assert len(kept) + dropped == len(sizes)
    lines, size = backlog.take()
    assert size == sum(map(len, lines))
    assert backlog.lines == []
    backlog.lines.append("")
    assert backlog.trim() == (0 if len(lines) < max_lines else 1)
    backlog.give_back(len(lines), size)
    if max_lines > 1:
        backlog.lines.append("")
        assert backlog.trim() == 0


def test_what_is_taken_uses_room_until_it_is_given_back() -> None:
    backlog = Backlog(3, 100)
    backlog.lines += ["a", "b", "c", "d"]
    assert backlog.trim() == 1
    assert backlog.take() == (["a", "b", "c"], 3)
    backlog.lines.append("e")
    assert backlog.trim() == 1
    backlog.give_back(3, 3)
    backlog.lines.append("f")
    assert backlog.trim() == 0
    assert backlog.take() == (["f"], 1)


def test_a_backlog_drops_only_what_is_too_big() -> None:
    backlog = Backlog(100, 10)
    backlog.lines += ["12345", "1234", "12", "1"]
    assert backlog.trim() == 2  # "1" would fit, but a gap in the middle would be a lie
    assert backlog.lines == ["12345", "1234"]
