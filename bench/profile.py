"""`python -m bench.profile CASE`: where hermes_lb's time goes under one load of bench.live.

py-spy samples every process of the running balancer from outside, so that the code is the one
that is measured. Prints the functions with the most samples; writes a flame graph's stacks.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from bench.live.cases import CASES
from bench.live.errors import BenchError
from bench.live.peers.hermes_lb import HermesLb
from bench.live.runner import running_bench

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.live.bench import Bench
    from bench.live.peers.base import Running

_OUTPUT = Path(__file__).resolve().parent / "results"
_SAMPLES_PER_SECOND = 400


class _Sampled(HermesLb):
    """hermes_lb with py-spy looking on from its check to its end."""

    def __init__(self, sampler: str, stacks: Path, seconds: int, options: list[str]) -> None:
        self._command = [sampler, "record", "--format", "raw", "--output", str(stacks)]
        self._command += ["--subprocesses", "--rate", str(_SAMPLES_PER_SECOND)]
        # Longer than any case: py-spy ends with the balancer, or by a signal.
        self._command += ["--duration", str(seconds + 60)]
        self._command += options

    @contextmanager
    def running(
        self,
        bench: Bench,
        upstreams: tuple[int, ...],
        *,
        tls: bool = False,
        http2: bool = False,
        cores: Sequence[int] = (),
    ) -> Iterator[Running]:
        with super().running(bench, upstreams, tls=tls, http2=http2, cores=cores) as proxy:
            assert proxy.process is not None
            sampler = subprocess.Popen(
                [*self._command, "--pid", str(proxy.process.pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield proxy
            finally:
                sampler.send_signal(signal.SIGINT)  # at which it writes what it has
                try:
                    _, errors = sampler.communicate(timeout=20)
                except subprocess.TimeoutExpired:
                    sampler.kill()
                    _, errors = sampler.communicate()
            if sampler.returncode:
                raise BenchError(f"py-spy: {errors.strip()[-500:]}")


def main() -> int:
    options = _parse_options()
    console = Console()
    sampler = _find_sampler()
    if sampler is None:
        console.print("py-spy is missing; to profile: pip install py-spy")
        return 2
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    stacks = _OUTPUT / f"profile-{options.case}.stacks"
    chosen = [f"--{name}" for name in ("gil", "native") if getattr(options, name)]
    peer = _Sampled(sampler, stacks, options.seconds, chosen)
    try:
        with running_bench(options.seconds) as bench:
            sample = CASES[options.case].measure(peer, bench)
    except KeyboardInterrupt:
        return 130
    except BenchError as error:
        console.print(f"[red]{error}[/]")
        return 1
    figures = ", ".join(f"{key} {value:,.2f}" for key, value in sample.values.items())
    console.print(f"{options.case}, slowed by the sampling: {figures}", highlight=False)
    console.print(_table(stacks.read_text(), options.top))
    console.print(f"stacks (for any flame graph viewer): {stacks}", soft_wrap=True)
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("case", choices=CASES, nargs="?", default="get")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--top", type=int, default=25, help="functions to print")
    parser.add_argument(
        "--gil", action="store_true", help="only while the GIL is held: no waiting threads"
    )
    parser.add_argument("--native", action="store_true", help="C frames too (slower)")
    return parser.parse_args()


def _find_sampler() -> str | None:
    beside = Path(sys.executable).parent / "py-spy"  # where pip puts it, on PATH or not
    return str(beside) if beside.exists() else shutil.which("py-spy")


def _table(stacks: str, top: int) -> Table:
    """Samples by function: on top of the stack (self), and anywhere in it (total)."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames_text, _, count = line.rpartition(" ")
        # "function (path/file.py:123)": without the line number a function is one entry.
        frames = [
            frame.rpartition(":")[0] + ")" for frame in frames_text.split(";") if ":" in frame
        ]
        if not frames:
            continue
        own[frames[-1]] += int(count)
        total.update(dict.fromkeys(frames, int(count)))
    samples = sum(own.values()) or 1
    table = Table(box=box.SIMPLE, title=f"{samples} samples", title_justify="left")
    for heading in ("self", "total"):
        table.add_column(heading, justify="right")
    table.add_column("function")
    for frame, seen in own.most_common(top):
        table.add_row(f"{seen / samples:.1%}", f"{total[frame] / samples:.1%}", frame)
    return table


if __name__ == "__main__":
    sys.exit(main())
