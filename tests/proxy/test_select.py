"""Which server takes a request: the strategy, the queue, cookies, and what is left if some fail."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock

import pytest

from hermes_lb.proxy.exchange import Exchange
from tests.support.http_peer import AtOrigin, Message, request
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.stage import Stage, in_flight, pool_of, server_of
from tests.support.waiting import eventually, turns
from tests.support.websocket import WEBSOCKET, accepting

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client

COOKIE = {"affinity": {"cookie": "SERVERID"}}
ONE_AT_A_TIME = {"max_connections": 1}


async def waiting(lb: LoadBalancer, count: int) -> None:
    await eventually(lambda: len(pool_of(lb).waiting) == count, f"{count} requests wait")


async def full(stage: Stage, **options: Any) -> tuple[LoadBalancer, Client, AtOrigin]:
    """A request is at the only server, which takes one at a time; and another client."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME, **options)
    one, two = await stage.clients(lb, 2)
    await one.get()
    at_origin, _ = await origin.accept_request()
    return lb, two, at_origin


# Strategies.


async def test_round_robin_takes_turns_by_weight(stage: Stage) -> None:
    lb = await stage.balancer(
        *await stage.agents(3), each=[{"weight": 5}, {"weight": 1}, {"weight": 1}]
    )
    order = "".join([(await stage.ask(lb)).body.decode()[-1] for _ in range(14)])
    assert order == "1121311" * 2


async def test_leastconn_counts_streams_until_their_last_byte(stage: Stage) -> None:
    origins = [await stage.origin(), await stage.origin()]
    lb = await stage.balancer(*origins, backend={"balance": "leastconn"})
    streaming = await stage.client(lb)
    await streaming.get("/stream")
    at_first, _ = await origins[0].accept_request()
    await at_first.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await streaming.read_until(b"x\r\n")
    origins[1].serve(answers(b"second"))
    for _ in range(5):
        assert (await stage.ask(lb)).body == b"second"
        assert in_flight(lb) == [1, 0]
    await at_first.send(b"0\r\n\r\n")
    await streaming.read_until(b"0\r\n\r\n")
    await eventually(lambda: in_flight(lb) == [0, 0])


async def test_ip_hash_stays_with_one_server(stage: Stage) -> None:
    lb = await stage.balancer(*await stage.agents(3), backend={"balance": "ip_hash"})
    assert {(await stage.ask(lb)).body for _ in range(6)} == {b"agent3"}  # as nginx has it


async def test_ip_hash_believes_a_trusted_proxy(stage: Stage) -> None:
    lb = await stage.balancer(
        *await stage.agents(3),
        backend={"balance": "ip_hash"},
        frontend={"trusted_proxies": ["127.0.0.1"]},
    )
    assert (await stage.ask(lb, "X-Forwarded-For: 10.0.1.7")).body == b"agent2"
    assert (await stage.ask(lb, "X-Forwarded-For: 203.0.113.9")).body == b"agent1"


# No server is available.


async def test_backups_serve_when_all_primaries_are_down(stage: Stage) -> None:
    backup = await stage.serving(answers(b"backup"))
    lb = await stage.balancer(*await stage.agents(3), backup, each=[{}, {}, {}, {"backup": True}])
    for server in pool_of(lb).servers[:3]:
        assert (await stage.ask(lb)).body != b"backup"
        server.set_up(False, "the test says so")
    assert (await stage.ask(lb)).body == b"backup"
    server_of(lb, 2).set_up(True, "the test says so")
    assert (await stage.ask(lb)).body == b"agent2"


async def test_no_server_up_is_503_with_retry_after(stage: Stage) -> None:
    lb = await stage.balancer(*await stage.agents(3), server={"down": True})
    client = await stage.client(lb)
    for _ in range(2):
        answer = await client.ask()
        assert (answer.status, answer.get("Retry-After")) == (503, "5")
        assert answer.get("Connection") == client.keeps
    line = (await stage.logged(lb, 2))[0]
    assert (line.termination, line.server, line.reached) == ("SC", "<NOSRV>", "TR")
    assert pool_of(lb).unserved.responses[5] == 2


