"""wrk, one thread: closed-loop load over a fixed number of connections."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.live.errors import BenchError
from bench.live.loads.tls import client_environment

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "apt-get install wrk"
CONNECTIONS = 32
_MARK = "bench-result "
# Only `done` is a function: a request without one is formatted once and sent as it is.
_DONE = f"""
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{_MARK}{{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""
# With it every head is created separately, and no two are equal.
_VARIED = """
local sent = 0
function request()
  sent = sent + 1
  wrk.headers["X-Serial"] = string.format("%08x", sent)
  return wrk.format(nil, wrk.path .. "/" .. sent)
end
"""


@dataclass(frozen=True)
class Request:
    """What each connection sends, over and over. wrk adds Host and Content-Length itself."""

    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    tls: bool = False
    is_varied: bool = False  # another path and another field value each time


@dataclass(frozen=True)
class Outcome:
    """What wrk counted."""

    per_second: float
    p50_us: float
    p99_us: float
    requests: int
    errors: dict[str, int]  # kind -> count, only those that happened; "status" is 400 and above


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def run(request: Request, port: int, *, seconds: int, directory: Path) -> Outcome:
    """Load 127.0.0.1:`port` for `seconds` from this process's core."""
    script = directory / "wrk.lua"
    script.write_text(_script(request))
    url = f"{'https' if request.tls else 'http'}://127.0.0.1:{port}{request.path}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s"]
    try:
        done = subprocess.run(
            [*command, "-s", str(script), url],
            capture_output=True,
            text=True,
            env=client_environment(directory) if request.tls else None,
            timeout=seconds + 30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError("wrk did not end in time") from None
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return _outcome(json.loads(line.removeprefix(_MARK)))
    raise BenchError(f"wrk: {(done.stderr or done.stdout).strip()[-500:]}")


def _outcome(found: dict[str, Any]) -> Outcome:
    kinds = ("connect", "read", "write", "status", "timeout")
    return Outcome(
        per_second=found["requests"] / (found["microseconds"] / 1e6),
        p50_us=found["p50"],
        p99_us=found["p99"],
        requests=found["requests"],
        errors={kind: found[kind] for kind in kinds if found[kind]},
    )


def _script(request: Request) -> str:
    lines = [f"wrk.method = {_lua(request.method)}"]
    lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in request.headers]
    if request.body:
        lines.append(f"wrk.body = {_lua(request.body.decode())}")
    return "\n".join(lines) + (_VARIED if request.is_varied else "") + _DONE


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
