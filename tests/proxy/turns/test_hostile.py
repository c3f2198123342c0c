"""Hostile and unlucky requests: a clear status for each; nothing is executed, lost or leaked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.proxy.turns.resume_gate import ResumeGate
from tests.support.http_peer import Ended
from tests.support.turn_store import MemoryStore
from tests.support.turns import (
    LAST_CHUNK,
    STREAM_HEAD,
    Elsewhere,
    Gateway,
    begin_stream,
    events,
    get,
    ids,
    path_of,
    post,
    request,
    turn_of,
    without_ids,
)
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from tests.support.stage import Stage

SESSION = {"session": "json:/s"}


@pytest.mark.parametrize(
    ("data", "options", "status", "code"),
    [
        (post(key="x" * 256), {}, 400, "malformed_key"),
        (post(b"{}", "Idempotency-Key: a", "Idempotency-Key: b"), {}, 400, "malformed_key"),
        (post(), {"idempotency": "required"}, 400, "key_required"),
        (post(key="k", user=None), {}, 400, "principal_required"),
        (post(b"{}", "Authorization: x", key="k"), {}, 400, "ambiguous_principal"),
        (post(b'{"s": 1'), SESSION, 400, "malformed_session"),
        (post(b'{"s": 1, "s": 2}'), SESSION, 400, "malformed_session"),
        (post(b'{"s": "%b"}' % (b"x" * 300)), SESSION, 400, "malformed_session"),
        (post(b'{"s": "1"}', user=None), SESSION, 400, "principal_required"),
        (post(b"{}"), {**SESSION, "session_required": True}, 400, "session_required"),
        (get("/v1/a", last=f"h1.{'a' * 42}.1"), {}, 404, "no_such_turn"),
        (get("/v1/a", last=f"h1.{'a' * 42}.1", user=None), {}, 400, "principal_required"),
        (get("/v1/a", last="x" * 300), {}, 409, "ambiguous_event_id"),
        (get(path_of("a" * 42)), {}, 404, "no_such_turn"),
        (get(path_of("../../etc")), {}, 404, "no_such_turn"),
        (get(path_of("")), {}, 404, "no_such_turn"),
        (get(path_of("a" * 42 + "?x=1")), {}, 404, "no_such_turn"),
        (get(path_of("a" * 42), user=None), {}, 400, "principal_required"),
        (request("DELETE", path_of("a" * 42)), {}, 404, "no_such_turn"),
    ],
)
async def test_it_is_refused_and_not_executed(
    stage: Stage, data: bytes, options: dict[str, Any], status: int, code: str
) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns=options)
    answer = await gateway.ask(data)
    assert answer.status == status
    assert f'"code":"{code}"'.encode() in answer.body
    assert not origin.requests
    assert not gateway.shared.turns


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS"])
async def test_the_path_of_a_turn_has_two_methods(stage: Stage, method: str) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)
    assert (await gateway.ask(request(method, path_of("a" * 42)))).status == 405
    assert not origin.requests


async def test_without_a_route_with_turns_the_path_is_the_backends(stage: Stage) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(get(path_of("a" * 42)))
    assert (await client.read_response()).body == b"ok"


@pytest.mark.parametrize("target", ["/v1/run", "/other"])
async def test_a_client_cannot_say_what_we_say(stage: Stage, target: str) -> None:
    """On every route to the backend: a forged fence would lock a session."""
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns={"session": "header:X-Session"})
    forged = ("X-Hermes-Fence: 999", "x_hermes_turn: t", "X-Session: s")
    assert (await gateway.ask(post(b"{}", *forged, target=target))).status == 200
    head = origin.requests[0].head
    assert "x_hermes_turn" not in head.raw.decode().lower()
    assert head.get("X-Hermes-Fence") != "999"
    assert (head.get("X-Hermes-Fence") is None) == (target == "/other")


async def test_a_backend_cannot_say_what_we_say(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(
        b"x", "X-Hermes-Turn: forged", "X-Hermes-Resume: /forged", "idempotency-replayed: true"
    )
    answer = await client.read_response()
    assert turn_of(answer.head) in gateway.shared.turns
    assert answer.get("X-Hermes-Resume") is None
    assert answer.get("Idempotency-Replayed") is None


async def test_a_response_of_one_request_is_not_stored_for_others(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"x", "Set-Cookie: secret=1", "X-Own: 1")
    first = await client.read_response()
    assert first.get("Set-Cookie") == "secret=1"
    await gateway.in_state(turn_of(first.head), "done")
    replayed = await gateway.ask(post(key="k"))
    assert (replayed.get("Set-Cookie"), replayed.get("X-Own")) == (None, "1")
    assert replayed.get("Date") == first.get("Date")


@pytest.mark.parametrize("status", [401, 403, 407, 425, 429, 503])
async def test_an_answer_that_releases_is_given_and_not_kept(stage: Stage, status: int) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    first, second = await gateway.client(), await gateway.client()
    await first.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await second.send(post(key="k"))
    await turns(20)
    await at_origin.respond(b"no", "X-Own: 1", status=status)
    answer = await first.read_response()
    assert (answer.status, answer.body, answer.get("X-Hermes-Turn")) == (status, b"no", None)
    joined = await second.read_response()
    assert (joined.status, joined.body, joined.get("X-Own")) == (status, b"no", "1")
    third = await gateway.client()
    await third.send(post(key="k"))
    await at_origin.read_request()
    await at_origin.respond(b"yes")
    assert (await third.read_response()).body == b"yes"


@pytest.mark.parametrize("status", [500, 502, 504, 404])
async def test_other_errors_of_a_backend_are_results(stage: Stage, status: int) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"why", status=status)
    first = await client.read_response()
    await gateway.in_state(turn_of(first.head), "done")
    again = await gateway.ask(post(key="k"))
    assert (again.status, again.body) == (status, b"why")
    assert await origin.has_no_new_connection()


async def test_a_request_that_was_never_sent_frees_its_key(stage: Stage) -> None:
    gateway = await Gateway.before(
        stage, stage.nobody(), backend={"retries": 0}, timeouts={"connect": "1s"}
    )
    for _ in range(2):
        answer = await gateway.ask(post(key="k"))
        assert (answer.status, answer.get("X-Hermes-Turn")) == (503, None)
    await eventually(lambda: gateway.outcomes() == {"released": 2}, "both are released")


@pytest.mark.parametrize("how", ["closes", "garbage", "silent"])
async def test_a_server_that_may_have_executed_it_is_not_asked_again(
    stage: Stage, how: str
) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, timeouts={"server": "100ms"})
    client, joined = await gateway.client(), await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await joined.send(post(key="k"))
    if how == "closes":
        at_origin.close()
    elif how == "garbage":
        await at_origin.send(b"nonsense\r\n\r\n")
    assert (await client.read_response()).status in (502, 504)
    for answer in (await joined.read_response(), await gateway.ask(post(key="k"))):
        assert answer.status == 409
        assert b"outcome_unknown" in answer.body
    assert await origin.has_no_new_connection()


@pytest.mark.parametrize("repeat", ["never", "before_first_byte"])
@pytest.mark.parametrize("data", [post(key="k"), get("/v1/a")], ids=["keyed", "get"])
async def test_another_server_is_asked_only_if_the_route_says_so(
    stage: Stage, repeat: str, data: bytes
) -> None:
    origins = [await stage.origin(), await stage.serving()]
    gateway = await Gateway.before(
        stage, *origins, each=[{}, {"backup": True}], turns={"repeat": repeat}
    )
    client = await gateway.client()
    await client.send(data)
    at_origin, _ = await origins[0].accept_request()
    at_origin.close()
    answer = await client.read_response()
    assert answer.status == (502 if repeat == "never" else 200)
    assert len(origins[1].requests) == (0 if repeat == "never" else 1)


async def test_a_dial_that_failed_is_repeated(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, stage.nobody(), origin, each=[{}, {"backup": True}])
    answer = await gateway.ask(post(key="k"))
    assert answer.body == b"ok"
    turn = gateway.shared.turns[turn_of(answer.head)]
    assert turn.server == "agent2"


async def test_a_duplicate_differs_from_an_owner_whose_body_has_not_come(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    owner, other, same = [await gateway.client() for _ in range(3)]
    await owner.send(post(b"abcdef", key="k")[:-3])
    at_origin = await origin.accept()
    await at_origin.read_head()
    await other.send(post(b"abcxyz", key="k"))
    await same.send(post(b"abcdef", key="k"))
    await turns(20)
    assert await other.gets_nothing()
    await owner.send(b"def")
    await at_origin.read_exactly(6)
    await at_origin.respond(b"ok")
    assert (await owner.read_response()).body == b"ok"
    assert (await other.read_response()).status == 422
    assert (await same.read_response()).body == b"ok"


async def test_a_body_that_is_too_large_for_its_session(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns={**SESSION, "body_buffer": "16KiB"})
    answer = await gateway.ask(post(b'{"s": "%b"}' % (b"x" * 20_000)))
    assert answer.status == 413
    assert not origin.requests
    assert gateway.lb._context.turns.buffered == 0


async def test_a_client_that_leaves_while_its_body_is_read(stage: Stage) -> None:
    gateway = await Gateway.before(stage, await stage.serving(), turns=SESSION)
    client = await gateway.client()
    await client.send(post(b'{"s": "one"}')[:-5])
    shared = gateway.lb._context.turns
    await eventually(lambda: shared.buffered > 0, "its body is being read")
    client.abort()
    await eventually(lambda: shared.buffered == 0, "its body is forgotten")


async def test_the_balancer_asks_for_a_body_that_is_held_back(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns=SESSION)
    client = await gateway.client()
    data = post(b'{"s": "one"}', "Expect: 100-continue")
    head, body = data[:-12], data[-12:]
    await client.send(head)
    assert (await client.read_head()).status == 100
    assert not origin.requests
    await client.send(body)
    assert (await client.read_response()).body == b"ok"
    assert origin.requests[0].get("Expect") is None
    assert origin.requests[0].body == body


async def test_a_duplicate_in_other_chunks_is_the_same_request(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)

    async def ask(*chunks: bytes) -> Any:
        client = await gateway.client()
        await client.send(
            request("POST", "/v1/run", "Transfer-Encoding: chunked", key="k")
            + b"%x\r\n%b\r\n" % (len(chunks[0]), chunks[0])
        )
        await turns(20)
        for chunk in chunks[1:]:
            await client.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await client.send(b"0\r\n\r\n")
        return await client.read_response()

    first = await ask(b"abc", b"def")
    assert first.body == b"ok"
    await gateway.in_state(turn_of(first.head), "done")
    assert (await ask(b"a", b"bcdef")).get("Idempotency-Replayed") == "true"
    assert (await ask(b"a", b"bcdeg")).status == 422
    assert len(origin.requests) == 1


async def test_a_large_duplicate_is_hashed_and_not_kept(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)
    body = b"x" * 500_000
    first = await gateway.ask(post(body, key="k"))
    await gateway.in_state(turn_of(first.head), "done")
    assert (await gateway.ask(post(body, key="k"))).get("Idempotency-Replayed") == "true"
    assert (await gateway.ask(post(body[:-1] + b"y", key="k"))).status == 422
    assert len(origin.requests) == 1


async def test_a_journal_that_is_full_loses_no_byte_of_its_client(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"journal_size": "2KiB"})
    first, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = turn_of(head)
    wanted = [f"{n}" * 100 for n in range(20)]
    body = b""
    for each in wanted:
        await at_origin.send(events(each))
        body += await first.read_chunk()
    await at_origin.send(LAST_CHUNK)
    body += await first.read_body(head)
    assert without_ids(body) == "".join(f"data: {each}\n\n" for each in wanted).encode()
    assert ids(body)[-1] == f"h1.{turn}.20"
    await gateway.in_state(turn, "done")
    for data in (post(key="k"), get(path_of(turn)), get(path_of(turn), last=f"h1.{turn}.3")):
        answer = await gateway.ask(data)
        assert answer.status == 410
        assert b"result_not_kept" in answer.body
    recent = await gateway.ask(get(path_of(turn), last=f"h1.{turn}.18"))
    assert ids(recent.body) == [f"h1.{turn}.{n}" for n in (19, 20)]


@pytest.mark.parametrize("size", [100, 300_000, 3_000_000])
async def test_a_response_that_is_no_stream(stage: Stage, size: int) -> None:
    """Beyond journal_size its client gets it whole, and its duplicates a 410."""
    body = bytes(range(256)) * (size // 256)
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    stage.tasks.spawn(at_origin.respond(body), name="respond")
    answer = await client.read_response()
    assert answer.body == body
    assert answer.get("X-Hermes-Resume") is None
    await gateway.in_state(turn_of(answer.head), "done")
    again = await gateway.ask(post(key="k"))
    if size < 1_000_000:
        assert again.body == body
    else:
        assert again.status == 410


async def test_a_compressed_stream_has_no_ids(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(post(b"{}", "Accept-Encoding: gzip", key="k"))
    at_origin, asked = await origin.accept_request()
    assert asked.get("Accept-Encoding") == "identity"
    await at_origin.send(STREAM_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    answer = await client.read_response()
    assert (answer.body, answer.get("X-Hermes-Resume")) == (b"abc", None)
    await gateway.in_state(turn_of(answer.head), "done")
    again = await gateway.ask(post(key="k"))
    assert (again.body, again.get("Content-Encoding")) == (b"abc", "gzip")


@pytest.mark.parametrize(
    ("own", "last", "status"),
    [
        (["a", "b", "c"], "b", 200),
        (["a", "b", "c"], "c", 204),
        (["a", "b", "b"], "b", 409),
        (["a", "b", "c"], "z", 409),
    ],
)
async def test_ids_of_the_backend(stage: Stage, own: list[str], last: str, status: int) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    block = "".join(f"id: {each}\ndata: {each}\n\n" for each in own).encode()
    await at_origin.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(block), block))
    assert await client.read_body(head) == block
    await gateway.in_state(turn_of(head), "done")
    for data in (post(key="k", last=last), get(path_of(turn_of(head)), last=last)):
        answer = await gateway.ask(data)
        assert answer.status == status
        if status == 200:
            assert ids(answer.body) == ["c"]


async def test_an_id_of_the_backend_before_the_window_is_gone(stage: Stage) -> None:
    """Whether the turn had it can't be known any more: 410, as behind our own ids."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"journal_size": "2KiB"})
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    for name in "abc":
        block = f"id: {name}\ndata: {name * 800}\n\n".encode()
        await at_origin.send(b"%x\r\n%b\r\n" % (len(block), block))
        assert await client.read_chunk() == block
    await at_origin.send(LAST_CHUNK)
    await gateway.in_state(turn_of(head), "done")
    for data in (post(key="k", last="a"), get(path_of(turn_of(head)), last="a")):
        assert (await gateway.ask(data)).status == 410
    assert ids((await gateway.ask(post(key="k", last="b"))).body) == ["c"]