async def test_no_server_up_and_a_body_on_its_way(stage: Stage) -> None:
    _, client, _ = await stage.line(server={"down": True})
    answer = await client.answer_to(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert (answer.status, answer.get("Connection")) == (503, client.closes)
    assert await client.read_to_end() == b""


# The queue.


@on_both_loops
async def test_requests_over_the_limit_are_served_in_order(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME)
    clients = await stage.clients(lb, 5)
    for n, client in enumerate(clients):
        await client.get(f"/{n}")
        await (waiting(lb, n) if n else eventually(lambda: in_flight(lb) == [1]))
    at_origin, first = await origin.accept_request()
    assert first.head.target == "/0"
    for n, client in enumerate(clients):
        assert in_flight(lb) == [1]
        assert await at_origin.gets_nothing()
        assert await origin.has_no_new_connection()
        await at_origin.serves(client, b"%d" % n)
        if n < 4:
            assert (await at_origin.read_request()).head.target == f"/{n + 1}"
    lines = await stage.logged(lb, 5)
    assert [line.queues for line in lines] == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 3)]
    assert all(line.termination == "--" for line in lines)


async def test_a_stream_holds_its_place_until_it_ends(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME)
    streaming, client = await stage.clients(lb, 2)
    await streaming.get()
    at_origin, _ = await origin.accept_request()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    await streaming.read_until(b"x\r\n")
    await client.get("/next")
    await waiting(lb, 1)
    streaming.close()
    assert await at_origin.read_until_cut() == b""
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/next"
    await at_origin.serves(client, b"served")


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_client_that_leaves_leaves_the_queue(stage: Stage, ending: str) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME)
    one, two, three = await stage.clients(lb, 3)
    await one.get("/1")
    at_origin, _ = await origin.accept_request()
    await two.get("/2")
    await waiting(lb, 1)
    await three.get("/3")
    await waiting(lb, 2)
    getattr(two, ending)()
    await waiting(lb, 1)
    line = await stage.log_line(lb)
    assert (line.termination, line.server, line.status) == ("CQ", "<NOSRV>", -1)
    assert line.reached == "TR Tw"  # it has waited, without success
    assert line.connections[2:] == (2, 0)  # one at the server, and one that waits
    await at_origin.respond(b"1")
    assert (await at_origin.read_request()).head.target == "/3"
    await at_origin.serves(three, b"3")


@on_both_loops
async def test_waiting_too_long_is_503(stage: Stage) -> None:
    lb, two, at_origin = await full(stage, timeouts={"queue": 0.1})
    answer = await two.ask()
    assert (answer.status, answer.get("Retry-After")) == (503, "5")
    assert not pool_of(lb).waiting
    line = await stage.log_line(lb)
    assert (line.termination, line.server, line.status) == ("sQ", "<NOSRV>", 503)
    assert (line.reached, line.connections) == ("TR Tw", (2, 2, 1, 0))
    await two.get("/again")  # the connection goes on
    await waiting(lb, 1)
    await at_origin.respond(b"1")
    assert (await at_origin.read_request()).head.target == "/again"
    await at_origin.serves(two, b"2")


async def test_waiting_too_long_while_the_body_arrives_is_503(stage: Stage) -> None:
    lb, two, _ = await full(stage, timeouts={"queue": 0.2})
    await two.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(10):
        await two.send(b"x")
        await turns()
    assert (await two.read_response()).status == 503
    assert (await stage.log_line(lb)).termination == "sQ"


async def test_a_body_waits_in_the_queue_with_its_head(stage: Stage) -> None:
    lb, two, at_origin = await full(stage, limits={"retry_buffer": 10_000})
    body = bytes(range(256)) * 4000
    sending = stage.tasks.spawn(two.send(request("POST", "/", body=body)), name="upload")
    await waiting(lb, 1)
    await at_origin.respond(b"1")
    message = await at_origin.read_request()
    await sending
    assert message.body == body
    await at_origin.serves(two, b"2")


async def test_a_full_server_is_passed_over(stage: Stage) -> None:
    origin = await stage.origin()
    second = await stage.serving(answers(b"second"))
    lb = await stage.balancer(origin, second, each=[ONE_AT_A_TIME, {}])
    client = await stage.client(lb)
    await client.get()
    at_origin, _ = await origin.accept_request()
    for _ in range(4):
        assert (await stage.ask(lb)).body == b"second"
    await at_origin.serves(client, b"first")


