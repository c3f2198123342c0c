"""The pure parts of the API: bodies, principals, the event format."""

from __future__ import annotations

import json

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.api.bodies import (
    MAX_CONTENT,
    MAX_METADATA,
    accepts_event_stream,
    content_of,
    idempotency_key_of,
    metadata_of,
    parse_object,
)
from agent_worker.api.principals import ANONYMOUS, Principals
from agent_worker.api.sse import encode_event
from agent_worker.errors import BadRequest, TooLarge, Unauthorized
from agent_worker.sessions import Event
from agent_worker.sessions.operations import dump

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_an_event_is_three_lines_and_an_empty_one() -> None:
    event = Event("17-2", "message.delta", dump({"content": "a\nb é"}))
    expected = 'id: 17-2\nevent: message.delta\ndata: {"content":"a\\nb é"}\n\n'
    assert encode_event(event) == expected.encode()


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_no_data_can_break_the_event_format(data: dict) -> None:
    encoded = encode_event(Event("1-1", "done", dump(data)))
    head, _, end = encoded.partition(b"data: ")
    assert head == b"id: 1-1\nevent: done\n"
    assert b"\n" not in end.removesuffix(b"\n\n")
    assert b"\r" not in encoded
    assert json.loads(end) == data


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_json_objects_are_read(value: dict) -> None:
    assert parse_object(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"content": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{} {}",
        b"{'a': 1}",
    ],
)
def test_everything_else_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_object(raw)


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_bad_request(raw: bytes) -> None:
    try:
        value = parse_object(raw)
    except BadRequest:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize("body", [{}, {"content": ""}, {"content": " \n"}, {"content": 7}])
def test_content_must_be_a_text(body: dict) -> None:
    with pytest.raises(BadRequest, match="content"):
        content_of(body)


def test_content_and_metadata_are_bounded() -> None:
    assert content_of({"content": "x" * MAX_CONTENT}) == "x" * MAX_CONTENT
    with pytest.raises(TooLarge):
        content_of({"content": "x" * (MAX_CONTENT + 1)})
    assert metadata_of({}) == {}
    assert metadata_of({"metadata": {"a": [1]}}) == {"a": [1]}
    with pytest.raises(TooLarge):
        metadata_of({"metadata": {"a": "x" * MAX_METADATA}})
    with pytest.raises(BadRequest):
        metadata_of({"metadata": []})


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.000", False),
        ("*/*", False),
        ("text/event-streams", False),
        ("", False),
        (",;,", False),
    ],
)
def test_accept_decides_between_json_and_events(accept: str, streams: bool) -> None:
    request = make_mocked_request("POST", "/", headers={"Accept": accept})
    assert accepts_event_stream(request) is streams


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256, "a\tb"])
def test_an_idempotency_key_is_visible_ascii(key: str) -> None:
    with pytest.raises(BadRequest):
        idempotency_key_of(make_mocked_request("POST", "/", headers={"Idempotency-Key": key}))


def test_a_good_idempotency_key_is_taken_as_it_is() -> None:
    headers = {"Idempotency-Key": "x" * 255}
    assert idempotency_key_of(make_mocked_request("POST", "/", headers=headers)) == "x" * 255
    assert idempotency_key_of(make_mocked_request("POST", "/")) is None


def test_without_configured_tokens_each_token_is_a_principal_of_its_own() -> None:
    principals = Principals()
    assert principals.is_open
    assert principals.identify(None) == ANONYMOUS
    one, two = principals.identify("Bearer one"), principals.identify("bearer two")
    assert len({one, two, ANONYMOUS}) == 3
    assert "one" not in one.removeprefix("token:")
    assert principals.identify("Bearer one") == one


def test_with_configured_tokens_only_these_are_let_in() -> None:
    principals = Principals({"s3cret": "ada"})
    assert not principals.is_open
    assert principals.identify("Bearer s3cret") == "user:ada"
    for header in (None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret"):
        with pytest.raises(Unauthorized):
            principals.identify(header)


@pytest.mark.parametrize("header", ["Basic dXNlcg==", "Bearer", "Bearer " + "x" * 5000, ""])
def test_a_malformed_authorization_is_refused_even_when_all_are_let_in(header: str) -> None:
    with pytest.raises(Unauthorized):
        Principals().identify(header)
