"""Values of a request's fields for a log, and how they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe.escaping import NOTHING_CAPTURED, Captured, capture, fit


@given(text=st.text(), most=st.integers(0, 50))
def test_what_is_cut_is_a_prefix_and_no_escape_is_broken(text: str, most: int) -> None:
    def escape(part: str) -> str:
        return "".join(char if char.isascii() else f"<{ord(char):x}>" for char in part)

    fitted = fit(text, most, escape)
    assert len(fitted) <= most
    assert any(fitted == escape(text[:cut]) for cut in range(len(text) + 1))
    if len(escape(text)) <= most:
        assert fitted == escape(text)


@pytest.mark.parametrize(
    ("fields", "captured"),
    [
        (b"", NOTHING_CAPTURED),
        (b"Accept: */*\r\n", NOTHING_CAPTURED),
        (b"User-Agent: a b\r\nReferer: http://c/\r\n", Captured(b"http://c/", b"a b")),
        (b"REFERER: d\r\nX: y\r\nuser-agent: e\r\n", Captured(b"d", b"e")),
        (b"user-agent: first\r\nUser-Agent: second\r\n", Captured(b"", b"first")),
        (b"X: User-Agent: no\r\nNo-User-Agent: no\r\n", NOTHING_CAPTURED),
        (b"User-Agent: \r\n", NOTHING_CAPTURED),
        (b"User-Agent: \xff\x80\r\n", Captured(b"", b"\xff\x80")),
    ],
)
def test_referer_and_user_agent_are_found(fields: bytes, captured: Captured) -> None:
    assert capture(fields) == captured
