"""SIGTERM ends a run and what it has started, by Ctrl-C's way."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The thing started is a context, here one that only reports its start and end.
RUN = """
import asyncio
from bench.interruption import sigterm_is_ctrl_c

async def measure():
    try:
        print("measures", flush=True)
        await asyncio.sleep(3600)
    finally:
        print("has ended what it started", flush=True)

sigterm_is_ctrl_c()
try:
    asyncio.run(measure())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignored", ["", "INT"])
def test_a_run_is_interrupted_also_as_a_job_of_a_script(
    number: signal.Signals, ignored: str
) -> None:
    """Which a shell starts with SIGINT ignored."""
    trap = f'trap "" {ignored}; ' if ignored else ""
    command = ["/bin/sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "measures\n"
        running.send_signal(number)
        assert running.stdout.read() == "has ended what it started\ninterrupted\n"
        assert running.wait() == 0
