"""A target that may not be there yet: lines are lost until it is, and nothing else is."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.sinks import LateSink, open_sink
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.observe.sinks import Sink


class Target:
    """A file in a directory that does not exist yet, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "logs" / "access.log"
        self.now = 100.0
        self.tries = 0
        self.sink = LateSink(self._open, clock=lambda: self.now)

    def _open(self) -> Sink:
        self.tries += 1
        return open_sink(str(self.file), "hermes_lb")

    def appears(self) -> None:
        self.file.parent.mkdir()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


def test_lines_are_lost_until_it_is_there(target: Target) -> None:
    lost = target.sink.write(["one", "two"])
    assert lost.lost == 2
    assert "access.log' can't be opened: No such file or directory" in lost.error
    target.appears()
    target.now += 1.0
    assert target.sink.write(["three"]) == (0, "")
    assert target.file.read_text() == "three\n"
    target.sink.close()


def test_it_is_tried_once_a_second(target: Target) -> None:
    for _ in range(10):
        target.sink.write(["a line"])
    assert target.tries == 1
    target.now += 1.0
    target.sink.write(["a line"])
    assert target.tries == 2


def test_who_asks_for_it_to_be_opened_is_not_put_off(target: Target) -> None:
    with pytest.raises(ValueError, match="can't be opened"):
        target.sink.reopen()
    target.appears()
    target.sink.reopen()
    moved = target.file.rename(target.file.with_name("access.log.1"))
    target.sink.reopen()  # now that it is open: again, by its name
    target.sink.write(["a line"])
    assert (moved.read_text(), target.file.read_text()) == ("", "a line\n")
    target.sink.close()


def test_one_that_was_never_there_has_nothing_to_close(target: Target) -> None:
    target.sink.close()
    assert target.tries == 0


async def test_a_log_that_may_be_late_starts_and_counts_what_it_loses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hermes_lb.access_log")
    file = tmp_path / "logs" / "access.log"
    log = AccessLog(str(file), flush_every=0.002)
    await log.start(may_be_late=True)
    await eventually(lambda: "can't be opened" in caplog.text)
    assert "; lines are lost until it can" in caplog.text
    log.write("lost")
    await eventually(lambda: log.dropped == 1)
    file.parent.mkdir()
    log.reopen()
    await eventually(file.exists)
    log.write("kept")
    await eventually(lambda: file.read_text() == "kept\n")
    await log.close()


async def test_a_name_that_takes_long_to_resolve_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def resolves(target: str, tag: str, facility: str) -> Sink:
        go_on.wait(20)
        return open_sink(str(tmp_path / "log"), tag)

    monkeypatch.setattr("hermes_lb.observe.background.open_sink", resolves)
    log = AccessLog("syslog:udp://far.away", flush_every=0.002)
    await log.start(may_be_late=True)
    log.write("a line")
    assert log.dropped == 0
    go_on.set()
    await log.close()
    assert (tmp_path / "log").read_text() == "a line\n"
