"""Child processes: started on a core, measured whole (all processes, all threads), always ended.

Linux only: figures come from `/proc`.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.live.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Below the kernel's range for outgoing connections (32768 up): a load that opens thousands of
# connections cannot take a port between our picking it and a proxy binding it.
_PORTS = range(18_000, 32_000)
_DATA = ("Pss_Anon:", "Pss_Shmem:")
_ESTABLISHED = "01"  # in /proc/net/tcp


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports that nothing listens on, each of five digits."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", random.choice(_PORTS)))
            except OSError:
                candidate.close()
            else:
                held.append(candidate)
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


class Process:
    """One child in a session of its own, with all that it starts. A context manager.

    `core` is the only CPU it may run on, or several are the only ones; None: any. Its output goes
    to `log`, whose end is part of the message when something fails. `environment` is added to ours,
    `open_files` is its limit of descriptors, and `orphan_signal` is what it gets if we die. Leaving
    the context ends the child and its session.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int | Sequence[int] | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
        open_files: int | None = None,
        orphan_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self._environment = environment
        # By programs that become the command, and not by a `preexec_fn`: that would run Python
        # between fork and exec, where a lock of another thread stays locked for ever.
        self._setup = ["setpriv", "--pdeathsig", orphan_signal.name.removeprefix("SIG"), "--"]
        if core is not None:
            cores = [core] if isinstance(core, int) else core
            self._setup += ["taskset", "--cpu-list", ",".join(map(str, cores))]
        if open_files is not None:
            self._setup += ["prlimit", f"--nofile={open_files}", "--"]
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                [*self._setup, *self.argv],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._environment is None else {**os.environ, **self._environment},
                # Of its own session: Ctrl-C reaches the bench alone, which then ends each child.
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._child is None:
            raise BenchError(f"{self.argv[0]} was not started")
        return self._child.pid

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def send(self, number: signal.Signals) -> None:
        """A signal, if it still runs."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone. Nothing happens if it is gone already."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def kill_all(self) -> None:
        """kill -9 to all its processes, and wait until the child is gone."""
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)
        self.kill()

    def stop(self, patience: float = 5.0) -> None:
        """End the child: SIGTERM, and SIGKILL to what is left of its session."""
        if self._child is None:
            return
        self._child.terminate()
        self.resume()  # a stopped process acts on no signal but SIGKILL
        try:
            self._child.wait(patience)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        deadline = time.monotonic() + 2.0
        while (left := self._others()) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            _signal(pid, signal.SIGKILL)
        self._child = None

    def pause(self) -> None:
        """Stop all its processes, parents first: they use no CPU until `resume`."""
        for pid in self.pids():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue what `pause` stopped, children first."""
        for pid in reversed(self.pids()):
            _signal(pid, signal.SIGCONT)

    def _others(self) -> list[int]:
        return [pid for pid in self.pids() if pid != self.pid]

    def pids(self) -> list[int]:
        """The child, its descendants, and other processes of its session, without zombies."""
        found: list[int] = []
        family = {self.pid}
        for pid, parent, session, state in sorted(_all_processes()):
            if session == self.pid or pid in family or parent in family:
                family.add(pid)
                if state != "Z":
                    found.append(pid)
        return found

    def cpu_ns(self) -> int:
        """CPU time used so far by every thread of every process, in ns."""
        total = 0
        for pid in self.pids():
            for thread in _listdir(f"/proc/{pid}/task"):
                schedstat = _read(f"/proc/{pid}/task/{thread}/schedstat")
                total += int(schedstat.split()[0]) if schedstat else 0
        return total

    def cpu_ticks(self) -> tuple[int, int]:
        """(user, system) time of every process, in ticks of 10 ms."""
        user = system = 0
        for pid in self.pids():
            if stat := _read(f"/proc/{pid}/stat"):
                fields = stat.rpartition(")")[2].split()
                user, system = user + int(fields[11]), system + int(fields[12])
        return user, system

    def connections(self, port: int) -> dict[int, int]:
        """pid -> established connections of clients to local `port`, for processes with any."""
        lines = [line.split() for line in _read("/proc/net/tcp").splitlines()[1:]]
        inodes = {
            f"socket:[{fields[9]}]"
            for fields in lines
            if fields[1].endswith(f":{port:04X}") and fields[3] == _ESTABLISHED
        }
        found = {}
        for pid in self.pids():
            links = (_readlink(f"/proc/{pid}/fd/{name}") for name in _listdir(f"/proc/{pid}/fd"))
            if count := sum(link in inodes for link in links):
                found[pid] = count
        return found

    def resident_kb(self) -> float:
        """Resident memory of every process, in KB: proportional (PSS: shared pages count once).

        Without the pages of files, which are code: one process's share of them changes whenever
        any other on the machine loads the same library, as each Python does.
        """
        return sum(map(_pss_kb, self.pids()))

    def output(self, lines: int = 4) -> str:
        """The end of what the child has written, for a message."""
        written = _read(str(self.log)).splitlines()
        return "\n".join(line[:400] for line in written[-lines:])


def core_busy_seconds(core: int) -> float:
    """Seconds since boot in which `core` was not idle (a resolution of 10 ms)."""
    for line in _read("/proc/stat").splitlines():
        fields = line.split()
        if fields and fields[0] == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
    return 0.0


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def _all_processes() -> list[tuple[int, int, int, str]]:
    """(pid, parent, session, state) of every process."""
    found = []
    for name in _listdir("/proc"):
        if name.isdigit() and (stat := _read(f"/proc/{name}/stat")):
            # The command's name may hold spaces and brackets; what follows its last ")" may not.
            state, parent, _group, session, *_ = stat.rpartition(")")[2].split()
            found.append((int(name), int(parent), int(session), state))
    return found


def _pss_kb(pid: int) -> float:
    lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(_DATA))


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # it has ended meanwhile
        return []


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