async def test_a_server_that_comes_up_serves_the_queue(stage: Stage) -> None:
    origin = await stage.origin()
    second = await stage.serving(answers(b"second"))
    lb = await stage.balancer(origin, second, each=[ONE_AT_A_TIME, {}])
    server_of(lb, 2).set_up(False, "the test says so")
    one, two = await stage.clients(lb, 2)
    await one.get()
    await origin.accept_request()
    await two.get()
    await waiting(lb, 1)
    server_of(lb, 2).set_up(True, "the test says so")
    assert (await two.read_response()).body == b"second"


async def test_a_retry_waits_for_a_full_server(stage: Stage) -> None:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, each=[{}, {**ONE_AT_A_TIME, "backup": True}])
    server_of(lb, 1).set_up(False, "the test says so")
    holder, client = await stage.clients(lb, 2)
    await holder.get("/holds")
    at_second, _ = await second.accept_request()
    server_of(lb, 1).set_up(True, "the test says so")
    await client.get("/retried")
    at_first, _ = await first.accept_request()
    at_first.close()
    await waiting(lb, 1)
    assert in_flight(lb) == [0, 1]
    await at_second.respond(b"held")
    assert (await at_second.read_request()).head.target == "/retried"
    await at_second.serves(client, b"here")
    lines = await stage.logged(lb, 2)
    assert {line.retries for line in lines} == {"0", "+1"}


# The affinity cookie.


@on_both_loops
async def test_a_cookie_is_inserted_and_leads_back(stage: Stage) -> None:
    lb = await stage.balancer(*await stage.agents(3), backend=COOKIE)
    first = await stage.ask(lb)
    name = first.body.decode()
    assert first.get("Set-Cookie") == f"SERVERID={name}; path=/"
    for _ in range(5):
        answer = await stage.ask(lb, f"Cookie: SERVERID={name}")
        assert answer.body.decode() == name
        assert answer.get("Set-Cookie") is None
    lines = await stage.logged(lb, 6)
    assert [line.cookies for line in lines] == ["NI"] + ["VN"] * 5


async def test_the_server_never_sees_the_cookie(stage: Stage) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, backend=COOKIE)
    await stage.ask(lb, "Cookie: a=1; SERVERID=agent1; b=2")
    await stage.ask(lb, "Cookie: SERVERID=agent1")
    await stage.ask(lb, "Cookie: SERVERID=evil")
    assert [message.get("Cookie") for message in origin.requests] == ["a=1; b=2", None, None]


async def test_an_unknown_cookie_is_replaced(stage: Stage) -> None:
    lb = await stage.balancer(*await stage.agents(3), backend=COOKIE)
    answer = await stage.ask(lb, "Cookie: SERVERID=evil")
    assert answer.get("Set-Cookie") == f"SERVERID={answer.body.decode()}; path=/"
    assert (await stage.log_line(lb)).cookies == "II"


async def test_a_servers_own_cookie_of_that_name_is_removed(stage: Stage) -> None:
    handler = answers(b"ok", "Set-Cookie: SERVERID=mine", "Set-Cookie: other=1")
    lb = await stage.balancer(await stage.serving(handler), backend=COOKIE)
    answer = await stage.ask(lb, "Cookie: SERVERID=agent1")
    assert answer.head.all("Set-Cookie") == ["other=1"]
    answer = await stage.ask(lb)
    assert sorted(answer.head.all("Set-Cookie")) == ["SERVERID=agent1; path=/", "other=1"]
    assert [line.cookies for line in await stage.logged(lb, 2)] == ["VD", "NI"]


async def test_a_servers_own_cookie_may_be_preserved(stage: Stage) -> None:
    handler = answers(b"ok", "Set-Cookie: SERVERID=mine")
    preserving = {"affinity": {"cookie": "SERVERID", "preserve": True}}
    lb = await stage.balancer(await stage.serving(handler), backend=preserving)
    assert (await stage.ask(lb)).head.all("Set-Cookie") == ["SERVERID=mine"]
    assert (await stage.log_line(lb)).cookies == "NP"


