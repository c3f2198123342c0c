"""The JSON format: whatever clients send, each line is one object with the same fields."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe import json_log
from hermes_lb.observe.escaping import LONGEST_LINE, Captured
from hermes_lb.observe.json_log import NULL, name, text, unique
from hermes_lb.observe.record import NEVER_SENT, Attempts, ToServer
from tests.observe.records import a_head, a_record

BIG = 10**12
FIELDS = (
    "time", "client", "client_port", "frontend", "backend", "server",
    "head_ms", "queue_ms", "connect_ms", "response_ms", "total_ms", "status",
    "bytes_received", "bytes_sent", "termination", "retries", "redispatched", "queued_behind",
    "method", "target", "version", "stream", "host", "referer", "user_agent", "request_id",
    "trace_id", "tls", "reason",
)  # fmt: skip


def line(
    target: bytes = b"", user_agent: bytes = b"", reason: str = "", referer: bytes = b"",
    **fields: bytes,
) -> str:  # fmt: skip
    """All values that clients do not choose have their greatest length."""
    far = BIG / 1000.0
    return json_log.line(
        a_record(
            client="f" * 45, port=65_535, frontend="n" * 64, backend="n" * 64, server="n" * 64,
            began=1_764_079_795.007, to_server=ToServer(far, far, far), response=far, total=far,
            status=BIG, bytes_received=BIG, bytes_sent=BIG, termination="----",
            attempts=Attempts(BIG, False, BIG, False), tls="TLSv1.3", reason=reason,
            request=a_head(b"M-SEARCH", target, trace_id=b"0" * 32, **fields),
            captured=Captured(referer, user_agent),
        )
    )  # fmt: skip


def test_the_fields_are_in_their_order() -> None:
    assert tuple(json.loads(line())) == FIELDS


def test_every_value_is_in_its_place() -> None:
    written = json_log.line(
        a_record(
            began=1_764_079_795.0075, to_server=ToServer(0.0015, 0.0025, 0.0035), response=0.0045,
            total=0.0055, bytes_received=6, bytes_sent=7, attempts=Attempts(8, True, 9, True),
            request=a_head(host=b"h", request_id=b"r", trace_id=b"t", version=2, stream=7),
            captured=Captured(b"from", b"agent"), tls="TLSv1.3", reason="why",
        )
    )  # fmt: skip
    assert tuple(json.loads(written).values()) == (
        "2025-11-25T14:09:55.007Z", "127.0.0.1", 38554, "fe", "be", "s1", 1, 2, 3, 4, 5, 200, 6, 7,
        "--NI", 8, True, 9, "GET", "/ok", "HTTP/2.0", 7, "h", "from", "agent", "r", "t", "TLSv1.3",
        "why",
    )  # fmt: skip


def test_of_what_was_no_request_nothing_is_known() -> None:
    read = json.loads(
        json_log.line(
            a_record(
                backend="", server="", to_server=NEVER_SENT, response=None, status=0, request=None
            )
        )
    )
    known = {name for name, value in read.items() if value is not None}
    assert known == {
        "time", "client", "client_port", "frontend", "total_ms", "bytes_received", "bytes_sent",
        "termination", "retries", "redispatched", "queued_behind",
    }  # fmt: skip


def test_the_time_is_utc_with_milliseconds() -> None:
    assert json.loads(json_log.date(1_764_079_795_007)) == "2025-11-25T14:09:55.007Z"


def test_what_is_not_there_is_null() -> None:
    assert (text(b""), unique(b""), name("")) == (NULL, NULL, NULL)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"/caf\xc3\xa9", "/café"),
        (b"/a\xffb", "/a\\xffb"),  # no UTF-8
        (b'/"\\\r\n\t\0', '/"\\\r\n\t\0'),
        ("/\u2028\u202e\U0001f600".encode(), "/\u2028\u202e\U0001f600"),
    ],
)
def test_bytes_are_read_as_utf8_and_kept_where_they_are_not(sent: bytes, read: str) -> None:
    assert json.loads(text(sent)) == read
    assert text(sent).isascii()


# So long that nothing is cut: a character may become twelve.
@given(
    target=st.binary(max_size=100) | st.text(max_size=100).map(str.encode),
    user_agent=st.binary(max_size=30),
    reason=st.text(max_size=30),
)
def test_no_request_can_break_a_line(target: bytes, user_agent: bytes, reason: str) -> None:
    written = line(target, user_agent, reason)
    assert written.isascii()
    assert written.isprintable()
    read = json.loads(written)
    assert read["target"] == (target.decode("utf-8", "backslashreplace") or None)
    assert read["user_agent"] == (user_agent.decode("utf-8", "backslashreplace") or None)
    assert read["reason"] == (reason or None)


@given(value=st.text(st.characters(max_codepoint=127), min_size=300, max_size=2000))
def test_a_long_value_is_cut_and_the_rest_is_as_it_was(value: str) -> None:
    written = text(value.encode(), 100)
    assert len(written) <= 100 + len('""')
    assert value.startswith(json.loads(written))
    assert len(json.loads(written)) >= 100 // len(r"\u0000")


@pytest.mark.parametrize("char", ["x", '"', "\x80", "é", "\U0001f600", "\0"])
def test_the_longest_line_fits_into_a_pipe_in_one_piece(char: str) -> None:
    sent = (char * 40_000).encode("latin-1" if char == "\x80" else "utf-8")
    written = line(
        target=sent, host=sent, referer=sent, user_agent=sent,
        request_id=b'"' * 128, reason=char * 1000,
    )  # fmt: skip
    assert len(written) <= LONGEST_LINE
    assert tuple(json.loads(written)) == FIELDS
