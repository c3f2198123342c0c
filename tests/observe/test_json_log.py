"""The JSON format: whatever strangers send, each line is one object with the same fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe import json_log
from hermes_lb.observe.escaping import LONGEST_LINE
from hermes_lb.observe.json_log import NULL, TARGET_MOST, Entry, format_line, name, text, unique

BIG = 10**12


def line(**fields: Any) -> str:
    """Every field has its longest value, but for those given."""
    longest: dict[str, Any] = dict.fromkeys(Entry._fields, BIG)
    longest |= dict.fromkeys(("frontend", "backend", "server"), name("n" * 64))
    longest |= {
        "time": json_log.date(BIG), "client": name("f" * 45), "termination": '"----"',
        "redispatched": json_log.FALSE, "method": text(b"M-SEARCH"), "version": '"HTTP/1.1"',
        "tls": '"TLSv1.3"', "trace_id": unique(b"0" * 32),
    }  # fmt: skip
    hostile = {"target": NULL, "host": NULL, "referer": NULL, "user_agent": NULL,
               "request_id": NULL, "reason": NULL}  # fmt: skip
    return format_line(Entry(**{**longest, **hostile, **fields}))


def test_the_fields_are_in_their_order() -> None:
    assert tuple(json.loads(line())) == Entry._fields


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
    written = line(
        target=text(target, TARGET_MOST), user_agent=text(user_agent), reason=name(reason)
    )
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
        target=text(sent, TARGET_MOST), host=text(sent), referer=text(sent), user_agent=text(sent),
        request_id=unique(b'"' * 128), reason=name(char * 1000),
    )  # fmt: skip
    assert len(written) <= LONGEST_LINE
    assert tuple(json.loads(written)) == Entry._fields
