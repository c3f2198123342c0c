"""Session keys: in requests, and learnt from responses."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.affinity.keys import MOST_IN_KEY, KeyOptions, KeyRules
from hermes_lb.affinity.stores.memory import MemoryStore
from hermes_lb.http import ResponseParser
from hermes_lb.http.keys import key_finder

HEAD = (
    b"POST /api/agent/sessions/s-1/messages?user=ada&session=q%201 HTTP/1.1\r\nHost: x\r\n"
    b"Mcp-Session-Id:  m-1 \r\nCookie: a=b; SID=c-1;d=e\r\nX-Mcp-Session-Id: no\r\n\r\n"
    b"Mcp-Session-Id: in the body\r\n\r\n"
)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("header:mcp-session-id", b"m-1"),
        ("header:X-Session", b""),
        ("header:Session-Id", b""),
        ("cookie:SID", b"c-1"),
        ("cookie:sid", b""),
        ("cookie:ID", b""),
        ("query:session", b"q%201"),
        ("query:user", b"ada"),
        ("query:sess", b""),
        ("path:/api/agent/sessions/{id}", b"s-1"),
        ("path:/api/*/sessions/{id}/messages", b"s-1"),
        ("path:/api/agent/{id}", b"sessions"),
        ("path:/agent/sessions/{id}", b""),
        ("path:/api/agent/sessions/s-1/messages/{id}", b""),
        ("path:/api/agent/ses{id}/s-1", b"sions"),
    ],
)
def test_where_a_key_is(source: str, key: bytes) -> None:
    assert key_finder(source)(HEAD) == key


@pytest.mark.parametrize("source", ["path:/no/place", "path:/{a}/{b}", "path:x/{id}", "body:x"])
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(ValueError, match=r"source|place"):
        key_finder(source)


@given(st.binary(max_size=60), st.sampled_from(["header:A", "cookie:A", "query:A", "path:/{a}"]))
def test_no_request_breaks_the_search(text: bytes, source: str) -> None:
    head = b"GET /" + text.replace(b"\r", b"") + b" HTTP/1.1\r\nA: b\r\n\r\n"
    key = key_finder(source)(head)
    assert b"\n" not in key or source != "header:A"


def response(*fields: bytes, status: int = 200) -> object:
    lines = [b"HTTP/1.1 %d OK" % status, *fields]
    return ResponseParser(100).parse(b"\r\n".join(lines) + b"\r\n\r\n")


def test_the_first_rule_whose_key_is_there_counts() -> None:
    rules = KeyRules(
        [KeyOptions(on="header:X-Session"), KeyOptions(on="cookie:SID"), KeyOptions(on="client")]
    )
    stuck = rules.find(HEAD, "192.0.2.1")
    assert stuck is not None
    assert stuck.key == b"c-1"
    stuck = rules.find(b"GET / HTTP/1.1\r\n\r\n", "192.0.2.1")
    assert stuck is not None
    assert stuck.key == b"192.0.2.1"
    assert KeyRules([KeyOptions(on="query:none")]).find(HEAD, "192.0.2.1") is None


def test_what_is_too_long_is_no_key() -> None:
    head = b"GET / HTTP/1.1\r\nA: %b\r\n\r\n" % (b"x" * (MOST_IN_KEY + 1))
    assert KeyRules([KeyOptions(on="header:A")]).find(head, "") is None


def test_a_response_tells_its_session() -> None:
    rules = KeyRules(
        [
            KeyOptions(on="header:Mcp-Session-Id", learn=True),
            KeyOptions(on="path:/s/{id}", learn=True, response_header="X-Hermes-Session-Id"),
            KeyOptions(on="client"),
        ]
    )
    learnt = rules.learnt(None, response(b"mcp-session-id: m", b"X-Hermes-Session-Id: h"))
    assert learnt == [b"m", b"h"]
    assert rules.learnt(None, response(b"Content-Length: 0")) == []


def test_a_key_that_was_asked_for_is_learnt_if_it_was_known() -> None:
    rules = KeyRules([KeyOptions(on="header:Mcp-Session-Id", learn=True)])
    stuck = rules.find(HEAD, "")
    assert rules.learnt(stuck, response()) == [b"m-1"]
    assert rules.learnt(stuck, response(status=404)) == []
    hashed = KeyRules([KeyOptions(on="header:Mcp-Session-Id")])
    assert hashed.learnt(hashed.find(HEAD, ""), response()) == []


def test_a_pin_lives_from_its_last_use() -> None:
    pins = MemoryStore(most=10, expire=5.0)
    pins.store(b"a", "one", 0.0)
    assert pins.find(b"a", 4.0) == "one"
    assert pins.find(b"a", 8.0) == "one"
    assert pins.find(b"a", 13.0) is None
    assert len(pins) == 0


def test_a_use_of_a_pin_does_not_confirm_it() -> None:
    pins = MemoryStore(most=10, expire=5.0)
    assert pins.as_of(b"a") == -inf
    pins.store(b"a", "one", 1.0)
    pins.find(b"a", 4.0)
    assert pins.as_of(b"a") == 1.0
    other = MemoryStore(most=10, expire=5.0)
    other.take_over(pins)
    assert other.as_of(b"a") == -inf
    assert other.find(b"a", 8.0) == "one"


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab"), st.integers(0, 3)), max_size=60)
)
def test_pins_are_as_a_plain_table_with_a_bound(calls: list[tuple[int, str, int]]) -> None:
    pins = MemoryStore(most=4, expire=5.0)
    plain: dict[bytes, tuple[str, float]] = {}  # in the order of use
    now = 0.0
    for number, name, later in calls:
        key = b"%d" % number
        now += later
        plain = {k: v for k, v in plain.items() if v[1] > now}
        if name == "a":
            expected = plain.pop(key, None)
            if expected is not None:
                plain[key] = (expected[0], now + 5.0)
            assert pins.find(key, now) == (expected[0] if expected else None)
        else:
            plain.pop(key, None)
            plain[key] = (f"s{number}", now + 5.0)
            while len(plain) > 4:
                plain.pop(next(iter(plain)))
            pins.store(key, f"s{number}", now)
        assert len(pins) <= 4
