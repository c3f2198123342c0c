"""What the admin listener and the metrics look at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from array import array

from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe.observed import ProcessView
from hermes_lb.observe.usage import usage_of


def test_this_process_in_the_kernels_words() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert usage.resident_bytes > 1024**2
    assert usage.virtual_bytes >= usage.resident_bytes
    assert usage.cpu_seconds > 0
    assert time.time() - 3600 < usage.started_at < time.time() + 2  # by a clock of 10 ms, and btime


def test_a_file_that_is_opened_is_counted() -> None:
    process = ProcessView(0, os.getpid())
    process.look()
    before = process.open_files
    with open(os.devnull), open(os.devnull):
        process.look()
        assert process.open_files == before + 2
    assert process.max_files >= before


def test_another_process_can_be_looked_at_until_it_ends() -> None:
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        process = ProcessView(0, child.pid)
        process.look()
        seen = process.usage
        assert process.open_files >= 3
        child.communicate(b"\n")
    assert usage_of(child.pid) is None
    process.look()
    assert process.usage is seen


@given(
    numbers=st.tuples(*[st.integers(0, 2**40)] * 4),
    is_draining=st.booleans(),
    lags=st.lists(st.floats(0.0, 10.0), max_size=5),
)
def test_a_process_survives_its_way_through_shared_memory(
    numbers: tuple[int, int, int, int], is_draining: bool, lags: list[float]
) -> None:
    number, pid, clients, dropped = numbers
    told = ProcessView(number, pid, 1e9 + 0.25, is_draining, clients, dropped)
    for lag in lags:
        told.loop_lag.histogram.observe(lag)
        told.loop_lag.worst = max(told.loop_lag.worst, lag)
    heard = ProcessView(0, 0)
    heard.load(array("d", told.cells()))
    assert heard.cells() == told.cells()
    assert (heard.number, heard.pid, heard.clients) == (number, pid, clients)
    assert (heard.is_draining, heard.access_log_dropped) == (is_draining, dropped)
    assert heard.loop_lag.histogram.counts == told.loop_lag.histogram.counts
