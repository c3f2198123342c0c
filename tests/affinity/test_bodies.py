"""Session keys in the body of a response: a JSON text, or the first events of a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity.keys import KeyOptions, KeyRules
from hermes_lb.http import ResponseParser
from hermes_lb.http.json_keys import MOST_READ
from tests.support.documented import stick_rules

if TYPE_CHECKING:
    from hermes_lb.affinity.bodies import BodyReader
    from hermes_lb.http import ResponseHead

RULE = KeyOptions(
    on="json:/previous",
    learn=True,
    response=["json:/id", "event:/response/id", "json:/other", "engineio:/sid"],
)
CREATED = b'data: {"response": {"id": "r"}}\n\n'


def reader(kind: str, *fields: bytes, status: int = 200, is_chunked: bool = False) -> BodyReader:
    found = maybe(kind, *fields, status=status, is_chunked=is_chunked)
    assert found is not None
    return found


def maybe(
    kind: str, *fields: bytes, status: int = 200, is_chunked: bool = False, rule: KeyOptions = RULE
) -> BodyReader | None:
    head = response_head(kind, *fields, status=status)
    return KeyRules([rule]).reader(head, is_chunked=is_chunked)


def response_head(kind: str, *fields: bytes, status: int = 200) -> ResponseHead:
    lines = [b"HTTP/1.1 %d OK" % status, b"Content-Type: " + kind.encode(), *fields]
    return ResponseParser(100).parse(b"\r\n".join(lines) + b"\r\n\r\n")


def keys(reader: BodyReader, *pieces: bytes) -> list[bytes]:
    found = []
    for piece in pieces:
        assert not reader.is_over
        found += reader.feed(piece)
    return found + ([] if reader.is_over else reader.end())


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("text/html", (), 200),
        ("application/x-ndjson", (), 200),
        ("application/json", (b"Content-Encoding: gzip",), 200),
        ("text/event-stream", (b"Content-Encoding: gzip",), 200),
        ("application/json", (), 404),
        ("text/event-stream", (), 500),
    ],
)
def test_which_responses_are_not_read(kind: str, fields: tuple[bytes, ...], status: int) -> None:
    assert maybe(kind, *fields, status=status) is None


@pytest.mark.parametrize(
    "rule",
    [
        KeyOptions(on="header:A", learn=True),
        KeyOptions(on="json:/id"),
        KeyOptions(on="json:/id", learn=True, response="location:/{id}"),
    ],
)
def test_a_rule_without_a_source_in_bodies_reads_none(rule: KeyOptions) -> None:
    assert maybe("application/json", rule=rule) is None
    assert maybe("text/event-stream", rule=rule) is None
    assert maybe("text/plain", rule=rule) is None


def test_a_json_text_names_its_keys_at_its_end() -> None:
    text = b'{"id": "r", "other": 7}'
    whole = reader("application/json; charset=utf-8")
    assert whole.feed(text) == []
    assert whole.end() == [b"r", b"7"]
    assert keys(reader("application/json"), *bytewise(text)) == [b"r", b"7"]
    in_chunks = chunked(text[:5], text[5:]) + b"0\r\n\r\n"
    assert keys(reader("application/json", is_chunked=True), *bytewise(in_chunks)) == [b"r", b"7"]


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (b'0{"sid": "s", "upgrades": ["websocket"]}', [b"s"]),
        (b'40{"sid": "no"}', []),  # a packet of Socket.IO within the session
        (b'{"sid": "no"}', []),
        (b"0", []),
        (b"ok", []),
        (b"", []),
    ],
)
def test_the_packet_that_opens_a_session_of_engine_io_names_it(
    packet: bytes, found: list[bytes]
) -> None:
    assert keys(reader("text/plain; charset=UTF-8"), *bytewise(packet)) == found


def test_a_long_json_text_is_given_up() -> None:
    long = reader("application/json")
    assert keys(long, b'{"id": "r", "x": "', b"x" * MOST_READ) == []
    assert long.is_over


@pytest.mark.parametrize(
    "stream",
    [
        CREATED,
        CREATED.replace(b"\n", b"\r\n"),
        CREATED.replace(b"\n", b"\r"),
        b": a comment\n\nretry: 5\n\nid: 1\ndata:\n\n" + CREATED,
        b'event: other\ndata: {"response": 1}\n\n' + CREATED + b"data: [DONE]\n\n",
        b'data: {"response":\ndata:  {"id": "r"}}\n\n',
        b"id: 1\nevent: created\n" + CREATED,
        b"data: not JSON\n\n" * 9 + CREATED,
    ],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_the_first_event_with_a_key_names_it(stream: bytes, is_chunked: bool) -> None:
    for pieces in ([stream], bytewise(stream)):
        on_wire = [chunked(piece) for piece in pieces] if is_chunked else pieces
        found = []
        events = reader("text/event-stream", is_chunked=is_chunked)
        for piece in on_wire:
            if not events.is_over:
                found += events.feed(piece)
        assert (found, events.is_over) == ([b"r"], True)


def test_an_event_that_is_not_complete_names_nothing() -> None:
    events = reader("text/event-stream")
    assert keys(events, CREATED[:-1]) == []
    assert not events.is_over


@pytest.mark.parametrize("before", [b"data: {}\n\n" * 16, b"data: %b\n\n" % (b"x" * MOST_READ)])
def test_a_stream_that_does_not_begin_with_its_key_is_given_up(before: bytes) -> None:
    events = reader("text/event-stream")
    assert keys(events, before) == []
    assert events.is_over


@pytest.mark.parametrize(
    ("backend", "result", "params"),
    [
        # MCP 2026-07-28 (SEP-2663), and 2025-11-25 (`CreateTaskResult` of the schema).
        ("tools", {"resultType": "task", "taskId": "t", "status": "working"}, {"taskId": "t"}),
        ("tools", {"task": {"taskId": "t", "status": "working"}}, {"taskId": "t"}),
        # A2A 1.0 (`SendMessageResponse`, `GetTaskRequest`), and 0.3 (`Task`, `TaskQueryParams`).
        ("peers", {"task": {"id": "t", "contextId": "c"}}, {"id": "t"}),
        ("peers", {"kind": "task", "id": "t", "contextId": "c"}, {"id": "t"}),
        ("peers", {"task": {"id": "t"}}, {"message": {"taskId": "t", "role": "ROLE_USER"}}),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_the_documented_rules_find_tasks_of_json_rpc(
    backend: str, result: object, params: object, is_stream: bool
) -> None:
    rules = KeyRules([KeyOptions(**rule) for rule in stick_rules(backend)])
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    if is_stream:
        head = response_head("text/event-stream")
        found = rules.reader(head, is_chunked=False)
        answer = b"event: message\ndata: %b\n\n" % answer
    else:
        found = rules.reader(response_head("application/json"), is_chunked=False)
    assert found is not None
    assert found.feed(answer) + ([] if is_stream else found.end()) == [b"t"]
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": params})
    request = f"POST / HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{body}".encode()
    session = rules.find(request, "")
    assert session is not None
    assert session.key == b"t"
