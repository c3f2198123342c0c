"""`python -m tests.mutation` on a small tree of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mutation.__main__ import main
from tests.mutation.table import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., int]

pytestmark = pytest.mark.slow

PATIENCE = 50.0  # seconds, on a machine that is busy with other tests

CODE = '''"""Thing."""

def limit(n):
    return min(n, 10)

def forever():
    return False
'''

# The second one sees the code as a child process does, whose working directory is elsewhere.
TESTS = """
import subprocess
import sys

from agent_worker import thing

def test_limit():
    assert thing.limit(11) == 10

def test_in_a_child(tmp_path):
    code = "from agent_worker import thing; print(thing.limit(11))"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "10\\n"

def test_forever():
    while thing.forever():
        pass

def test_red():
    raise AssertionError
"""


def entry(name: str, old: str, new: str, test: str) -> str:
    return (
        f'[{name}]\nbreaks = "it"\nfile = "agent_worker/thing.py"\nold = "{old}"\nnew = "{new}"\n'
        f'tests = ["tests/test_thing.py::{test}"]\n'
    )


# As long as what they replace, and within the same second: a bytecode cache could mix them up.
LIMIT = "min(n, 10)"
TABLE = (
    entry("killed", LIMIT, "max(n, 10)", "test_limit")
    + entry("killed-in-a-child", LIMIT, "max(n, 10)", "test_in_a_child")
    + entry("survivor", LIMIT, "min(10, n)", "test_limit")
    + entry("killed-again", LIMIT, "max(n, 10)", "test_limit")
    + entry("stale", "min(n, 11)", "n", "test_limit")
    + entry("broken", LIMIT, "n", "test_renamed")
    + entry("endless", "return False", "return True", "test_forever")
    + entry("red", LIMIT, "n", "test_red")
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run it with these arguments -> the exit status."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts in a third of the time
    root = tmp_path / "root"
    for path, text in {
        "agent_worker/__init__.py": "",
        "agent_worker/thing.py": CODE,
        "tests/__init__.py": "",
        "tests/test_thing.py": TESTS,
        "table/area.toml": TABLE,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return lambda *arguments: main(["-j", "1", *arguments], root, root / "table")


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", f"area/{name}")]


def verdicts(output: str) -> dict[str, str]:
    """Name -> verdict, of the lines that have a time."""
    lines = [line.partition(" s  area/") for line in output.splitlines()]
    return {name: before[:9].strip() for before, found, name in lines if found}


def test_verdicts(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--no-baseline", *only("killed", "survivor", "stale", "broken")) == 1
    output = capsys.readouterr().out
    assert verdicts(output) == {
        "killed": "killed",
        "killed-in-a-child": "killed",
        "survivor": "SURVIVED",
        "killed-again": "killed",
        "stale": "STALE",
        "broken": "BROKEN",
    }
    assert "3 killed, 1 SURVIVED, 1 STALE, 1 BROKEN" in output
    # The tree itself is not touched.
    assert (tmp_path / "root/agent_worker/thing.py").read_text() == CODE
    assert not list(tmp_path.glob("root/**/__pycache__"))


def test_all_killed_is_0_and_says_by_which_test(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-v", *only("killed-again")) == 0
    output = capsys.readouterr().out
    assert "1 tests of 1 mutants, without a mutant ..." in output
    assert "tests/test_thing.py::test_limit" in output
    assert output.endswith("\n1 killed\n")


def test_a_mutant_that_hangs_is_ended(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--no-baseline", "--limit", "2", *only("endless")) == 1
    assert verdicts(capsys.readouterr().out) == {"endless": "TIMED OUT"}


def test_tests_that_fail_by_themselves_prove_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*only("red")) == 2
    captured = capsys.readouterr()
    assert verdicts(captured.out) == {}
    assert "the tests fail without a mutant" in captured.err


def test_list_and_names(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list", "--only", "killed") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"area/{name}: it (agent_worker/thing.py)"
        for name in ("killed", "killed-in-a-child", "killed-again")
    ]
    assert run("--only", "nothing") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(
    run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    """The test that runs is ended too, and the copies are gone."""
    root = tmp_path / "root"
    pid_file = tmp_path / "pid"
    tests = root / "tests/test_thing.py"
    tests.write_text(
        "import os, pathlib, time\n\ndef test_forever():\n"
        f"    pathlib.Path({str(pid_file)!r}).write_text(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(600)\n"
    )
    code = (
        "import sys, pathlib\nfrom tests.mutation.__main__ import run_as_command\n"
        f"root = pathlib.Path({str(root)!r})\n"
        "run_as_command(['--no-baseline', '--only', 'endless'], root, root / 'table')\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment) as process:
        wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        process.send_signal(number)
        assert process.wait(PATIENCE) == 130
    wait_for(lambda: not is_running(int(pid_file.read_text())))
    assert list(tmp_path.glob("mutants-*")) == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_is_a_command() -> None:
    command = [sys.executable, "-m", "tests.mutation", "--list", "--only", "queue/"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "queue/" in listed
