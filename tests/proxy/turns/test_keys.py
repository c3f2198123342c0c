"""Idempotency keys, sessions, principals, fingerprints, event ids: what is the same, and what is
refused."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_lb.config import Limits
from hermes_lb.http.request import RequestParser
from hermes_lb.proxy.ports import Entrance, Peer
from hermes_lb.proxy.turns import event_ids, heads
from hermes_lb.proxy.turns.fingerprint import Fingerprint
from hermes_lb.proxy.turns.keys import body_session, head_session, header_key, query_key
from hermes_lb.proxy.turns.principal import PrincipalFinder
from hermes_lb.proxy.turns.problems import TurnProblem

PEER = Peer(Entrance(), b"http")
SECRET = b"s" * 32


def head(*fields: str, target: str = "/v1/a", method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", b"abc"),
        ('"abc"', b"abc"),
        ('"a b"', None),
        (r'"a\"b\\c"', b'a"b\\c'),
        ('"abc', b'"abc'),
        ("x" * 255, b"x" * 255),
        ("x" * 256, None),
        ('""', None),
        ("", None),
        ("a b", None),
        ("a\tb", None),
        ("ä", None),
    ],
)
def test_the_key_of_a_request(value: str, key: bytes | None) -> None:
    asked = head(f"Idempotency-Key: {value}")
    if key is None:
        with pytest.raises(TurnProblem, match="one field") as problem:
            header_key(asked)
        assert (problem.value.status, problem.value.code) == (400, "malformed_key")
    else:
        assert header_key(asked) == key


def test_two_keys_are_none() -> None:
    with pytest.raises(TurnProblem, match="one field"):
        header_key(head("Idempotency-Key: a", "idempotency-key: a"))
    assert header_key(head()) == b""
    # A body is no head.
    assert header_key(head() + b"\r\nIdempotency-Key: a\r\n") == b""


def test_a_key_in_the_query() -> None:
    find = query_key("k")
    assert find(head(target="/v1/a?x=1&k=abc")) == b"abc"
    assert find(head(target="/v1/a")) == b""
    with pytest.raises(TurnProblem, match="one field"):
        find(head(target="/v1/a?k=" + "x" * 256))


@pytest.mark.parametrize(
    ("pointer", "body", "session"),
    [
        ("/s", b'{"s": "one"}', b"one"),
        ("/s", b'{"s": 7}', b"7"),
        ("/s", b'{"t": 7}', b""),
        ("/s", b'{"s": null}', b""),
        ("/s", b"[]", b""),
        ("/a/b", b'{"a": {"b": "one"}}', b"one"),
        ("/a~1b", b'{"a/b": "one"}', b"one"),
        ("/s", b'{"s": "\\u00e4"}', "ä".encode()),
        ("/s", b'{"s": true}', None),
        ("/s", b'{"s": 1.5}', None),
        ("/s", b'{"s": {}}', None),
        ("/s", b'{"s": "one", "s": "two"}', None),
        ("/a/b", b'{"a": {"b": "one", "b": "two"}}', None),
        ("/s", b'{"t": 1, "t": 2, "s": "one"}', b"one"),
        ("/s", b'{"s": "' + b"x" * 257 + b'"}', None),
        ("/s", b"{", None),
        ("/s", b"\xff", None),
        ("/s", b"[" * 100_000, None),
    ],
)
def test_a_session_in_a_body(pointer: str, body: bytes, session: bytes | None) -> None:
    def find() -> bytes:
        search = body_session(pointer)(body)
        while not search.advance():
            pass
        return search.name

    if session is None:
        with pytest.raises(TurnProblem) as problem:
            find()
        assert (problem.value.status, problem.value.code) == (400, "malformed_session")
    else:
        assert find() == session


def test_a_session_in_a_head() -> None:
    assert head_session("header:X-Session")(head("X-Session: one")) == b"one"
    assert head_session("path:/s/{id}")(head(target="/s/one/run")) == b"one"
    with pytest.raises(TurnProblem, match="256"):
        head_session("header:X-Session")(head("X-Session: " + "x" * 257))


def principal(*fields: str, scope: str = "b", sources: Any = ("header:Authorization",)) -> str:
    return PrincipalFinder(scope, sources).find(SECRET, head(*fields), PEER, "192.0.2.1")


def test_a_principal_is_a_digest_of_one_credential() -> None:
    alice = principal("Authorization: Bearer alice")
    assert len(alice) == 26
    assert "alice" not in alice
    assert alice == principal("authorization:   Bearer alice ")
    others = [
        principal("Authorization: Bearer bob"),
        principal("Authorization: Bearer alice", scope="c"),
        principal("X-Key: Bearer alice", sources=["header:X-Key"]),
        PrincipalFinder("b", ["header:Authorization"]).find(
            b"t" * 32, head("Authorization: Bearer alice"), PEER, ""
        ),
    ]
    assert len({alice, *others}) == 5


def test_no_credential_is_no_principal() -> None:
    assert principal() == ""
    assert principal("Authorization:") == ""
    assert principal(sources=["cookie:sid"]) == ""
    assert principal(sources=["certificate"]) == ""
    assert principal(sources=["none"]) != ""
    assert principal(sources=["client"]) != principal(sources=["none"])


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("header:Authorization", ["Authorization: a", "authorization: a"]),
        ("cookie:sid", ["Cookie: sid=a; sid=b"]),
        ("cookie:sid", ["Cookie: sid=a", "Cookie: x=1; sid=a"]),
    ],
)
def test_two_credentials_of_one_name_are_refused(source: str, fields: list[str]) -> None:
    with pytest.raises(TurnProblem) as problem:
        principal(*fields, sources=[source])
    assert (problem.value.status, problem.value.code) == (400, "ambiguous_principal")


def test_the_first_source_that_is_there_counts() -> None:
    sources = ["header:Authorization", "cookie:sid"]
    both = principal("Authorization: a", "Cookie: x=1; sid=b", sources=sources)
    assert both == principal("Authorization: a")
    assert principal("Cookie: sid=b", sources=sources) == principal(
        "Cookie: sid=b", sources=["cookie:sid"]
    )
    assert PrincipalFinder("b", sources).vary == b"Authorization, Cookie"


def test_a_certificate_is_a_principal() -> None:
    peer = Peer(Entrance(), b"https")
    peer.certificate = b"X-SSL-Client-Verify: SUCCESS\r\nX-SSL-Client-Fingerprint: ab12\r\n"
    finder = PrincipalFinder("b", ["certificate"])
    forged = head("X-SSL-Client-Fingerprint: ab12")
    assert finder.find(SECRET, forged, PEER, "") == ""
    assert finder.find(SECRET, head(), peer, "") != ""


def fingerprint(asked: bytes, *body: bytes) -> str:
    parsed = RequestParser(Limits()).parse(asked)
    made = Fingerprint(SECRET, parsed, asked)
    for part in body:
        made.add(part)
    return made.text


def test_a_fingerprint_is_of_method_target_type_and_body() -> None:
    json = "Content-Type: application/json"
    base = fingerprint(head(json), b"ab")
    assert base == fingerprint(head(json, "X-Retry: 2", "User-Agent: x"), b"a", b"b")
    others = [
        fingerprint(head(json, method="PUT"), b"ab"),
        fingerprint(head(json, target="/v1/a?x"), b"ab"),
        fingerprint(head("Content-Type: text/plain"), b"ab"),
        fingerprint(head(), b"ab"),
        fingerprint(head(json), b"abc"),
    ]
    assert len({base, *others}) == 6


TURN = "a" * 42


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (f"h1.{TURN}.7", event_ids.EventId(TURN, 7)),
        (f"h1.{TURN}.0", event_ids.EventId(TURN, 0)),
        (f"h2.{TURN}.7", None),
        (f"h1.{TURN}.", None),
        (f"h1.{TURN}.-1", None),
        (f"h1.{TURN}.7 ", None),
        (f"h1.{TURN}.{'9' * 16}", None),
        ("h1.short.7", None),
        (f"h1.{TURN}/../.7", None),
    ],
)
def test_our_event_ids(value: str, parsed: event_ids.EventId | None) -> None:
    assert event_ids.parse(value.encode()) == parsed


def test_several_or_long_event_ids_are_refused() -> None:
    assert event_ids.last_event_id(head("Last-Event-ID: 7")) == b"7"
    for fields in (["Last-Event-ID: 7", "last-event-id: 7"], ["Last-Event-ID: " + "x" * 257]):
        with pytest.raises(TurnProblem) as problem:
            event_ids.last_event_id(head(*fields))
        assert problem.value.code == "ambiguous_event_id"


def test_events_are_split_and_their_ids_found() -> None:
    events = b"id: a\ndata: 1\n\ndata: 2\r\n\r\nid: b\nid: c\n\nid: n\0\n\n"
    assert event_ids.ids_of(events) == [b"a", b"", b"c", b""]
    assert all(event_ids.may_have(events, each) for each in (b"a", b"c"))
    assert not any(event_ids.may_have(events, each) for each in (b"id", b"1", b"data", b"n"))
    for odd in (b"id:x\r\r", b"id: x\r\n\r\n", b"data\rid:  x\n\n"):
        assert all(event_ids.may_have(odd, each) for each in event_ids.ids_of(odd))
    assert event_ids.split(events, 2) == b"id: b\nid: c\n\nid: n\0\n\n"
    assert event_ids.split(events, 9) == b""


def test_our_fields_of_a_client_are_dropped() -> None:
    asked = head(
        "X-Hermes-Fence: 9", "x_hermes_turn: a", "X-HERMES-Resume: /", "X-Hermes-Handover: accept",
        "X-Other: x-hermes-fence", "X-Hermes-Session-Id: s", "X-Hermes-Fences: 9",
    )  # fmt: skip
    assert heads.without_ours(asked) == head(
        "X-Hermes-Handover: accept", "X-Other: x-hermes-fence", "X-Hermes-Session-Id: s",
        "X-Hermes-Fences: 9",
    )  # fmt: skip
    body = b"\r\nX-Hermes-Fence: 9\r\n"
    assert heads.without_ours(head() + body) == head() + body


def test_a_stored_head_has_no_field_of_one_request() -> None:
    parsed: Any = type("Head", (), {"status": 200, "reason": b"OK"})
    fields = (
        b"Content-Type: a/b\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nAlt-Svc: h3\r\n"
        b"Strict-Transport-Security: max-age=1\r\nX-Hermes-Turn: x\r\nContent-Length: 3\r\n"
        b"X-Hermes-Load: 3\r\nX-Hermes-Session-Id: s\r\nDate: now\r\n"
    )
    assert heads.stored(parsed, fields) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Hermes-Session-Id: s\r\nDate: now\r\n\r\n"
    )


def test_a_cache_never_has_a_turn() -> None:
    fields = b"Cache-Control: public\r\nExpires: later\r\nAccess-Control-Allow-Origin: *\r\n"
    got = heads.for_turn(fields, "t", is_stream=True, is_get=True, vary=b"Authorization")
    assert got == (
        b"Access-Control-Allow-Origin: *\r\nX-Hermes-Turn: t\r\n"
        b"X-Hermes-Resume: /.hermes/turns/t\r\nCache-Control: no-store\r\nVary: Authorization\r\n"
        b"Access-Control-Expose-Headers: X-Hermes-Turn, X-Hermes-Resume, Idempotency-Replayed\r\n"
    )
    assert b"public" in heads.for_turn(fields, "t", is_stream=True, is_get=False, vary=b"")
