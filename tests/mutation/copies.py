"""Temporary copies of the tree, in which mutants are tested; the checkout is never touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.mutation.table import Mutant

# A time that no bytecode was made for: 2100-01-01.
_LATER = 4_102_444_800

# What the tests read. Everything else (a virtual environment, caches, `.git`) stays behind.
COPIED = (
    "hermes_lb", "agent_worker", "tests", "bench", "configs", "docs", "README.md", "Makefile",
    "pyproject.toml", "constraints.txt",
)  # fmt: skip

# Seconds for one test (pytest-timeout). Many mutants make a test time out, and its own bound is
# higher.
_TEST_LIMIT = 30


class Ended(NamedTuple):
    """A run of pytest. `code` is its exit status, None if it was ended by the time limit."""

    code: int | None
    output: str


class Copy:
    """One copy. It can be used from one thread at a time, but for `stop`."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        folder.mkdir()
        for name in COPIED:
            path = source / name
            if path.is_dir():
                # Keeps the times of files, which is how Python knows that its caches are good.
                shutil.copytree(path, folder / name, symlinks=True)
            elif path.exists():
                shutil.copy2(path, folder / name)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """The copy with `mutant` in it. Raises Stale."""
        path = self.folder / mutant.file
        text, stat = path.read_text("utf-8"), path.stat()
        path.write_text(mutant.apply(text), "utf-8")
        # Python compares a source's second and size with its bytecode's; the fault may keep both.
        os.utime(path, (_LATER, _LATER))
        try:
            yield
        finally:
            path.write_text(text, "utf-8")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def test(
        self, tests: Sequence[str], limit: float, *options: str, keeps_caches: bool = False
    ) -> Ended:
        """Run these tests of the copy, until the first failure; `limit` is in seconds.

        Without `keeps_caches` no bytecode is written: that of a mutant must not outlive it.
        """
        command = [
            sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:randomly",
            "-p", "no:cacheprovider", "-o", f"timeout={_TEST_LIMIT}", *options, *tests,
        ]  # fmt: skip
        # In front of an editable installation, which leads to the checkout; children inherit it.
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        if not keeps_caches:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            self._process = process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if self._is_stopped:
                _kill(process)
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # What the tests have started as well: a mutant may have lost track of it.
                _kill(process)
                process.wait()
            output.seek(0)
            return Ended(code, output.read())

    def stop(self) -> None:
        """End the tests that run, and those that would be run next."""
        self._is_stopped = True
        if self._process is not None and self._process.poll() is None:
            _kill(self._process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all processes of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