@pytest.mark.pure_only("the gate's method is patched")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_client_that_leaves_in_the_iteration_of_its_request(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    begin = ResumeGate.begin

    def begin_and_leave(gate: ResumeGate, body: bytes, now: float) -> None:
        exchange = gate.exchange
        assert exchange is not None
        begin(gate, body, now)
        exchange.abort_client("CD")

    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)
    turn = turn_of((await gateway.ask(post(key="k"))).head)
    monkeypatch.setattr(ResumeGate, "begin", begin_and_leave)
    client = await gateway.client()
    await client.send(request(method, path_of(turn)))
    await client.read_until_cut()


async def test_a_foreign_id_at_its_own_url_goes_to_the_backend(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin)
    assert (await gateway.ask(get("/v1/events", last="17"))).body == b"ok"
    assert origin.requests[0].get("Last-Event-ID") == "17"


async def test_without_the_store_a_stream_goes_on_without_its_turn(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    gateway.shared.is_away = True
    client, at_origin, head = await begin_stream(gateway, origin, post())
    assert (head.get("X-Hermes-Degraded"), head.get("X-Hermes-Turn")) == ("store", None)
    await at_origin.send(events("one") + LAST_CHUNK)
    assert await client.read_body(head) == b"data: one\n\n"
    gateway.shared.is_away = False


async def test_without_the_store_a_guarantee_is_refused(stage: Stage) -> None:
    origin = await stage.serving()
    gateway = await Gateway.before(stage, origin, turns=SESSION)
    gateway.shared.is_away = True
    for data in (post(key="k"), post(b'{"s": "one"}')):
        answer = await gateway.ask(data)
        assert (answer.status, answer.get("X-Hermes-Degraded")) == (503, "store")
    assert (await gateway.ask(post())).body == b"ok"  # nothing was asked of the store
    assert len(origin.requests) == 1


async def test_quotas_of_a_principal(stage: Stage) -> None:
    shared = MemoryStore()
    shared.most_turns = 1
    gateway = await Gateway.before(stage, await stage.serving(), shared=shared)
    await Elsewhere(shared).begin("other")
    answer = await gateway.ask(post(key="k"))
    assert (answer.status, answer.get("Retry-After")) == (429, "1")
    assert (await gateway.ask(post(key="k", user="bob"))).status == 200


async def test_a_busy_session_may_be_refused(stage: Stage) -> None:
    origin = await stage.origin()
    options = {"session": "header:X-Session", "busy": "reject"}
    gateway = await Gateway.before(stage, origin, turns=options)
    first = await gateway.client()
    await first.send(post(b"{}", "X-Session: s"))
    at_origin, _ = await origin.accept_request()
    busy = await gateway.ask(post(b"{}", "X-Session: s"))
    assert (busy.status, busy.get("Retry-After"), busy.get("x-should-retry")) == (409, "1", None)
    await at_origin.respond(b"ok")
    assert (await first.read_response()).body == b"ok"


async def test_a_busy_session_is_not_waited_for_longer_than_the_queue(stage: Stage) -> None:
    origin = await stage.origin()
    options = {"session": "header:X-Session"}
    gateway = await Gateway.before(stage, origin, turns=options, timeouts={"queue": "50ms"})
    first = await gateway.client()
    await first.send(post(b"{}", "X-Session: s"))
    at_origin, _ = await origin.accept_request()
    assert (await gateway.ask(post(b"{}", "X-Session: s"))).status == 409
    await at_origin.respond(b"ok")
    await first.read_response()
    third = await gateway.client()
    await third.send(post(b"{}", "X-Session: s"))
    await at_origin.read_request()
    await at_origin.respond(b"third")
    assert (await third.read_response()).body == b"third"


async def test_a_waiter_that_leaves_gives_up_its_place(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"session": "header:X-Session"})
    clients = [await gateway.client() for _ in range(3)]
    await clients[0].send(post(b"0", "X-Session: s"))
    at_origin, _ = await origin.accept_request()
    await clients[1].send(post(b"1", "X-Session: s"))
    await turns(20)
    await clients[2].send(post(b"2", "X-Session: s"))
    await turns(20)
    clients[1].abort()
    await eventually(lambda: gateway.outcomes().get("released") == 1, "it has left the queue")
    await at_origin.respond(b"ok")
    assert (await at_origin.read_request()).body == b"2"
    await at_origin.respond(b"ok")
    assert (await clients[2].read_response()).body == b"ok"


