"""i. The wall clock is moved by an hour either way."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.caller import Cut
from bench.chaos.scenario import Scenario, Skipped
from bench.chaos.scenarios.mix_up import what_is_wrong
from bench.chaos.stream import Stream
from bench.chaos.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_FORMAT = "%d/%b/%Y:%H:%M:%S.%f"
# Of what the access log says to what was set; much less than an hour, and much more than the time
# that a line may take to be written.
_TOLERANCE = timedelta(minutes=10)


def faketime_environment(setting: Path) -> dict[str, str]:
    """For a process whose wall clock, and no other, is what `setting` says. Raises Skipped."""
    if (program := shutil.which("faketime")) is None:
        raise Skipped("faketime is not installed (apt-get install faketime)")
    # It tells by itself where its library is.
    said = subprocess.run(
        [program, "-f", "+0", "env"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    library = next(line for line in said.splitlines() if line.startswith("LD_PRELOAD="))
    return {
        "LD_PRELOAD": library.partition("=")[2],
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",  # the setting is read each time
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # its older name
    }


@dataclass
class WallClock(Scenario):
    """Requests, streams, idle connections and health checks, while the time is set."""

    name: ClassVar[str] = "wall-clock"
    title: ClassVar[str] = "i. The wall clock is moved by an hour either way"

    clients: int = 8
    streams: int = 5
    seconds: float = 2.0  # at each setting

    async def run(self, arena: Arena) -> None:
        setting = arena.folder / "faketime"
        environment = faketime_environment(setting)
        _set(setting, 0)
        workers = await arena.workers(2)
        async with arena.balancer(
            workers,
            backend={"health": {"path": "/health", "interval": "200ms", "fall": 1}},
            # All shorter than an hour, which is what passes by a clock that is moved.
            timeouts=dict.fromkeys(("client", "server", "keep_alive", "queue"), "1m"),
            environment=environment,
        ) as balancer:
            counts, shifts = await self._load(balancer, setting)
            metrics = await balancer.metrics()
        report, must = arena.report, arena.report.must
        # Seen with a clock that is never moved, too, and never without the library.
        report.lag_excuse = "libfaketime slows down the waits between the balancer's threads"
        report.figure("the clock was moved, hours", ", ".join(f"{h:+d}" for h in shifts))
        report.figure("requests", counts.total())
        report.figure("failed", counts.total() - counts["right"])
        must(counts.total() == counts["right"] > 0, "no request fails", counts)
        for hours, seen in shifts.items():
            must(
                abs(seen - timedelta(hours=hours)) < _TOLERANCE,
                f"{hours:+d} h: the access log shows it",
                seen,
            )
        ended = {line.termination for line in balancer.log_lines()} - {"--", "CD"}
        must(not ended, "no timeout fires", ended)
        must("DOWN" not in balancer.said, "no health check fails", balancer.said)
        must(metrics.total("hermes_lb_server_up") == 2, "health is unchanged")

    async def _load(
        self, balancer: Balancer, setting: Path
    ) -> tuple[Counter[str], dict[int, timedelta]]:
        """(what became of the requests, by how much each setting was seen in the log)."""
        counts: Counter[str] = Counter()
        shifts: dict[int, timedelta] = {}
        streams = [await Stream.open(balancer, f"stream-{n}") for n in range(self.streams)]
        is_over = asyncio.Event()
        async with await balancer.connect() as idle, asyncio.TaskGroup() as group:
            await idle.ask(Ask("idle-before"))
            for number in range(self.clients):
                group.create_task(_ask_on(balancer, f"{number}", counts, is_over))
            for hours in (0, 1, 0, -1, 0):
                _set(setting, hours)
                # For its length, which no event tells: nothing may happen in it.
                await asyncio.sleep(self.seconds)
                shifts[hours] = await _seen_shift(balancer, hours)
            is_over.set()
            response = await idle.ask(Ask("idle-after"))
            counts["right" if response.status == 200 else "idle failed"] += 1
        for stream in streams:
            counts["right" if stream.is_right and not stream.end else "stream failed"] += 1
            stream.leave()
        return counts, shifts


def _set(setting: Path, hours: int) -> None:
    """At once: a file that is half written would be another time."""
    new = setting.with_suffix(".new")
    new.write_text(f"{hours:+d}h\n")
    new.replace(setting)


async def _ask_on(
    balancer: Balancer, name: str, counts: Counter[str], is_over: asyncio.Event
) -> None:
    asked = 0
    while not is_over.is_set():
        async with await balancer.connect() as caller:
            for _ in range(20):
                asked += 1
                ask = Ask(f"{name}-{asked}", "POST", blocks=5, wait=5, sends=5)
                try:
                    problem = what_is_wrong(ask, await caller.ask(ask))
                except Cut as cut:
                    problem = repr(cut)
                counts[problem or "right"] += 1


async def _seen_shift(balancer: Balancer, hours: int) -> timedelta:
    """How far the access log is from the real time, once it shows a request of now."""
    ident = f"look-{hours}-{datetime.now().timestamp()}"
    async with await balancer.connect() as caller:
        # The balancer looks at the wall clock twice a second, so the first look may be too early.
        async def shift() -> timedelta | None:
            nonlocal ident
            ident += "x"
            await caller.ask(Ask(ident))
            line = await balancer.log_of(ident)
            seen = datetime.strptime(line.when, _FORMAT) - datetime.now()
            return seen if abs(seen - timedelta(hours=hours)) < _TOLERANCE else None

        return await until(shift, f"the access log is {hours:+d} h away") or timedelta()
