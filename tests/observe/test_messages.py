"""`MessageHandler`: who says something is never held up, and nothing is lost without a word."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.observe import messages
from hermes_lb.observe.messages import MessageHandler, flush_messages
from tests.support.slow_pipe import SlowPipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def logging_to(target: object, **options: Any) -> Iterator[tuple[logging.Logger, MessageHandler]]:
    """A logger of its own, and its handler."""
    handler = MessageHandler(str(target), **options)
    logger = logging.Logger("lb")
    logger.addHandler(handler)
    yield logger, handler
    handler.flush()
    handler._writer.stop(wait=not handler._is_waiting)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[SlowPipe]:
    """A full one."""
    made = SlowPipe(tmp_path / "fifo")
    made.fill()
    yield made
    made.close()


def lines_after(pipe: SlowPipe, handler: MessageHandler) -> list[str]:
    """The lines written once the pipe is read, without those that filled it."""
    received = bytearray()
    while handler._is_waiting:
        received += pipe.read()
    received += pipe.read()
    return [line for line in received.decode().splitlines() if line.strip("-")]


def test_messages_are_written_in_their_order(tmp_path: Path) -> None:
    with logging_to(tmp_path / "said") as (logger, handler):
        for number in range(1000):
            logger.info("message %d", number)
        handler.flush()
        said = (tmp_path / "said").read_text()
    assert said.splitlines() == [f"message {number}" for number in range(1000)]


def test_threads_lose_nothing(tmp_path: Path) -> None:
    with logging_to(tmp_path / "said") as (logger, _):

        def say_much() -> None:
            for _ in range(100):
                logger.info("a message")

        threads = [threading.Thread(target=say_much) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "said").read_text() == "a message\n" * 800


def test_an_exception_is_several_lines_of_one_message(tmp_path: Path) -> None:
    with logging_to(tmp_path / "said") as (logger, _):
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("it failed")
    said = (tmp_path / "said").read_text().splitlines()
    assert (said[0], said[-1]) == ("it failed", "ValueError: no")


def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe: SlowPipe) -> None:
    with logging_to(pipe.path) as (logger, handler):
        for number in range(100):
            logger.info("message %d", number)
        assert lines_after(pipe, handler) == [f"message {number}" for number in range(100)]


def test_what_has_no_room_is_counted_and_said_where_it_is_missing(pipe: SlowPipe) -> None:
    with logging_to(pipe.path, max_messages=3) as (logger, handler):
        for number in range(10):
            logger.info("message %d", number)
        assert repr(handler) == "<MessageHandler 3 waiting, 7 lost>"
        said = lines_after(pipe, handler)
        assert said == [
            "message 0", "message 1", "message 2",
            f"{pipe.path}: 7 messages lost: it is too slow",
        ]  # fmt: skip
        logger.info("later")
        assert lines_after(pipe, handler) == ["later"]


def test_no_message_is_taken_behind_a_gap(pipe: SlowPipe) -> None:
    with logging_to(pipe.path, max_size=10) as (logger, handler):
        for text in ("12345", "1234567890", "12"):
            logger.info(text)
        said = lines_after(pipe, handler)
        assert said == ["12345", f"{pipe.path}: 2 messages lost: it is too slow"]


def test_what_a_full_disk_did_not_take_is_said_when_it_takes_something(
    tmp_path: Path,
) -> None:
    target = tmp_path / "said"
    target.symlink_to("/dev/full")
    with logging_to(target) as (logger, handler):
        for _ in range(3):
            logger.info("lost")
            handler.flush()
        # Each failing word about it counts for those that it is about.
        assert repr(handler) == "<MessageHandler 0 waiting, 3 lost>"
        target.unlink()
        target.touch()
        logger.info("kept")
    assert target.read_text().splitlines() == [
        f"{target}: 3 messages lost: No space left on device",
        "kept",
    ]


def test_what_is_said_of_a_loss_has_the_form_of_all_messages(pipe: SlowPipe) -> None:
    with logging_to(pipe.path, max_messages=1) as (logger, handler):
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.error("one")
        logger.error("two")
        assert lines_after(pipe, handler) == [
            "ERROR lb: one",
            f"WARNING hermes_lb: {pipe.path}: 1 messages lost: it is too slow",
        ]


def test_a_message_that_cannot_be_formatted_is_said_to_be_one(tmp_path: Path) -> None:
    with logging_to(tmp_path / "said") as (logger, _):
        logger.info("%d", "no number")
        logger.info("next")
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0].startswith(f"lb: {__file__}:")
    assert "can't be said: TypeError(" in said[0]
    assert said[1:] == ["next"]


def test_a_flush_waits_once_for_a_reader_that_never_reads(
    pipe: SlowPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def waits_in_vain(condition: object, timeout: float) -> bool:
        waits.append(timeout)
        return False

    with logging_to(pipe.path) as (logger, handler):
        monkeypatch.setattr(handler._changed, "wait_for", waits_in_vain)
        logger.info("a message")
        handler.flush()
        handler.flush()
        assert waits == [messages.FLUSH_TAKES]
        assert lines_after(pipe, handler) == ["a message"]
        handler.flush()  # now that it takes something again
        assert len(waits) == 2


def test_it_flushes_while_logging_has_its_lock(tmp_path: Path) -> None:
    """As `logging.shutdown` does at the interpreter's end."""
    with logging_to(tmp_path / "said") as (logger, handler):
        logger.info("a message")
        handler.acquire()
        handler.flush()
        handler.release()
        assert (tmp_path / "said").read_text() == "a message\n"


def test_flushing_is_for_all_that_the_root_logger_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logging_to(tmp_path / "said") as (logger, handler):
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        logger.info("a message")
        flush_messages()
        assert (tmp_path / "said").read_text() == "a message\n"


def test_a_target_that_cannot_be_opened_costs_the_messages_only(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "said"
    with logging_to(target) as (logger, handler):
        logger.info("lost")
        handler.flush()
        assert repr(handler) == "<MessageHandler 0 waiting, 1 lost>"
    assert not os.path.exists(target)
