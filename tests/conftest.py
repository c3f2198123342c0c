"""What all tests have: the sets that `--suite` selects, hypothesis' profiles, and a stage.

`make test` runs the default set, in under four minutes on two cores. Left out are the tests marked
`slow` (real processes and real time, seconds each) and those that repeat another one: `other_loop`
on asyncio's own loop, `other_version` by HTTP/2. Property tests have a tenth of their examples.

    make test                          the default set
    make test ARGS="--suite rest"      what it leaves out, and property tests with all examples
    make test ARGS="--suite all"       everything once, property tests with all examples
    make test-compiled                 the default set and HTTP/2's repetitions on compiled modules,
                                       but for `pure_only`

pytest's last line has the number of the tests that were deselected.
"""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_timeout
from hypothesis import HealthCheck, is_hypothesis_test, settings

from hermes_lb.build import BUILD, IS_COMPILED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stage import Stage

# How long an example takes depends on the machine. `tests.support.examples` scales by the profile.
_HYPOTHESIS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("all", max_examples=100, **_HYPOTHESIS)
settings.register_profile("default", max_examples=10, **_HYPOTHESIS)

_HERE = Path(__file__).parent

# Compiled modules have a single run, and HTTP/2 is among them.
_LEFT_OUT = ("slow", "other_loop") if IS_COMPILED else ("slow", "other_loop", "other_version")

# Folders whose tests with a stage are repeated by HTTP/2, but for `http1_only`: `other_version`,
# except for what an attacker sends.
_BY_BOTH_VERSIONS = {
    "affinity", "backends", "control", "discovery", "health", "hostile", "limits", "listen",
    "observe", "proxy", "transport",
}  # fmt: skip
_ALSO_BY_DEFAULT = {"hostile", "limits"}


@pytest.fixture
def http_version(request: pytest.FixtureRequest) -> str:
    """The version of HTTP that the clients of a stage speak."""
    return getattr(request, "param", "1.1")


@pytest.fixture
async def stage(tmp_path: Path, http_version: str) -> AsyncIterator[Stage]:
    from tests.support.stage import Stage  # not for tests without a balancer

    async with Stage(tmp_path, http_version) as running:
        yield running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--suite",
        choices=["default", "rest", "all"],
        default="default",
        help="default: without slow, other_loop and other_version; rest: these, and property tests",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a stage says what requests mean, and so is one of both versions."""
    definition = metafunc.definition
    is_here = _HERE in definition.path.parents  # tests/test_suites.py has others
    folder = definition.path.relative_to(_HERE).parts[0] if is_here else ""
    if "http_version" in metafunc.fixturenames and folder in _BY_BOTH_VERSIONS:
        is_both = definition.get_closest_marker("http1_only") is None
        versions = ["1.1", "2"] if is_both else ["1.1"]
        metafunc.parametrize("http_version", versions, ids=lambda it: f"http{it}", indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("default" if config.option.suite == "default" else "all")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: most tests wait longer than they compute; a slow one has a core to itself."""
    return round((os.cpu_count() or 1) * (2.5 if config.option.suite == "default" else 1))


def pytest_report_header(config: pytest.Config) -> str:
    return f"suite: {config.option.suite} (--suite all runs every test); hermes_lb: {BUILD}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import the tests, each of xdist's workers from a place of its own.

    In a fresh clone the assertions of a module are rewritten by the worker that comes first, and
    the others find its byte code. In the same order each of them would rewrite all modules.
    """
    config = session.config
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    paths = sorted(_HERE.glob("**/test_*.py"))
    first = int(worker["workerid"].removeprefix("gw")) * len(paths) // worker["workercount"]
    for path in paths[first:] + paths[:first]:
        name = ".".join(path.relative_to(_HERE.parent).with_suffix("").parts)
        # What can't be imported is reported by the collection, which imports it again.
        with suppress(Exception, pytest.skip.Exception):
            import_module(name)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The only place where a test is left out: by its mark, and counted as deselected."""
    suite = config.option.suite
    kept: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        if _is_by_http2(item):
            # The mark of a row, not of the whole test; and no stream is "behind" another one.
            if item.get_closest_marker("http1_only") or _way(item) == "followed":
                continue
            folder = item.path.relative_to(_HERE).parts[0]
            if folder not in _ALSO_BY_DEFAULT or _way(item) == "bytewise":
                item.add_marker("other_version")
        if _is_on_the_other_loop(item):
            item.add_marker("other_loop")
        is_left_out = any(item.get_closest_marker(name) for name in _LEFT_OUT)
        if IS_COMPILED and item.get_closest_marker("pure_only"):
            kept[False].append(item)
        elif suite == "rest":
            kept[is_left_out or _is_a_property_test(item)].append(item)
        else:
            kept[suite == "all" or not is_left_out].append(item)
    items[:] = kept[True]
    if kept[False]:
        config.hook.pytest_deselected(items=kept[False])
    if hasattr(config, "workeroutput"):  # of pytest-xdist, which drops what its workers deselect
        config.workeroutput["deselected"] = len(kept[False])


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of each later collection of garbage: half a second each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Start the timer again: pytest-timeout ends it when a test fails, and a teardown may hang."""
    settings = pytest_timeout._get_item_settings(item)
    hooks = item.config.pluginmanager.hook
    if settings.timeout:
        hooks.pytest_timeout_cancel_timer(item=item)
        hooks.pytest_timeout_set_timer(item=item, settings=settings)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Count what xdist's workers have deselected, which is the same for each of them."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and hasattr(node, "workeroutput"):
        count = node.workeroutput.get("deselected", 0)
        reporter.stats["deselected"] = [SimpleNamespace() for _ in range(count)]


def _is_on_the_other_loop(item: pytest.Item) -> bool:
    """pytest-asyncio repeats a test for each of its loops, which are a parameter of it."""
    callspec = getattr(item, "callspec", None)
    parameters = {} if callspec is None else callspec.params
    return parameters.get("_asyncio_loop_factory") is asyncio.SelectorEventLoop


def _is_by_http2(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("http_version") == "2"


def _way(item: pytest.Item) -> str:
    """In which the bytes of hostile input come: `tests.support.hostile.Way`."""
    callspec = getattr(item, "callspec", None)
    way = None if callspec is None else callspec.params.get("way")
    return str(getattr(way, "value", ""))


def _is_a_property_test(item: pytest.Item) -> bool:
    """Also one that calls hypothesis by itself, and carries its mark."""
    is_marked = item.get_closest_marker("hypothesis") is not None
    return is_marked or is_hypothesis_test(getattr(item, "obj", None))
