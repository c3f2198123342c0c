"""How a Python was built, which decides its speed: PGO, LTO, shared or static.

The interpreter that is asked runs this file itself (`describe`), so it needs the standard library
only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path


def describe(python: str) -> str:
    """One line, like "Python 3.11.2, GCC 12.2.0, no PGO, no LTO, shared; 41 ns a call"."""
    command = [python, "-I", __file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return str(json.loads(done.stdout))


def _describe_this() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    compiler = sys.version.partition("[")[2].partition("]")[0]
    is_shared = "libpython" in Path("/proc/self/maps").read_text()
    parts = [f"Python {version}", compiler, *_optimisations(is_shared)]
    parts.append("shared" if is_shared else "static")
    return f"{', '.join(parts)}; {_call_ns():.0f} ns a call"


def _optimisations(is_shared: bool) -> list[str]:
    """From the build's record. Debian's is that of its shared library, not of its program."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS"))
    flags = f"{sysconfig.get_config_var('PY_CORE_CFLAGS')} {arguments}"
    has = {
        "PGO": "--enable-optimizations" in arguments or "-fprofile-use" in flags,
        "LTO": "--with-lto" in arguments or "-flto" in flags,
    }
    if any(has.values()):
        return [name if is_on else f"no {name}" for name, is_on in has.items()]
    if "--enable-shared" in arguments and not is_shared:
        return ["PGO and LTO not recorded (debian/rules builds with both)"]
    return ["no PGO", "no LTO"]


def _call_ns() -> float:
    """Of an empty function, the fastest of many loops: compares builds, whatever their flags."""

    def function() -> None:
        return None

    calls, fastest = 10_000, float("inf")
    for _ in range(50):
        start = time.perf_counter_ns()
        for _ in range(calls):
            function()
        fastest = min(fastest, (time.perf_counter_ns() - start) / calls)
    return fastest


if __name__ == "__main__":
    print(json.dumps(_describe_this()))
