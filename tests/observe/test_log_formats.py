"""The formats of the access log, and the sample, as a running balancer writes them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import site
from tests.support.http_peer import request, response
from tests.support.logging_balancer import logging_balancer
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.tls import tls_client, with_tls
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

FIELDS = 'User-Agent: Tester/1.0 ("odd")', "Referer: http://from.example/"


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_json_tells_all_of_a_request(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving(answers(b"hello"))
    async with logging_balancer(tmp_path / "log", origin, format="json") as lb:
        client = await stage.client(lb)
        await client.send(
            request("POST", "/a?b=c", *FIELDS, "Host: h.example", "X-Request-ID: mine", body=b"12")
        )
        answer = await client.read_response()
    (line,) = objects(tmp_path / "log")
    assert line["time"].endswith("Z")
    assert (line["client"], line["client_port"]) == client.sock.getsockname()
    assert (line["frontend"], line["backend"], line["server"]) == ("public", "agents", "agent1")
    assert min(line[f"{phase}_ms"] for phase in ("head", "queue", "connect", "response")) >= 0
    assert line["total_ms"] >= line["response_ms"]
    assert (line["status"], line["termination"]) == (200, "----")
    assert line["bytes_received"] == 2
    if stage.http == "1.1":  # HTTP/2 counts the fields before they are packed
        assert line["bytes_sent"] == len(answer.head.raw) + 5
    assert (line["retries"], line["redispatched"], line["queued_behind"]) == (0, False, 0)
    assert (line["method"], line["target"], line["version"]) == ("POST", "/a?b=c", stage.protocol)
    assert (line["host"], line["referer"]) == ("h.example", "http://from.example/")
    assert line["user_agent"] == 'Tester/1.0 ("odd")'
    assert line["request_id"] == "mine"
    assert line["trace_id"] in (origin.requests[0].get("traceparent") or "")
    assert (line["tls"], line["reason"]) == (None, None)


async def test_json_tells_the_version_of_tls(stage: Stage, tmp_path: Path) -> None:
    origin, path = await stage.serving(), tmp_path / "log"
    encrypted = with_tls(site(tmp_path, "a.test"))
    async with logging_balancer(path, origin, frontend=encrypted, format="json") as lb:
        client = await tls_client(stage, lb)
        await client.ask()
    assert objects(path)[0]["tls"] == "TLSv1.3"


@on_both_loops
@pytest.mark.parametrize("how", ["goodbye", "FIN", "RST"])
async def test_json_tells_it_of_a_client_that_vanishes(
    stage: Stage, tmp_path: Path, how: str
) -> None:
    origin, path = await stage.origin(), tmp_path / "log"
    encrypted = with_tls(site(tmp_path, "a.test"))
    async with logging_balancer(path, origin, frontend=encrypted, format="json") as lb:
        client = await tls_client(stage, lb)
        await client.get()
        at_origin, _ = await origin.accept_request()
        if how == "goodbye":
            await client.say_goodbye()
        elif how == "FIN":
            client.half_close()
        else:
            client.abort()
        await at_origin.read_until_cut()
        half_a_head = await tls_client(stage, lb)
        await half_a_head.send(b"GET / HTTP/1.1\r\n")
        await turns(20)
        half_a_head.abort()
        await eventually(lambda: not lb._plane.context.live.clients)
    one, other = objects(path)
    assert (one["termination"], one["tls"]) == ("CH--", "TLSv1.3")
    assert (other["termination"], other["tls"]) == ("CR--", "TLSv1.3")


async def test_json_has_null_for_what_was_not_reached(stage: Stage, tmp_path: Path) -> None:
    async with logging_balancer(
        tmp_path / "log", stage.nobody(), backend={"retries": 0}, format="json"
    ) as lb:
        client = await stage.client(lb)
        assert (await client.ask("/", *FIELDS)).status == 503
        await client.ask()
    line, without = objects(tmp_path / "log")
    assert line["termination"] == "SC--"
    assert (line["connect_ms"], line["response_ms"]) == (None, None)
    assert "refused" in line["reason"]
    assert line["user_agent"] == 'Tester/1.0 ("odd")'
    assert without["user_agent"] is None


@pytest.mark.http1_only("it sends what is no request")
async def test_json_has_a_line_for_what_was_no_request(stage: Stage, tmp_path: Path) -> None:
    async with logging_balancer(tmp_path / "log", stage.nobody(), format="json") as lb:
        client = await stage.client(lb)
        await client.send(b"BAD\r\n\r\n")
        await client.read_to_end()
        left = await stage.client(lb)
        await left.send(b"GET /")
        left.half_close()
        await left.read_to_end()
    bad, left_within = objects(tmp_path / "log")
    assert (bad["status"], bad["termination"], bad["method"]) == (400, "PR--", None)
    assert bad["reason"].startswith("malformed request")
    assert (left_within["status"], left_within["termination"]) == (None, "CR--")


@pytest.mark.http1_only("a PROXY header comes before either version")
@pytest.mark.parametrize("way", ["refused", "left", "late"])
async def test_the_peer_is_named_whose_proxy_header_is_none(
    stage: Stage, tmp_path: Path, way: str
) -> None:
    """There is no client that it speaks for, and an operator wants to know who that was."""
    proxied = {"bind": {"address": "127.0.0.1:0", "proxy_protocol": True}}
    peers = []
    for log_format in ("json", "combined"):
        async with logging_balancer(
            tmp_path / log_format,
            stage.nobody(),
            frontend=proxied,
            format=log_format,
            timeouts={"request_head": "50ms" if way == "late" else "10s"},
        ) as lb:
            client = await stage.client(lb)
            peers.append(client.sock.getsockname())
            await client.send(b"GET / HTTP/1.1\r\n\r\n" if way == "refused" else b"PROXY TCP4")
            if way == "left":
                client.half_close()
            await client.read_until_cut()
    (line,) = objects(tmp_path / "json")
    assert (line["client"], line["client_port"], line["status"]) == (*peers[0], None)
    assert "PROXY header" in line["reason"]
    assert (tmp_path / "combined").read_text().startswith(f"{peers[1][0]} - - [")


@pytest.mark.http1_only("it sends what is no request")
async def test_combined_shows_who_asked_and_from_where(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving(answers(b"hello"))
    async with logging_balancer(tmp_path / "log", origin, format="combined") as lb:
        client = await stage.client(lb)
        answer = await client.ask("/a", *FIELDS)
        refusal = await client.answer_to(b"BAD\r\n\r\n")
    line, bad = (tmp_path / "log").read_text().splitlines()
    size = len(answer.head.raw) + 5
    assert line.startswith("127.0.0.1 - - [")
    assert line.endswith(
        f'] "GET /a HTTP/1.1" 200 {size} "http://from.example/" "Tester/1.0 (\\x22odd\\x22)"'
    )
    size = len(refusal.head.raw) + len(refusal.body)
    assert bad.endswith(f'] "-" 400 {size} "-" "-"')


async def test_combined_has_nginxs_status_for_a_client_that_left(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.origin()
    async with logging_balancer(tmp_path / "log", origin, format="combined") as lb:
        client = await stage.client(lb)
        await client.get("/")
        at_origin, _ = await origin.accept_request()
        client.close()
        await at_origin.read_until_cut()
    assert f'"GET / {stage.protocol}" 499 0 ' in (tmp_path / "log").read_text()


async def test_httplog_keeps_nothing_of_a_head_that_it_does_not_show(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.serving(answers())
    async with logging_balancer(tmp_path / "log", origin) as lb:
        client = await stage.client(lb)
        await client.ask("/", *FIELDS)
    assert "Tester" not in (tmp_path / "log").read_text()


@pytest.mark.http1_only("it sends what is no request")
async def test_of_a_sample_of_none_only_what_went_wrong_is_left(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.origin()

    async def by_target(connection: Any, message: Any) -> None:
        if message.head.target == "/cut":
            await connection.send(response(b"1234")[:-1])
            connection.half_close()
        else:
            await connection.respond(status=int(message.head.target[1:]))

    origin.serve(by_target)
    async with logging_balancer(tmp_path / "log", origin, sample=0.0) as lb:
        for target in ("/200", "/404", "/500", "/cut"):
            client = await stage.client(lb)
            await client.get(target)
            await client.read_until_cut() if target == "/cut" else await client.read_response()
        client = await stage.client(lb)
        await client.send(b"BAD\r\n\r\n")
        await client.read_to_end()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split('"')[1] for line in lines] == [
        "GET /500 HTTP/1.1",
        "GET /cut HTTP/1.1",
        "<BADREQ>",
    ]


async def test_a_sample_has_its_share_of_what_went_well(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving(answers())
    async with logging_balancer(tmp_path / "log", origin, sample=0.25) as lb:
        client = await stage.client(lb)
        for _ in range(40):
            await client.ask()
    assert 9 <= (tmp_path / "log").read_text().count("\n") <= 11


async def test_a_slow_answer_is_logged_whatever_the_sample(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    async with logging_balancer(tmp_path / "log", origin, sample=0.0, slow=1e-9) as lb:
        client = await stage.client(lb)
        await client.get()
        at_origin, _ = await origin.accept_request()
        clock = asyncio.get_running_loop().time
        came = clock()
        await eventually(lambda: clock() > came)
        await at_origin.respond(b"ok")
        await client.read_response()
    assert (tmp_path / "log").read_text().count("\n") == 1


async def test_requests_that_ended_badly_are_remembered(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    async with logging_balancer(tmp_path / "log", origin) as lb:
        recent = lb._plane.recent
        client = await stage.client(lb)
        await client.get("/long?" + "x" * 500)
        at_origin, _ = await origin.accept_request()
        await at_origin.send(response(b"1234")[:-1])
        await client.read_until(b"123")
        client.close()
        await eventually(recent.since)
    (abort,) = recent.since()
    assert (abort["frontend"], abort["backend"], abort["server"]) == ("public", "agents", "agent1")
    assert (abort["client"], abort["status"], abort["termination"]) == ("127.0.0.1", 200, "CD--")
    assert abort["request"].startswith("GET /long?xxx")
    assert len(abort["request"]) == 200
    assert json.loads(json.dumps(abort)) == abort


async def test_one_without_an_answer_has_the_status_that_the_log_has(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.origin()
    async with logging_balancer(tmp_path / "log", origin) as lb:
        client = await stage.client(lb)
        await client.get()
        await origin.accept_request()
        client.close()
        recent = lb._plane.recent
        await eventually(recent.since)
    (abort,) = recent.since()
    fields = (tmp_path / "log").read_text().split()
    assert (fields[5], fields[9]) == ("-1", "CH--")
    assert (abort["status"], abort["termination"]) == (-1, "CH--")


@pytest.mark.http1_only("it sends what is no request")
async def test_what_went_well_or_was_refused_is_not_remembered(
    stage: Stage, tmp_path: Path
) -> None:
    origin = await stage.serving()
    async with logging_balancer(tmp_path / "log", origin) as lb:
        recent = lb._plane.recent
        for sent in (request("GET", "/"), request("TRACE", "/"), b"BAD\r\n\r\n"):
            client = await stage.client(lb)
            await client.answer_to(sent)
    assert [line.split()[9] for line in (tmp_path / "log").read_text().splitlines()] == [
        "----", "PR--", "PR--",
    ]  # fmt: skip
    assert recent.since() == []
