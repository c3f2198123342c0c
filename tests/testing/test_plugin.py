"""The plugin in other test suites, each in its own process and folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # a pytest in each test

pytest_plugins = ["pytester"]

SUITE = """
import asyncio
{imports}

async def get(url):
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer

{mark}
async def test_round_robin(balanced_servers, load_balancer):
    one, two = await balanced_servers(2)
    lb = await load_balancer(one, two, balance="round_robin")
    assert (await get(lb.url)).endswith(b"one")
    assert (await get(lb.url)).endswith(b"two")
    assert await lb.served(2) == ["one", "two"]

{mark}
async def test_order_of_fixtures(load_balancer, balanced_servers):
    [one] = await balanced_servers(1)
    lb = await load_balancer(one)
    assert (await get(lb.url)).endswith(b"one")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """Warnings are errors there: an unclosed socket is one."""
    configure(pytester, loop_scope="function")
    return pytester


def configure(suite: pytest.Pytester, *, loop_scope: str) -> None:
    suite.makeini(
        f"[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = {loop_scope}\n"
    )


def write(suite: pytest.Pytester, *, imports: str = "", mark: str = "") -> None:
    suite.makepyfile(SUITE.format(imports=imports, mark=mark))


ARGUMENTS = ("-p", "no:randomly", "-p", "no:cacheprovider")


def test_it_works_with_pytest_asyncio_in_auto_mode(suite: pytest.Pytester) -> None:
    write(suite)
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "-p", "no:aiohttp", "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=2)


def test_it_works_with_pytest_asyncio_in_strict_mode(suite: pytest.Pytester) -> None:
    write(suite, imports="import pytest", mark="@pytest.mark.asyncio")
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "-p", "no:aiohttp", "--asyncio-mode=strict")
    outcome.assert_outcomes(passed=2)


def test_it_works_beside_the_fixtures_of_pytest_aiohttp(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from aiohttp import web

        async def hello(request):
            return web.Response(text="hello")

        async def test_it(aiohttp_server, aiohttp_client, load_balancer):
            app = web.Application()
            app.router.add_get("/", hello)
            server = await aiohttp_server(app)
            lb = await load_balancer(f"127.0.0.1:{server.port}")
            front = web.Application()
            client = await aiohttp_client(front)
            async with client.session.get(lb.url) as response:
                assert await response.text() == "hello"
            assert await lb.served() == ["address1"]
        """
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=1)


def test_it_works_in_parallel(suite: pytest.Pytester) -> None:
    write(suite, imports="import pytest", mark='@pytest.mark.parametrize("n", range(3))')
    source = next(suite.path.glob("*.py"))
    source.write_text(source.read_text().replace("(balanced_servers,", "(n, balanced_servers,"))
    source.write_text(source.read_text().replace("(load_balancer,", "(n, load_balancer,"))
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "-n", "2", "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=6)


def test_a_mistake_in_a_configuration_is_shown_where_the_test_made_it(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        async def test_it(load_balancer):
            await load_balancer("127.0.0.1:1", balance="round_robbin")
        """
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=auto")
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*round_robbin*did you mean*"])
    frames = [line for line in outcome.outlines if re.match(r"\S+\.py:\d+: ", line)]
    assert len(frames) == 1, frames
    assert frames[0].startswith("test_")


def test_it_can_be_turned_off(suite: pytest.Pytester) -> None:
    write(suite)
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "-p", "no:hermes_lb", "--asyncio-mode=auto")
    outcome.assert_outcomes(errors=2)
    outcome.stdout.fnmatch_lines(["*fixture 'balanced_servers' not found*"])


def test_an_error_in_a_handler_is_the_tests_error(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        SUITE.format(imports="", mark="")
        + """
async def test_broken(balanced_servers):
    async def broken(request):
        raise KeyError("this one")
    [one] = await balanced_servers(1, handler=broken)
    assert b" 500 " in await get(one.url)
"""
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=3, errors=1)
    outcome.stdout.fnmatch_lines(["*KeyError: 'this one'*"])


def test_a_test_that_fails_shows_what_its_balancers_noted(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        SUITE.format(imports="from hermes_lb.testing import faults", mark="")
        + """
async def test_failing(balanced_servers, load_balancer):
    one, two = await balanced_servers(2)
    lb = await load_balancer(one, two, retries=0, balance="round_robin")
    for _ in range(24):
        assert b" 200 " in await get(lb.url)
    one.fault = faults.Fail(500)
    assert b" 200 " in await get(lb.url)
"""
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=2, failed=1)
    outcome.stdout.fnmatch_lines(
        [
            "*what hermes_lb noted*",
            "<Server one 127.0.0.1:* listens, 13 requests>",
            "<Server two 127.0.0.1:* listens, 12 requests>",
            "<LoadBalancer running, http://127.0.0.1:*>",
            "5 records, and:",
            "127.0.0.1:* public servers/two * 200 *",
            "127.0.0.1:* public servers/one * 500 * ---- *",
        ]
    )


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        ('yield b"a"\n        raise KeyError("this one")', "KeyError: 'this one'"),
        ('yield b"a"\n        pytest.fail("this one")', "Failed: this one"),
        ('yield {"a": 1}', "TypeError: a body is text, bytes*"),
    ],
)
def test_an_error_in_a_stream_is_the_tests_error(
    suite: pytest.Pytester, stream: str, error: str
) -> None:
    suite.makepyfile(
        SUITE.format(imports="import pytest", mark="")
        + f"""
async def test_broken(balanced_servers):
    async def broken(request):
        return 200, {{}}, tokens()
    async def tokens():
        {stream}
    [one] = await balanced_servers(1, handler=broken)
    answer = await get(one.url)
    assert b" 200 " in answer and not answer.endswith(b"0\\r\\n\\r\\n")
"""
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=auto")
    outcome.assert_outcomes(passed=3, errors=1)
    outcome.stdout.fnmatch_lines([f"*{error}*", "*while server one answered GET /"])


def test_another_loop_than_the_tests_is_named(suite: pytest.Pytester) -> None:
    write(suite, imports="import pytest", mark='@pytest.mark.asyncio(loop_scope="module")')
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=strict")
    outcome.assert_outcomes(failed=2)
    outcome.stdout.fnmatch_lines(["*different event loops*asyncio_default_fixture_loop_scope*"])
    configure(suite, loop_scope="module")
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "--asyncio-mode=strict")
    outcome.assert_outcomes(passed=2)


def test_unused_it_loads_neither_aiohttp_nor_uvloop(suite: pytest.Pytester, tmp_path: Path) -> None:
    suite.makepyfile(
        """
        import sys

        def test_it():
            ours = sorted(name for name in sys.modules if name.startswith("hermes_lb.testing"))
            assert ours == ["hermes_lb.testing", "hermes_lb.testing.plugin"]
            assert not {"aiohttp", "uvloop", "httptools"} & sys.modules.keys()
        """
    )
    outcome = suite.runpytest_subprocess(*ARGUMENTS, "-p", "no:aiohttp", "-p", "no:xdist")
    outcome.assert_outcomes(passed=1)