async def test_an_owner_that_is_fenced_writes_and_sends_no_more(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    turn = gateway.shared.turns[turn_of(head)]
    turn.enter(4)  # another balancer has found it lost
    await at_origin.send(events("one"))
    with pytest.raises(Ended):
        await client.read_body(head)
    await at_origin.read_until_cut()
    assert not turn.batches
    assert gateway.outcomes() == {"fenced": 1}


async def test_a_client_that_leaves_before_all_of_its_request(stage: Stage) -> None:
    """It can't go on without it: what the server makes of the beginning is unknown."""
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client = await gateway.client()
    await client.send(request("POST", "/v1/run", "Content-Length: 100", key="k") + b"begun")
    at_origin = await origin.accept()
    await at_origin.read_head()
    client.abort()
    await at_origin.read_until_cut()
    answer = await gateway.ask(request("POST", "/v1/run", "Content-Length: 5", key="k") + b"begun")
    assert answer.status == 409
    assert b"outcome_unknown" in answer.body


async def test_a_joiner_that_leaves_changes_nothing(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    joined = await gateway.client()
    await joined.send(post(key="k"))
    await joined.read_head()
    joined.abort()
    await turns(20)
    await at_origin.send(events("one") + LAST_CHUNK)
    assert without_ids(await client.read_body(head)) == b"data: one\n\n"
    assert not gateway.lb._context.turns._followers


@pytest.mark.parametrize("leaves_first", ["owner", "joiner"])
async def test_where_leaving_cancels_the_last_client_decides(
    stage: Stage, leaves_first: str
) -> None:
    origin = await stage.origin()
    options = {"idempotency": "off", "session": "header:X-Session"}
    gateway = await Gateway.before(stage, origin, turns=options, route={"on_disconnect": "abort"})
    owner, at_origin, head = await begin_stream(gateway, origin, post(b"{}", "X-Session: s"))
    turn = turn_of(head)
    joiner = await gateway.client()
    await joiner.send(get(path_of(turn)))
    await joiner.read_head()
    first, last = (owner, joiner) if leaves_first == "owner" else (joiner, owner)
    first.abort()
    await turns(20)
    await at_origin.send(events("one"))
    assert without_ids(await last.read_until(b"data: one\n\n")).endswith(b"data: one\n\n")
    last.abort()
    await at_origin.read_until_cut()
    await gateway.in_state(turn, "cancelled")


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_follower_at_another_balancer_is_a_client(stage: Stage, is_sent: bool) -> None:
    """Where leaving cancels, and of a turn that waits for its session."""
    origin = await stage.origin()
    options = {"session": "header:X-Session", **({"idempotency": "off"} if is_sent else {})}
    route = {"on_disconnect": "abort"} if is_sent else {}
    one = await Gateway.before(stage, origin, turns=options, route=route)
    other = await Gateway.before(stage, origin, turns=options, route=route, shared=one.shared)
    if not is_sent:
        before = await one.client()
        await before.send(post(b"before", "X-Session: s"))
        at_origin, _ = await origin.accept_request()
    owner = await one.client()
    await owner.send(post(b"{}", "X-Session: s", key="k"))
    if is_sent:
        at_origin, _ = await origin.accept_request()
        await at_origin.send(STREAM_HEAD)
        turn = turn_of(await owner.read_head())
    else:
        await eventually(lambda: len(one.shared.turns) == 2, "it waits")
        turn = list(one.shared.turns)[1]
    follower = await other.client()
    await follower.send(get(path_of(turn)))
    record = one.shared.turns[turn]
    await eventually(lambda: record.followed_until > 0, "it is followed")
    owner.abort()
    live = one.lb._context.live
    await eventually(lambda: live.detached, "it goes on for its follower")
    if is_sent:
        await at_origin.send(events("one"))
        assert without_ids(await follower.read_until(b"data: one\n\n")).endswith(b"one\n\n")
    follower.abort()
    if is_sent:
        await at_origin.read_until_cut()
        await one.in_state(turn, "cancelled")
    else:
        await one.in_state(turn, "released")
        await at_origin.respond(b"ok")
        assert (await before.read_response()).body == b"ok"
        assert await origin.has_no_new_connection()


async def test_a_client_that_does_not_read_is_cut_and_its_turn_goes_on(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin, turns={"journal_size": "64KiB"})
    client = await stage.client(gateway.lb, receive_buffer=4096)
    await client.send(post(key="k"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(STREAM_HEAD)
    turn = turn_of(await client.read_head())
    live = gateway.lb._context.live
    block = events("x" * 8000)

    async def stream() -> None:
        while not live.detached:
            await at_origin.send(block)

    await stream()
    await at_origin.send(events("end") + LAST_CHUNK)
    await gateway.in_state(turn, "done")
    with pytest.raises(Ended):
        await client.read_until(b"data: end")


async def test_a_balancer_that_stops_says_that_the_outcome_is_unknown(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    client, _, head = await begin_stream(gateway, origin, post(key="k"))
    await gateway.lb.stop()
    with pytest.raises(Ended):
        await client.read_body(head)
    turn = gateway.shared.turns[turn_of(head)]
    assert (turn.state, turn.reason) == (4, "owner_stopped")