async def test_nocache_marks_a_cacheable_response_private(stage: Stage) -> None:
    lb = await stage.balancer(
        await stage.serving(answers(b"ok", "Cache-Control: max-age=60")), backend=COOKIE
    )
    assert (await stage.ask(lb)).head.all("Cache-Control") == ["max-age=60", "private"]
    answer = await stage.ask(lb, "Cookie: SERVERID=agent1")
    assert answer.head.all("Cache-Control") == ["max-age=60"]


@on_both_loops
async def test_a_server_that_is_down_is_replaced_and_so_is_its_cookie(stage: Stage) -> None:
    lb = await stage.balancer(*await stage.agents(3), backend=COOKIE)
    server_of(lb, 2).set_up(False, "the test says so")
    answer = await stage.ask(lb, "Cookie: SERVERID=agent2")
    name = answer.body.decode()
    assert name in ("agent1", "agent3")
    assert answer.get("Set-Cookie") == f"SERVERID={name}; path=/"
    line = await stage.log_line(lb)
    assert (line.cookies, line.retries) == ("DI", "0")


async def test_a_101_gets_the_cookie_too(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked("/", *WEBSOCKET, backend=COOKIE)
    await at_origin.send(accepting(at_origin))
    head = await client.read_head()
    assert head.get("Set-Cookie") == "SERVERID=agent1; path=/"
    assert head.get("Cache-Control") is None
    client.close()
    at_origin.close()
    assert (await stage.log_line(lb)).cookies == "NI"


async def pinned(stage: Stage) -> tuple[LoadBalancer, AtOrigin, Client, Client]:
    """The first of two requests with agent1's cookie is at agent1, the second one waits for it."""
    first, second = await stage.origin(), await stage.serving(answers(b"second"))
    lb = await stage.balancer(first, second, server=ONE_AT_A_TIME, backend=COOKIE)
    one, two = await stage.clients(lb, 2)
    await one.get("/1", "Cookie: SERVERID=agent1")
    at_first, _ = await first.accept_request()
    await two.get("/2", "Cookie: SERVERID=agent1")
    await waiting(lb, 1)
    return lb, at_first, one, two


async def test_a_pinned_request_waits_for_its_own_server(stage: Stage) -> None:
    lb, at_first, _, two = await pinned(stage)
    assert server_of(lb, 1).queued == 1
    assert (await stage.ask(lb)).body == b"second"  # the other one has room
    await at_first.respond(b"1")
    assert (await at_first.read_request()).head.target == "/2"
    await at_first.serves(two, b"2")
    assert server_of(lb, 1).queued == 0


async def test_a_pinned_request_whose_server_goes_down_is_freed(stage: Stage) -> None:
    lb, at_first, one, two = await pinned(stage)
    server_of(lb, 1).set_up(False, "the test says so")
    answer = await two.read_response()
    assert (answer.body, answer.get("Set-Cookie")) == (b"second", "SERVERID=agent2; path=/")
    await at_first.respond(b"1")  # what runs there goes on
    assert (await one.read_response()).body == b"1"


async def test_a_cookie_for_a_server_that_is_down_waits_like_anyone(stage: Stage) -> None:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, server=ONE_AT_A_TIME, backend=COOKIE)
    server_of(lb, 1).set_up(False, "the test says so")
    one, two = await stage.clients(lb, 2)
    await one.get("/1")
    at_second, _ = await second.accept_request()
    await two.get("/2", "Cookie: SERVERID=agent1")
    await waiting(lb, 1)
    assert server_of(lb, 1).queued == 0
    await at_second.respond(b"1")
    assert (await at_second.read_request()).head.target == "/2"
    await at_second.respond(b"2")
    assert (await two.read_response()).get("Set-Cookie") == "SERVERID=agent2; path=/"


async def test_a_pinned_request_leaves_its_server_only_on_the_last_retry(stage: Stage) -> None:
    second = await stage.serving(answers(b"second"))
    lb = await stage.balancer(
        stage.nobody(),
        second,
        server={"max_fails": 0},
        backend={**COOKIE, "retries": 2},
        timeouts={"connect": 1.0},  # the wait before the same server is tried again
    )
    answer = await stage.ask(lb, "Cookie: SERVERID=agent1")
    assert (answer.body, answer.get("Set-Cookie")) == (b"second", "SERVERID=agent2; path=/")
    line = await stage.log_line(lb)
    assert (line.server, line.retries, line.cookies) == ("agent2", "+2", "DI")
    assert server_of(lb, 1).counters.connect_errors == 2


