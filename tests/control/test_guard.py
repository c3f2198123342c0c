"""Access control of the admin listener: hosts, tokens, origins, TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from pydantic import ValidationError

from hermes_lb.config import Admin
from hermes_lb.control import AdminServer, api, guard, strangers
from tests.support.operator import TOKEN, FakeOperator, admin_listener

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.operator import Client

DRAIN = "/api/v1/servers/agents/agent1/state"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Without a token.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9900", 200),
        ("127.9.8.7:1", 200),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("[::1]:9900", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("evil.example", 403),
        ("evil.example:9900", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1:9900", 403),
        ("[2001:db8::1]", 403),
        ("::1", 403),
        ("127.0.0.1@evil.example", 403),
        ("localhost evil", 403),
        ("localhost:9900:1", 403),
        ("", 403),
    ],
)
async def test_foreign_hosts_are_refused(host: str, status: int) -> None:
    async with admin_listener() as client:
        for path in ("/", "/metrics") if status == 200 else ("/", "/healthz", "/missing"):
            response, _ = await client.ask(path, headers={"Host": host})
            assert response.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://127.0.0.1/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
    ids=["no host", "two hosts", "absolute form"],
)
async def test_odd_hosts_get_no_metrics(head: bytes) -> None:
    async with admin_listener() as client:
        assert await status_of(client, head) in (400, 403)


async def status_of(client: Client, head: bytes) -> int:
    """The status of the response to these bytes."""
    reader, writer = await asyncio.open_connection(*client.admin.address)
    writer.write(head)
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("configured", [{}, {"token": TOKEN}], ids=["open", "token"])
async def test_haproxy_s_option_httpchk_is_answered(
    method: bytes, configured: dict[str, Any]
) -> None:
    async with admin_listener(**configured) as client:
        assert await status_of(client, method + b" /healthz HTTP/1.0\r\n\r\n") == 200


@pytest.mark.parametrize("path", ["/", "/healthz"])
@pytest.mark.parametrize("configured", [{}, {"token": TOKEN}], ids=["open", "token"])
async def test_haproxy_s_default_check_is_answered_as_healthz(
    path: str, configured: dict[str, Any]
) -> None:
    async with admin_listener(**configured) as client:
        check = f"OPTIONS {path} HTTP/1.0\r\n\r\n".encode()
        assert await status_of(client, check) == 200
        response, _ = await client.ask(path, "OPTIONS")
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
        client.operator.is_draining = True
        assert await status_of(client, check) == 503


@pytest.mark.parametrize(
    "head",
    [
        b"OPTIONS / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"OPTIONS / HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n",
        b"OPTIONS /metrics HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
async def test_what_is_no_probe_needs_its_host(head: bytes) -> None:
    async with admin_listener() as client:
        assert await status_of(client, head) == 403


@pytest.mark.parametrize("field", [b"Origin: http://evil.example", b"Sec-Fetch-Site: cross-site"])
async def test_what_a_browser_sends_without_a_host_is_refused(field: bytes) -> None:
    async with admin_listener() as client:
        assert await status_of(client, b"GET /healthz HTTP/1.0\r\n" + field + b"\r\n\r\n") == 403


async def test_answers_do_not_tell_what_they_are_made_with() -> None:
    async with admin_listener() as client:
        for path in ("/healthz", "/missing", "/metrics", "/"):
            response, _ = await client.ask(path)
            assert response.headers["Server"] == "hermes_lb"


# With a token.


@pytest.mark.parametrize("path", ["/api/v1/servers", "/api/v1/events", "/metrics", "/missing"])
async def test_without_the_token_nothing_is_reported(path: str) -> None:
    async with admin_listener(token=TOKEN) as client:
        response, text = await client.ask(path)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="hermes_lb"'
        assert "agent1" not in text


async def test_with_the_token_all_is_open_under_any_host() -> None:
    async with admin_listener(token=TOKEN) as client:
        headers = {**bearer(TOKEN), "Host": "lb.example:9900"}
        assert await client.get("/api/v1/servers", headers=headers)
        status, _ = await client.send("PUT", DRAIN, {"state": "drain"}, **headers)
        assert status == 200


@pytest.mark.parametrize("path", ["/healthz", "/", "/page/style.css", "/api/v1/"])
async def test_healthz_and_the_files_need_no_token(path: str) -> None:
    async with admin_listener(token=TOKEN) as client:
        response, _ = await client.ask(path, headers={"Host": "lb.example"})
        assert response.status == 200


@pytest.mark.parametrize(
    "header", [f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
               "Bearer \u00fc"],
)  # fmt: skip
async def test_whatever_is_not_the_token_is_refused(
    header: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "_PENALTY", 0.0)
    async with admin_listener(token=TOKEN) as client:
        response, _ = await client.ask("/api/v1/servers", headers={"Authorization": header})
        assert response.status == 401
    assert TOKEN not in caplog.text


async def test_wrong_tokens_wait_and_are_reported_in_the_log_and_too_many_are_turned_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "_MOST_WAITING", 0)
    async with admin_listener(token=TOKEN) as client:
        response, _ = await client.ask("/metrics", headers=bearer("wrong"))
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert await client.get("/api/v1/servers", headers=bearer(TOKEN))
        monkeypatch.setattr(guard, "_MOST_WAITING", 1)
        monkeypatch.setattr(guard, "_PENALTY", 0.0)
        response, _ = await client.ask("/metrics", headers=bearer("wrong"))
        assert response.status == 401
    assert "a wrong token came from 127.0.0.1" in caplog.messages


async def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with admin_listener(token_file=str(file)) as client:
        assert await client.get("/api/v1/servers", headers=bearer(TOKEN))
        assert (await client.ask("/api/v1/servers"))[0].status == 401
    monkeypatch.setenv("HERMES_LB_ADMIN_TOKEN", TOKEN)
    async with admin_listener(bind="0.0.0.0:0") as client:
        assert client.url.startswith("http://127.0.0.1:")
        assert await client.get("/api/v1/servers", headers=bearer(TOKEN))
        assert (await client.ask("/api/v1/servers"))[0].status == 401


async def test_a_new_token_in_the_file_holds_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_PENALTY", 0.0)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with admin_listener(token_file=str(file)) as client:
        assert await client.get("/api/v1/servers", headers=bearer(TOKEN))
        file.write_text(f"{TOKEN}-new\n")
        response, _ = await client.ask("/api/v1/servers", headers=bearer(TOKEN))
        assert response.status == 401
        assert await client.get("/api/v1/servers", headers=bearer(f"{TOKEN}-new"))
        other = tmp_path / "other"
        other.write_text(TOKEN)
        other.replace(file)  # same size as the first, another inode
        assert await client.get("/api/v1/servers", headers=bearer(TOKEN))


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_token_file_that_can_no_longer_be_used_is_reported_once_and_the_token_stays(
    tmp_path: Path, is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with admin_listener(token_file=str(file)) as client:
        if is_there:
            file.write_text("")
        else:
            file.unlink()
        for _ in range(2):
            assert await client.get("/api/v1/servers", headers=bearer(TOKEN))
            assert (await client.ask("/api/v1/servers"))[0].status == 401
    [message] = caplog.messages
    assert message.startswith("the admin token stays as it was: ")
    assert str(file) in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"can't read .*token \(admin\.token_file\): No such file"), ("\n", "is empty")],
    ids=["missing", "empty"],
)
async def test_a_token_file_without_a_token_is_reported(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    admin = AdminServer(
        Admin.model_validate({"bind": "127.0.0.1:0", "token_file": str(file)}), FakeOperator()
    )
    with pytest.raises((OSError, ValueError), match=message):
        await admin.start()


@pytest.mark.parametrize(
    ("token", "problem"), [("short", "16"), ("with a space in it", "pattern"), ("", "16")]
)
def test_a_token_that_is_none_is_reported(token: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Admin.model_validate({"token": token})


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(Admin.model_validate({"token": TOKEN}))


async def test_connections_that_never_ask_for_what_they_may_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strangers, "EVERY", 0.05)
    monkeypatch.setattr(api, "_EVERY", 0.05)
    async with admin_listener(token=TOKEN) as client:
        events = client.url + "/api/v1/events"
        async with client.http.get(events, headers=bearer(TOKEN)) as stream:
            for sent in (b"", b"GET /metr", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
                reader, writer = await asyncio.open_connection(*client.admin.address)
                writer.write(sent)
                await reader.read()  # until it ends
                writer.close()
            closed_at = time.time()
            async for line in stream.content:  # open before them, and still is
                if line.startswith(b"data: ") and json.loads(line[6:])["time"] > closed_at:
                    break
            else:
                pytest.fail("the live stream has ended")


# Pages of other origins.


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a form
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize("configured", [{}, {"token": TOKEN}], ids=["open", "token"])
async def test_a_page_of_another_origin_changes_nothing(
    headers: dict[str, str], configured: dict[str, Any]
) -> None:
    async with admin_listener(**configured) as client:
        status, answer = await client.send(
            "PUT", DRAIN, {"state": "drain"}, **headers, **bearer(TOKEN)
        )
        assert status == 403
        assert "other origins" in answer["error"]["message"]
        assert client.operator.server("agent1").state == "up"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_a_form_can_send_changes_nothing(kind: str) -> None:
    async with admin_listener() as client:
        for method, path in (("PUT", DRAIN), ("POST", "/api/v1/upgrade")):
            response, _ = await client.ask(
                path, method, data=b'{"state": "drain"}', headers={"Content-Type": kind}
            )
            assert response.status == 415
        assert client.operator.server("agent1").state == "up"
        assert client.operator.upgrades == 0


@pytest.mark.parametrize(("path", "status"), [(DRAIN, 405), ("/", 200), ("/healthz", 200)])
async def test_a_preflight_gets_nothing_about_origins(path: str, status: int) -> None:
    async with admin_listener() as client:
        response, _ = await client.ask(
            path, "OPTIONS", headers={"Access-Control-Request-Method": "PUT"}
        )
        assert response.status == status
        assert not any(name.startswith("Access-Control") for name in response.headers)


async def test_links_from_elsewhere_and_our_own_pages_are_fine() -> None:
    async with admin_listener() as client:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert (await client.ask("/", headers=link))[0].status == 200
        own = {"Sec-Fetch-Site": "same-origin", "Origin": client.url}
        status, _ = await client.send("PUT", DRAIN, {"state": "drain"}, **own)
        assert status == 200


# TLS.


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "admin.pem", tmp_path / "admin.key"
    issued = authority.issue_cert("127.0.0.1")
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    files = {"certificate": str(certificate), "key": str(key)}
    async with admin_listener(tls=files) as client:
        assert client.url.startswith("https://127.0.0.1:")
        response, _ = await client.ask("/healthz", ssl=context)
        assert response.status == 200


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_certificate_that_is_none_is_reported(tmp_path: Path, is_there: bool) -> None:
    file = tmp_path / "admin.pem"
    if is_there:
        file.write_text("nonsense")
    files = {"certificate": str(file), "key": str(file)}
    admin = AdminServer(Admin.model_validate({"bind": "127.0.0.1:0", "tls": files}), FakeOperator())
    with pytest.raises((OSError, ValueError), match=r"admin\.pem .*\[admin\.tls\]"):
        await admin.start()
