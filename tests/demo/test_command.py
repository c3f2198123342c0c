"""The demo: output, exit status, and what it leaves behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "configs/lb.toml").read_text()
PORTS = ("8080", "9900", "8001", "8002", "8003")  # balancer, admin, agent1, agent2, agent3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


# Below the ports that the kernel gives to outgoing connections (32768 and up): one that is free
# now is still free when the demo comes to it. Each process of the test run has its own thousand.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_candidates = itertools.cycle(range(20_000 + _WORKER % 12 * 1000, 21_000 + _WORKER % 12 * 1000))


@contextlib.contextmanager
def listeners(count: int) -> Iterator[list[int]]:
    """Listening sockets on ports that are free once they are closed."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in itertools.islice(_candidates, 1000):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                sock.listen()
                ports.append(port)
            if len(ports) == count:
                break
        yield ports


def shipped_config(ports: list[int]) -> str:
    """configs/lb.toml on other ports, with quicker health checks."""
    text = SHIPPED.replace('interval = "1s"', 'interval = "300ms"')
    for theirs, ours in zip(PORTS, ports, strict=True):
        text = text.replace(f':{theirs}"', f':{ours}"')
    return text


class Demo:
    """`python -m hermes_lb demo`, with output to a file."""

    def __init__(self, folder: Path, *words: str, python_path: str = "") -> None:
        self._output = folder / "output.txt"
        # Not in pytest's own: PostgreSQL's user, not root, needs access.
        self.temporary = Path(tempfile.mkdtemp(prefix="demo-test-"))
        self.temporary.chmod(0o755)
        paths = [python_path, str(ROOT)] if python_path else [str(ROOT)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hermes_lb", "demo", "--config", "lb.toml", *words],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "TMPDIR": str(self.temporary),
                    "COLUMNS": "100",
                    "HERMES_TOKENS": "nobody=knows",  # must not reach the workers
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, timeout)
        assert text in self.output

    def children(self) -> list[int]:
        """The processes that it started itself."""
        return [pid for pid, parent in parents().items() if parent == self.process.pid]

    def pids(self) -> set[int]:
        """Of all the processes that it started, and that these started."""
        pids, found = {self.process.pid}, {self.process.pid}
        while found:
            found = {pid for pid, parent in parents().items() if parent in found} - pids
            pids |= found
        return pids - {self.process.pid}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def end(self, number: signal.Signals) -> int:
        """Signal the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)
        return self.process.wait(30)


def parents() -> dict[int, int]:
    """Each running process's parent, from /proc."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(stat.parent.name)] = int(parent)
    return found


