"""Failing handlers and faults: the client gets an error or is cut; the test fails at its end."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hermes_lb.testing import PATIENCE, Answer, Request, Rig, Server, eventually, faults
from tests.support.aiohttp_client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Escaped(Exception):
    """Of a handler, on purpose."""


async def errors_of(server: Server) -> list[BaseException]:
    """Taken from it, so that they are not this test's own, once all its requests are over."""
    await eventually(lambda: not server.in_flight)
    taken, server.errors = server.errors, []
    return taken


@pytest.mark.parametrize("name", ["content-length", "Transfer-Encoding", "transfer-encoding"])
async def test_a_field_of_its_framing_is_the_answers_own_however_it_is_spelt(name: str) -> None:
    """As it is in headers that were copied from another response."""

    async def answer(request: Request) -> tuple[int, dict[str, str], Any]:
        async def pieces() -> AsyncIterator[str]:
            yield "abc"

        return (200, {name: "3"}, "abc") if "length" in name else (200, {name: "chunked"}, pieces())

    async with Rig() as rig, aiohttp.ClientSession() as session:
        lb = await rig.balancer(*await rig.servers(handler=answer))
        async with session.get(lb.url) as response:
            assert (response.status, await response.text()) == (200, "abc")


async def test_a_connection_ends_when_it_is_asked_to_however_that_is_spelt() -> None:
    async with Rig() as rig:
        [one] = await rig.servers()
        reader, writer = await asyncio.open_connection(*one.address.split(":"))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read()).endswith(b"one")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ((200, {}, {"a": 1}), r"TypeError.*a body is text.*not \{'a': 1\} \(JSON: json.dumps\)"),
        ((200, {}, [b"a"]), r"TypeError.*a body is text"),
        ((200, {}, None), r"TypeError.*a body is text.*not None"),
        ((200, [("A", "b")]), r"TypeError.*headers map names to values"),
        ((200, {"X-Name": "日本"}), r"ValueError.*header X-Name .*latin-1.*日本.*quote"),
        ((99, {}, ""), r"ValueError.*from 200 to 999, not 99"),
        ("hello", r"TypeError.*a handler returns .*; this one returned 'hello'"),
        (None, r"TypeError.*; this one returned None"),
        ((200, {}, "", ""), r"TypeError.*a handler returns "),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_an_error(returned: Any, said: str) -> None:
    async def wrong(request: Request) -> Any:
        return returned

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers(handler=wrong)
        status, text = await client.get(one.url)
        [error] = await errors_of(one)
    assert (status, text) == (500, f"the handler of one failed: {error!r}\n")
    assert re.match(said, f"{type(error).__name__}: {error}")


async def test_a_handler_that_is_no_async_function_is_an_error() -> None:
    def plain(request: Request) -> Any:
        return Answer()

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers(handler=plain)
        assert (await client.get(one.url))[0] == 500
        [error] = await errors_of(one)
    assert "async def" in str(error)


@pytest.mark.parametrize("kind", [Escaped, OSError, TimeoutError])
async def test_an_exception_in_a_handler_answers_500_and_says_for_what(
    kind: type[Exception],
) -> None:
    """An OSError as well: it is the handler's own, not the connection's."""
    error = kind()

    async def broken(request: Request) -> Answer:
        raise error

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers(handler=broken)
        assert (await client.get(f"{one.url}/a?b"))[0] == 500
        assert await errors_of(one) == [error]
    assert error.__notes__ == ["while server one answered GET /a?b"]


@pytest.mark.parametrize("kind", [Escaped, OSError])
async def test_an_exception_in_a_stream_cuts_it_and_is_an_error(kind: type[Exception]) -> None:
    error = kind()

    async def broken(request: Request) -> Answer:
        async def tokens() -> AsyncIterator[str]:
            yield "first"
            raise error

        return Answer(body=tokens())

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers(handler=broken)
        lb = await rig.balancer(one)
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.get(lb.url)
        assert (await lb.record()).termination == "SD"
        assert await errors_of(one) == [error]


async def leave_in_a_stream(rig: Rig, *, fails_at_its_end: bool) -> Server:
    has_ended = asyncio.Event()

    async def endless(request: Request) -> Answer:
        async def tokens() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 10_000
            finally:
                has_ended.set()
                if fails_at_its_end:
                    raise Escaped

        return Answer(body=tokens())

    [one] = await rig.servers(handler=endless)
    async with aiohttp.ClientSession() as session, session.get(one.url) as response:
        assert await response.content.readexactly(1) == b"x"
    await has_ended.wait()
    return one


async def test_a_client_that_leaves_in_a_stream_is_no_error_and_ends_the_iterator() -> None:
    async with Rig() as rig:
        one = await leave_in_a_stream(rig, fails_at_its_end=False)
        assert await errors_of(one) == []


async def test_an_exception_at_the_end_of_an_iterator_is_an_error_too() -> None:
    async with Rig() as rig:
        one = await leave_in_a_stream(rig, fails_at_its_end=True)
        [error] = await errors_of(one)
    assert isinstance(error, Escaped)


async def test_an_exception_in_a_fault_of_your_own_is_an_error() -> None:
    class Broken(faults.Fault):
        def replaces(self, request: Request, server: Server) -> Answer:
            raise Escaped

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers()
        one.fault = Broken()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.session.post(one.url)
        [error] = await errors_of(one)
    assert isinstance(error, Escaped)


@pytest.fixture
def broken() -> tuple[Any, list[BaseException]]:
    """A handler that always fails, and its errors."""
    raised: list[BaseException] = []

    async def handler(request: Request) -> Answer:
        raised.append(Escaped(f"for {request.target}"))
        raise raised[-1]

    return handler, raised


async def test_what_escaped_is_raised_at_the_end(broken: tuple[Any, list[BaseException]]) -> None:
    handler, raised = broken

    async def run() -> None:
        async with Rig() as rig, Client() as client:
            for server in await rig.servers(2, handler=handler):
                await client.get(server.url)

    with pytest.raises(ExceptionGroup, match="handlers or faults") as caught:
        await run()
    assert list(caught.value.exceptions) == raised
    assert len(raised) == 2


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
async def test_the_tests_own_error_goes_on_with_what_escaped_as_its_notes(
    broken: tuple[Any, list[BaseException]], kind: type[BaseException]
) -> None:
    handler, _ = broken
    own = kind()

    async def run() -> None:
        async with Rig() as rig, Client() as client:
            [one] = await rig.servers(handler=handler)
            await client.get(f"{one.url}/a")
            raise own

    with pytest.raises(kind) as caught:
        await run()
    assert caught.value is own
    [note] = own.__notes__
    assert note.startswith("Besides, a handler or fault of the test's servers failed:\nTraceback")
    assert "Escaped: for /a\nwhile server one answered GET /a" in note
