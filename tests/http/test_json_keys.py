"""A key in a JSON text: where it is, and which texts have none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.http.body import make_body
from hermes_lb.http.json_keys import (
    MOST_READ,
    JsonText,
    Pointer,
    has_json,
    json_of_request,
    parse,
)
from hermes_lb.http.keys import MOST_IN_KEY
from hermes_lb.http.request import CHUNKED


@pytest.mark.parametrize(
    ("pointer", "text", "key"),
    [
        ("/id", b'{"id": "resp_1"}', b"resp_1"),
        ("/id", b'{"id": 7}', b"7"),
        ("/id", b'{"id": -7}', b"-7"),
        ("/params/taskId", b'{"params": {"taskId": "t"}, "taskId": "no"}', b"t"),
        ("/0/id", b'[{"id": "a"}, {"id": "b"}]', b"a"),
        ("/1/id", b'[{"id": "a"}, {"id": "b"}]', b"b"),
        ("/id", '{"id": "gr\u00fc\u00df"}'.encode(), "gr\u00fc\u00df".encode()),
        ("/id", b'{"id": "\\u0061\\/b"}', b"a/b"),
        ("/id", b'{"\\u0069d": "a"}', b"a"),
        # RFC 6901 section 5.
        ("/", b'{"": 1}', b"1"),
        ("/a~1b", b'{"a/b": 1}', b"1"),
        ("/m~0n", b'{"m~n": 1}', b"1"),
        ("/~01", b'{"~1": 1}', b"1"),
        ("/ ", b'{" ": 1}', b"1"),
        # Nothing there, or nothing that names a session.
        ("/id", b"{}", b""),
        ("/id", b"[]", b""),
        ("/id", b'"id"', b""),
        ("/id", b'{"id": ""}', b""),
        ("/id", b'{"id": null}', b""),
        ("/id", b'{"id": true}', b""),
        ("/id", b'{"id": 1.5}', b""),
        ("/id", b'{"id": 1e2}', b""),
        ("/id", b'{"id": {"id": "a"}}', b""),
        ("/id/id", b'{"id": "a"}', b""),
        ("/00", b'["a"]', b""),
        ("/-", b'["a"]', b""),
        ("/1", b'["a"]', b""),
        ("/9999999999", b'["a"]', b""),
        ("/id", b'{"id": "%b"}' % (b"x" * (MOST_IN_KEY + 1)), b""),
        ("/id", b'{"id": "%b"}' % (b"x" * MOST_IN_KEY), b"x" * MOST_IN_KEY),
        ("/id", b'{"id": %b}' % (b"1" * (MOST_IN_KEY + 1)), b""),
        ("/id", b'{"id": "\\ud800"}', b""),
    ],
)
def test_the_string_or_integer_at_a_pointer_is_the_key(
    pointer: str, text: bytes, key: bytes
) -> None:
    assert Pointer(pointer).key_in(parse(text)) == key


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"id": "a"', id="a beginning"),
        pytest.param(b'{"id": "a"} {}', id="two texts"),
        pytest.param(b"{'id': 'a'}", id="other quotes"),
        pytest.param(b'{"id": "a",}', id="a comma too many"),
        pytest.param(b'{"id": "a\nb"}', id="a control character"),
        pytest.param(b'{"id": "a", "x": NaN}', id="NaN"),
        pytest.param(b'{"id": "a", "x": -Infinity}', id="Infinity"),
        pytest.param(b'{"id": "a", "id": "b"}', id="twice"),
        pytest.param(b'{"id": "a", "id": "a"}', id="twice the same"),
        pytest.param(b'{"id": "a", "\\u0069d": "b"}', id="twice, once escaped"),
        pytest.param(b'{"id": "a", "x": "\xff"}', id="no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"id": "a"}', id="a byte order mark"),
        pytest.param('{"id": "a"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"id": "a", "x": %b}' % (b"[" * 30_000 + b"]" * 30_000), id="deep arrays"),
        pytest.param(
            b'{"id": "a", "x": %b}' % (b'{"a":' * 9_000 + b"1" + b"}" * 9_000), id="deep objects"
        ),
        pytest.param(b'{"id": "a", "x": %b' % (b"[" * 60_000), id="deep and cut"),
        pytest.param(b'{"id": "a", "x": %b}' % (b"9" * 60_000), id="a huge number"),
        pytest.param(b'{"id": "a", "x": [%b{}]}' % (b"{}," * 20_000), id="very many objects"),
    ],
)
def test_a_text_without_a_key_is_no_error(text: bytes) -> None:
    assert Pointer("/id").key_in(parse(text)) == b""


def test_a_name_that_is_there_twice_hides_only_itself() -> None:
    value = parse(b'{"id": "a", "x": {"y": 1, "y": 2, "z": 3}, "e": 1e999999}')
    assert Pointer("/id").key_in(value) == b"a"
    assert Pointer("/x/y").key_in(value) == b""
    assert Pointer("/x/z").key_in(value) == b"3"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """(pointer, value) of each place that is neither an array nor an object."""
    if isinstance(value, dict):
        named = [(name.replace("~", "~0").replace("/", "~1"), one) for name, one in value.items()]
    elif isinstance(value, list):
        named = [(str(place), one) for place, one in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for name, one in named for leaf in leaves(one, f"{path}/{name}")]


@given(_VALUES)
def test_each_place_has_its_pointer(value: Any) -> None:
    parsed = parse(json.dumps(value).encode())
    assert parsed == value
    for pointer, leaf in leaves(value):
        is_key = isinstance(leaf, str | int) and not isinstance(leaf, bool)
        assert Pointer(pointer).key_in(parsed) == (str(leaf).encode() if is_key else b"")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_value_or_none(text: bytes) -> None:
    assert isinstance(Pointer("/id").key_in(parse(text)), bytes)


@pytest.mark.parametrize(
    ("fields", "is_json"),
    [
        (b"Content-Type: application/json", True),
        (b"content-type:application/JSON ; charset=utf-8", True),
        (b"Content-Type: application/problem+json", True),
        (b"Content-Type: application/json\r\nContent-Encoding: identity", True),
        (b"Content-Type: application/json\r\nContent-Encoding: gzip", False),
        (b"Content-Encoding: br\r\nContent-Type: application/json", False),
        (b"Content-Type: application/json-seq", False),
        (b"Content-Type: application/x-ndjson", False),
        (b"Content-Type: text/json", False),
        (b"Content-Type: application/xjson", False),
        (b"X-Content-Type: application/json", False),
        (b"Content-Length: 3", False),
    ],
)
def test_what_is_read_as_json(fields: bytes, is_json: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % fields
    assert has_json(head) == is_json
    assert json_of_request(head + b"[1]") == ([1] if is_json else None)
    assert json_of_request(head) is None


def test_a_body_up_to_the_bound_is_read() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Type: application/json\r\n\r\n"
    text = b'"%b"' % (b"x" * (MOST_READ - 2))
    assert json_of_request(head + text) == "x" * (MOST_READ - 2)
    assert json_of_request(head + text + b" ") is None


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_a_text_comes_in_pieces_with_or_without_chunks(size: int) -> None:
    text = b'{"id": "%b"}' % (b"x" * 3000)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in cut(text, 11)) + b"0\r\n\r\n"
    for framing, wire in ((make_body(len(text), to_http11=False), text),
                          (make_body(CHUNKED, to_http11=False), chunks)):  # fmt: skip
        collected = JsonText(framing)
        for piece in cut(wire, size):
            collected.feed(piece)
        assert collected.text == text
        assert not collected.is_too_long


def test_nothing_is_kept_of_a_text_that_is_too_long() -> None:
    collected = JsonText(make_body(2 * MOST_READ, to_http11=False))
    collected.feed(b"x" * MOST_READ)
    assert not collected.is_too_long
    collected.feed(b"x")
    assert collected.is_too_long
    collected.feed(b"x")
    assert collected.text == b""


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