def wait_until(holds: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def assert_all_gone(pids: set[int]) -> None:
    wait_until(lambda: not pids & parents().keys(), 10.0)
    assert not pids & parents().keys()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    demos: list[Demo] = []
    with listeners(len(PORTS)) as ports:
        (tmp_path / "lb.toml").write_text(shipped_config(ports))

    def start_demo(*words: str, **options: Any) -> Demo:
        demos.append(Demo(tmp_path, *words, **options))
        return demos[-1]

    yield start_demo
    for demo in demos:
        demo.close()


def test_once_shows_everything_and_ends(start: Callable[..., Demo]) -> None:
    demo = start("--once")
    demo.wait_for("Create a session")
    pids = demo.pids()
    assert len(demo.children()) == 6, (
        "Valkey's and PostgreSQL's command, three workers, the balancer"
    )
    assert demo.process.wait(60) == 0, demo.output
    output = demo.output
    for line in (
        "valkey    redis://127.0.0.1:",
        "→ POST /api/agent/sessions\n",
        '"Nice to meet you, Ada."',
        "Accept: text/event-stream",
        'tool calculator(expression="17 * 23") → 391',
        "Upgrade: websocket",
        "✓ the sentence went on: 40 words, 25 of them behind the kill",
        "✓ the tokens, joined, are the answer",
        "✓ another worker answered",
        '"Your name is Ada."',
        "has a cat called Moxie",
        "✓ all 5 turns are there, in order, none twice",
        "✓ the other balancer had the rest: 25 of 40 words, none lost or repeated",
        "✓ the backend was asked once",
        "✓ all 28 checks held",
    ):
        assert line in output
    killed = re.search(r"(agent\d) \(pid \d+\) was ended by SIGKILL", output)
    assert killed
    assert re.findall(r"← (?:200|201|101) (agent\d)", output)[:5] == [killed[1]] * 5
    heir = re.search(r"✓ (agent\d) went on with it", output)
    assert heir
    assert heir[1] != killed[1]
    assert f"● {killed[1]} down" in output
    assert "✗" not in output
    assert "Traceback" not in output
    assert_all_gone(pids)
    assert list(demo.temporary.iterdir()) == []


def test_it_stays_up_with_lines_to_try_until_ctrl_c(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_for("Requests, as they are logged:")
    pids = demo.pids()
    invitation = demo.output.partition("In another terminal:")[2].partition("Where:")[0]
    shown = shell(invitation)
    assert shown.count("X-Hermes-Worker: agent") == 2
    assert '"content": "Nice to meet you, Ada."' in shown
    assert shown.count("event: message.delta") == 60
    assert '"role": "user", "content": "Write 60 words"' in shown
    assert '"name": "agent3"' in shown
    assert "# TYPE hermes_lb" in shown
    demo.wait_for("was ended by SIGKILL; it starts again in 5 s")
    demo.wait_for("✓ agent1 is started again")
    demo.wait_for("agents/agent1 is UP")
    logged = demo.output.partition("Requests, as they are logged:")[2]
    assert logged.count("HTTP/1.1") == 4
    pids |= demo.pids()  # the worker that was started again
    assert demo.end(signal.SIGINT) == 0
    assert_all_gone(pids)
    assert list(demo.temporary.iterdir()) == []


def test_a_signal_in_the_middle_ends_all(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_for("A turn, answered as JSON")
    pids = demo.pids()
    assert demo.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert_all_gone(pids)
    assert "Traceback" not in demo.output
    assert list(demo.temporary.iterdir()) == []


def test_children_die_with_a_demo_that_is_killed(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_for("Create a session")
    pids = demo.pids()
    assert len(demo.children()) == 6
    demo.process.kill()
    demo.process.wait()
    assert_all_gone(pids)


def test_a_check_that_fails_is_said_and_is_the_status(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    """Workers that forget: everything else goes well. Without `resume`, too."""
    config = tmp_path / "lb.toml"
    config.write_text(config.read_text().replace("resume = true", "resume = false"))
    (tmp_path / "forgetful").mkdir()
    (tmp_path / "forgetful/sitecustomize.py").write_text(
        "import sys\n"
        "if 'agent_worker' in sys.orig_argv:\n"
        "    from agent_worker.models import scripted\n"
        "    scripted._remembered_name = lambda seen: 'I forgot.'\n"
    )
    demo = start("--once", python_path=str(tmp_path / "forgetful"))
    assert demo.process.wait(60) == 1
    failure = "✗ the answer contains \"Ada\": expected Ada, got 'I forgot.'"
    assert demo.output.count(failure) == 2, "where it happened, and at the end"
    assert "✗ 1 of 24 checks failed" in demo.output
    assert re.search(r"kill -9: agent\d, which served last, is gone", demo.output)


def test_a_process_that_does_not_start_is_named_with_its_log(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    (tmp_path / "broken/agent_worker").mkdir(parents=True)
    (tmp_path / "broken/agent_worker/__init__.py").touch()
    (tmp_path / "broken/agent_worker/__main__.py").write_text("raise SystemExit('no luck')")
    demo = start("--once", python_path=str(tmp_path / "broken"))
    assert demo.process.wait(30) == 1
    assert "✗ valkey ended with status 1\n" in demo.output
    assert "valkey.log:\n     no luck\n" in demo.output
    kept = re.search(r"the logs are kept in (\S+)", demo.output)
    assert kept
    assert (Path(kept[1]) / "valkey.log").read_text() == "no luck\n"


def test_ports_in_use_are_named_with_what_to_do(tmp_path: Path) -> None:
    with listeners(len(PORTS)) as ports:
        (tmp_path / "lb.toml").write_text(shipped_config(ports))
        demo = Demo(tmp_path, "--once")
        assert demo.process.wait(30) == 1
        left = list(demo.temporary.iterdir())
        demo.close()
    balancer, admin, *workers = ports
    assert demo.output.splitlines() == [
        f"hermes-lb: port {balancer} (frontend public, lb.toml) is in use: "
        "stop what uses it, or change [[frontends]] bind",
        f"hermes-lb: port {admin} (admin, lb.toml) is in use: "
        "stop what uses it, or change [admin] bind",
        *(
            f"hermes-lb: port {port} (server agent{i}, lb.toml) is in use: "
            "stop what uses it, or change its address in [[backends.*.servers]]"
            for i, port in enumerate(workers, 1)
        ),
    ]
    assert left == []


def shell(lines: str) -> str:
    """The output of all commands, pasted into a shell at once."""
    result = subprocess.run(
        ["bash", "-e"],
        input=lines,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout
