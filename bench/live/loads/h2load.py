"""h2load (nghttp2): closed-loop load by HTTP/2, many streams on few connections."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.live.errors import BenchError
from bench.live.loads.tls import client_environment

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "apt-get install nghttp2-client"
CONNECTIONS, STREAMS = 4, 50

_COUNTS = re.compile(r"requests: .*? (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_ANSWERS = re.compile(r"status codes: (\d+) 2xx")
_RATE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")


@dataclass(frozen=True)
class Outcome:
    """What h2load counted: responses of 2xx, and all others."""

    per_second: float
    requests: int
    failed: int


def is_installed() -> bool:
    return shutil.which("h2load") is not None


def run(port: int, *, tls: bool, seconds: int, directory: Path) -> Outcome:
    """Load 127.0.0.1:`port` for `seconds` from this process's core."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    try:
        done = subprocess.run(
            ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"-D{seconds}", url],
            capture_output=True,
            text=True,
            env=client_environment(directory) if tls else None,
            timeout=seconds + 30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError("h2load did not end in time") from None
    return outcome(done.stdout)


def outcome(said: str) -> Outcome:
    """Of what h2load has printed."""
    counts, answers, rate = (each.search(said) for each in (_COUNTS, _ANSWERS, _RATE))
    if counts is None or answers is None or rate is None:
        raise BenchError(f"h2load: {said.strip()[-500:]}")
    succeeded, *failed = map(int, counts.groups())
    fine = int(answers[1])
    # At the end some have a status and are not complete.
    return Outcome(float(rate[1]), fine, sum(failed) + max(0, succeeded - fine))