async def test_a_pinned_request_whose_dial_timed_out_is_tried_again_without_a_pause(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HAProxy does: only who refuses may be restarting."""
    pauses = Mock()
    monkeypatch.setattr(Exchange, "_turned_around", pauses)
    second = await stage.serving(answers(b"second"))
    lb = await stage.balancer(
        stage.black_hole(), second, backend={**COOKIE, "retries": 2}, timeouts={"connect": 0.5}
    )
    assert (await stage.ask(lb, "Cookie: SERVERID=agent1")).body == b"second"
    line = await stage.log_line(lb)
    assert (line.server, line.retries, line.cookies) == ("agent2", "+2", "DI")
    assert server_of(lb, 1).counters.connect_errors == 2
    pauses.assert_not_called()


async def test_a_pinned_request_that_nobody_takes_has_lost_its_server(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), stage.nobody(), backend={**COOKIE, "retries": 1})
    assert (await stage.ask(lb, "Cookie: SERVERID=agent1")).status == 503
    line = await stage.log_line(lb)
    assert (line.server, line.retries, line.cookies) == ("agent2", "+1", "DN")


async def test_a_pinned_request_that_waits_to_be_retried_can_be_left(stage: Stage) -> None:
    second = await stage.serving()
    lb = await stage.balancer(
        stage.nobody(), second, server={"max_fails": 0}, backend=COOKIE, timeouts={"connect": 5}
    )
    client = await stage.client(lb)
    await client.get("/", "Cookie: SERVERID=agent1")
    await eventually(lambda: server_of(lb, 1).counters.retries == 1)
    client.close()
    line = await stage.log_line(lb)
    assert (line.termination, line.retries) == ("CC", "1")
    assert second.requests == []


async def test_a_pinned_upload_that_waits_to_be_retried_goes_on(stage: Stage) -> None:
    """Its body comes meanwhile, for longer than any of its timeouts."""
    second = await stage.serving(echo)
    lb = await stage.balancer(
        stage.nobody(),
        second,
        server={"max_fails": 0},
        backend={**COOKIE, "retries": 2},
        timeouts={"connect": 1.0},
    )
    client = await stage.client(lb)
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nCookie: SERVERID=agent1\r\nContent-Length: 20\r\n\r\n"
    )
    for _ in range(20):
        await client.send(b"x")
        await turns()
    assert (await client.read_response()).body == b"x" * 20


async def test_a_stale_connection_does_not_unpin(stage: Stage) -> None:
    first, second = await stage.origin(), await stage.serving()
    lb = await stage.balancer(first, second, backend=COOKIE)
    client = await stage.client(lb)
    await client.get("/1", "Cookie: SERVERID=agent1")
    at_first, _ = await first.accept_request()
    await at_first.respond(b"1")
    await client.read_response()
    await client.get("/2", "Cookie: SERVERID=agent1")
    await at_first.read_request()
    at_first.close()
    at_first, message = await first.accept_request()
    assert message.head.target == "/2"
    await at_first.serves(client, b"2")
    assert second.requests == []


async def echo(connection: AtOrigin, message: Message) -> None:
    await connection.respond(message.body)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
async def test_what_this_machine_lacks_is_not_held_against_a_server(
    stage: Stage, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb, client, _ = await stage.served(server={"max_fails": 1})
    lacking = AsyncMock(side_effect=OSError(number, os.strerror(number)))
    with monkeypatch.context() as patch:
        patch.setattr(lb._context, "loop", Mock(create_connection=lacking))
        answer = await client.ask()
    assert (answer.status, answer.get("Retry-After")) == (503, "5")
    assert (server_of(lb).fails, server_of(lb).counters.connect_errors) == (0, 0)
    assert (await client.ask()).status == 200
    first, _ = await stage.logged(lb, 2)
    assert (first.termination, first.server, first.retries) == ("RC", "agent1", "0")
    assert first.reason == f"no connection to agent1: {os.strerror(number)}"
