"""A plugin of pytest: `-p tests.phases.plugin --record-phases FILE`.

With pytest-xdist each worker records, and the recordings are merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.phases.recorder import Recorder
from tests.phases.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-phases",
        type=Path,
        metavar="FILE",
        help="record what each event does to the phase and deadline of exchanges",
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--record-phases")
    if path is not None:
        config.pluginmanager.register(_Plugin(config, path), "phases")


class _Plugin:
    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._path = path
        self._output: dict[str, Any] | None = getattr(config, "workeroutput", None)
        self._recorder = Recorder()
        self._merged = self._recorder.recording

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        with self._recorder:
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._recorder.begin_test(nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended; one that crashed has recorded nothing."""
        text = getattr(node, "workeroutput", {}).get("phases")
        if text is not None:
            self._merged.merge(Recording.loads(text), same_run=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._output is not None:
            self._output["phases"] = self._merged.dumps()
        else:
            self._path.write_text(self._merged.dumps())
