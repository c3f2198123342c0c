"""The source of EndpointSlices beside a fake API server: changes, old versions, cut watches,
refusals, and answers that are garbage. Whatever happens, the last servers stay."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from hermes_lb.discovery import watch as watch_module
from hermes_lb.discovery.sources import kubernetes as kubernetes_source
from hermes_lb.discovery.sources import kubernetes_api
from hermes_lb.discovery.sources.kubernetes import KubernetesOptions
from tests.discovery.followed import Followed, followed
from tests.support.kubernetes.objects import endpoint, endpoint_slice
from tests.support.kubernetes.server import FakeApiServer
from tests.support.waiting import turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

ONE = {"pod-1": "10.0.0.1:8000"}
TWO = {**ONE, "pod-2": "10.0.0.2:8000"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watch_module, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(watch_module, "_LAST_RETRY", 0.05)
    monkeypatch.setattr(kubernetes_api, "_LEAST_RETRY_AFTER", 0.01)
    monkeypatch.setattr(kubernetes_source, "_AT_ONCE", 0.02)
    caplog.set_level(logging.INFO, "hermes_lb.discovery")


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as server:
        server.store.put("endpointslices", endpoint_slice([endpoint("10.0.0.1", "pod-1")]))
        yield server


def kubernetes(api: FakeApiServer, **options: Any) -> AbstractAsyncContextManager[Followed]:
    table = {"service": "agents", "namespace": "default", "port": "http", "server": api.url}
    return followed({"kubernetes": table | options, "flap_hold": "0s"})


def scale(api: FakeApiServer, count: int, **about: Any) -> None:
    endpoints = [endpoint(f"10.0.0.{n}", f"pod-{n}") for n in range(1, count + 1)]
    api.store.put("endpointslices", endpoint_slice(endpoints, **about))


async def test_it_lists_and_watches(api: FakeApiServer) -> None:
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE))
        scale(api, 2)
        await until(lambda: found.is_at(TWO))
        scale(api, 1)
        await until(lambda: found.is_at(ONE))
        api.store.delete("endpointslices", "default", "agents-abc")
        scale(api, 2, name="agents-def")
        await until(lambda: found.is_at(TWO))
    assert api.lists() == 1
    await until(lambda: not api.watching)


async def test_a_terminating_pod_drains(api: FakeApiServer) -> None:
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE))
        ends = endpoint("10.0.0.1", "pod-1", ready=False, serving=True, terminating=True)
        api.store.put("endpointslices", endpoint_slice([ends, endpoint("10.0.0.2", "pod-2")]))
        await until(lambda: found.is_at(TWO))
        leaving = {name: one.leaves for name, one in found.watch.servers.items()}
        assert leaving == {"pod-1": True, "pod-2": False}


async def test_a_list_comes_in_pages(api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_api, "PAGE", 2)
    for n in range(1, 8):
        api.store.put(
            "endpointslices", endpoint_slice([endpoint(f"10.0.1.{n}", f"p{n}")], name=f"s{n}")
        )
    async with kubernetes(api) as found:
        await until(lambda: len(found.watch.servers) == 8)
    assert sum("continue" in query for _, _, query in api.requests) == 3


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_version_that_is_too_old_means_another_list(
    api: FakeApiServer, in_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.expire_in_stream = in_stream
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE) and api.watching)
        api.faults.expire_versions = 1
        api.faults.drop_watches = 1
        scale(api, 2)
        await until(lambda: found.is_at(TWO) and api.lists() == 2 and api.watching)
        # What did not change was not reported again.
        assert [[s.name for s in delta.servers] for delta in found.deltas] == [["pod-1"], ["pod-2"]]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_bookmarks_keep_the_version_young(api: FakeApiServer) -> None:
    """Changes of others move the version on; when the history is dropped, the watch is not lost."""
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE) and api.watching)
        api.store.put("endpointslices", endpoint_slice([], name="other", service="other"))
        version = api.store.version
        await until(lambda: version in api.bookmarks)
        await turns()  # it has been read
        api.store.compact()
        api.faults.drop_watches = 1
        scale(api, 2)
        await until(lambda: found.is_at(TWO))
        scale(api, 1)
        await until(lambda: found.is_at(ONE))
    assert api.lists() == 1


async def test_cut_watches_lose_nothing(api: FakeApiServer) -> None:
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE) and api.watching)
        for count in (2, 1) * 5:
            api.faults.drop_watches = 1
            scale(api, count)
            await until(lambda count=count: len(found.watch.servers) == count)  # type: ignore[misc]
    assert api.lists() == 1


async def fails(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture, line: str, **options: Any
) -> None:
    """With a set that is known: the fault costs one line, and nothing changes."""
    async with kubernetes(api, **options) as found:
        await until(lambda: line in caplog.text)
        await until(lambda: found.watch.failures >= 3)
        assert caplog.text.count(line) == 1
        assert found.deltas == []
        assert found.watch.has_answered.is_set()


def token(**claims: float) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{part}.s"


async def test_rbac(api: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    api.allowed = {("get", "pods")}
    await fails(api, caplog, "may not list and watch endpointslices (403)")
    assert "system:serviceaccount:default:lb" in caplog.text


async def test_a_watch_that_is_not_allowed(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    api.allowed = {("list", "endpointslices")}
    async with kubernetes(api) as found:
        await until(lambda: "cannot watch resource" in caplog.text)
        assert found.is_at(ONE)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"namespace": "prod"}, "service agents in namespace prod has no EndpointSlice"),
        ({"service": "agnts"}, "service agnts in namespace default has no EndpointSlice"),
        ({"port": "htp"}, "has no port htp; it has http (8000)"),
    ],
)
async def test_wrong_names_are_one_line(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture, options: dict[str, Any], line: str
) -> None:
    async with kubernetes(api, **options) as found:
        await until(lambda: line in caplog.text)
        assert found.watch.servers == {}
        assert found.watch.failures == 0
        await until(lambda: found.watch.has_answered.is_set())
    assert caplog.text.count(line) == 1


async def test_no_ready_endpoint_keeps_the_last_ones(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE))
        unready = endpoint("10.0.0.1", "pod-1", ready=False)
        api.store.put("endpointslices", endpoint_slice([unready]))
        await until(lambda: "the last 1 stay for 30s" in caplog.text)
        assert "has no ready endpoint, 1 not ready" in caplog.text
        assert found.is_at(ONE)


async def test_a_token_is_read_again_as_it_rotates(api: FakeApiServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    api.tokens = {"first"}
    options = KubernetesOptions.model_validate({"service": "agents", "server": "https://a"})
    assert options.token_file is None
    source = kubernetes_api.KubernetesApi(api.url, str(file), None)
    try:
        assert [page async for page in source.pages("/api/v1/pods", {})]
        file.write_text("second\n")
        api.tokens = {"second"}
        assert [page async for page in source.pages("/api/v1/pods", {})]
    finally:
        await source.close()
    assert api.faults.refused == []


@pytest.mark.parametrize(
    ("claims", "date", "doubt"),
    [
        ({"exp": 1000.0}, None, "s ago and was not replaced"),
        ({"exp": 9e9}, "Thu, 01 Jan 2026 00:00:00 GMT", ": the clocks differ by "),
        ({"exp": 9e9}, None, "the API server refuses the token (401);"),
    ],
)
async def test_a_refused_token(
    api: FakeApiServer, claims: dict[str, float], date: str | None, doubt: str, tmp_path: Path
) -> None:
    api.tokens, api.faults.date = set(), date
    file = tmp_path / "token"
    file.write_text(token(**claims))
    client = kubernetes_api.KubernetesApi(api.url, str(file), None)
    try:
        with pytest.raises(kubernetes_api.DiscoveryFailed) as failed:
            [page async for page in client.pages("/api/v1/pods", {})]
    finally:
        await client.close()
    assert doubt in f"{failed.value};"
    assert token(**claims) not in str(failed.value)


async def test_a_certificate_of_another_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    expired = datetime.now(UTC) - timedelta(days=1)
    certificate = authority.issue_cert("127.0.0.1", not_after=expired)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    async with FakeApiServer(tls=context) as api:
        await fails(api, caplog, "certificate has expired: check the clocks", ca_file=str(ca))


async def test_fewer_requests_are_asked_for(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.too_many = 2
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE))
    assert found.watch.failures == 2
    assert caplog.text.count("asks for fewer requests (429)") == 1
    assert "discovery by kubernetes works again" in caplog.text


def test_how_long_a_server_may_ask_to_wait() -> None:
    assert kubernetes_api._MOST_RETRY_AFTER == 300.0


async def test_a_server_that_fails_later(
    api: FakeApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE) and api.watching)
        api.faults.errors = 3
        api.faults.drop_watches = 1
        scale(api, 2)
        await until(lambda: "the API server answers 500: etcdserver" in caplog.text)
        await until(lambda: found.is_at(TWO))
    assert caplog.text.count("answers 500") == 1


async def test_a_server_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeApiServer() as api:
        scale(api, 1)
        async with kubernetes(api) as found:
            await until(lambda: found.is_at(ONE))
            await api.__aexit__()
            await until(lambda: "can't be reached" in caplog.text)
            await until(lambda: found.watch.failures >= 3)
            assert found.is_at(ONE)
    assert caplog.text.count("can't be reached") == 1
    assert "the last 1 servers stay" in caplog.text


async def test_slow_pages(api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    api.faults.slow_list = 0.2
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE))


async def test_a_page_that_never_comes(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.slow_list = 100.0
    monkeypatch.setattr(kubernetes_api, "_PAGE_TAKES", 0.05)
    await fails(api, caplog, "does not answer in time")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "is no JSON"),
        (b"<html>", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no object"),
        (b'{"items": [5]}', "an EndpointSlice that is no object"),
        (b'{"items": [{}]}', "an EndpointSlice without a name"),
        (b" " * 5000, "more than 0 MiB"),
        (b'{"metadata": {"continue": "again"}, "items": []}', "does not end after 3 pages"),
    ],
)
async def test_lists_that_are_garbage(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    body: bytes, line: str,
) -> None:  # fmt: skip
    if body.startswith(b" "):
        monkeypatch.setattr(kubernetes_api, "MOST_BYTES", 4096)
    monkeypatch.setattr(kubernetes_api, "MOST_PAGES", 3)
    api.faults.list_body = body
    await fails(api, caplog, line)


@pytest.mark.parametrize(
    ("body", "times", "line"),
    [
        (b"garbage\n", 1, "is no JSON"),
        (b'{"type": "WHAT"}\n', 1, "an event of an unknown type"),
        (b'{"type": "ADDED", "object": null}\n', 1, "an EndpointSlice that is no object"),
        (
            b'{"type": "ERROR", "object": {"code": 500}}\n',
            1,
            "ends the watch with an error, code 500",
        ),
        (b'{"type": "ERROR"}\n', 1, "ends the watch with an error, code None"),
        (b"x" * 1000, 100, "a line of a watch of the API server has more than 0 MiB"),
        (b"", 1, "ends each watch at once"),
        (b"\n", 1, "ends each watch at once"),
    ],
)
async def test_watches_that_are_garbage(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    body: bytes, times: int, line: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(kubernetes_api, "MOST_BYTES", 4096)
    api.faults.watch_body, api.faults.watch_times = body, times
    async with kubernetes(api) as found:
        await until(lambda: line in caplog.text)
        assert found.is_at(ONE)
        api.faults.watch_body = None  # then it goes on
        scale(api, 2)
        await until(lambda: found.is_at(TWO))


async def test_an_endless_flood_of_events_leaves_the_loop_to_others(api: FakeApiServer) -> None:
    mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "1000"}}}
    api.faults.watch_body = (json.dumps(mark) + "\n").encode() * 100
    api.faults.watch_times = 1_000_000_000
    async with kubernetes(api) as found:
        await until(lambda: found.is_at(ONE) and api.watching)
        await turns(100)  # each of them has its place between two parts
        assert api.watching


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"server": "http://a", "token_file": "t"}, "needs a server with https"),
        ({"server": "ftp://a"}, "a URL such as"),
        ({"service": "Agents"}, "lower-case"),
        ({"namespace": "a/b"}, "lower-case"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], problem: str) -> None:
    from hermes_lb import config

    with pytest.raises(config.ConfigError) as refused:
        config.load_config(
            {
                "frontends": [{"name": "web", "bind": "127.0.0.1:0", "default_backend": "a"}],
                "backends": {"a": {"discovery": {"kubernetes": {"service": "agents", **options}}}},
            }
        )
    assert problem in str(refused.value)


async def test_outside_of_a_pod(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with followed({"kubernetes": {"service": "agents"}}):
        await until(lambda: "not in a pod" in caplog.text)
    assert "no server is known yet" in caplog.text
