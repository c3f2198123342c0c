"""The combined format beside lines that a real nginx 1.22.1 wrote, and against hostile requests."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe import combined
from hermes_lb.observe.escaping import LONGEST_LINE, Captured
from tests.observe.records import a_head, a_record

if TYPE_CHECKING:
    from collections.abc import Iterator

# As the readers of this format take it apart.
LINE = re.compile(
    r'(\S+) - - \[([^]"]+)\] "((?:[^"\\]|\\x[0-9A-F]{2})*)" (\d{3}) (\d+) '
    r'"((?:[^"\\]|\\x[0-9A-F]{2})*)" "((?:[^"\\]|\\x[0-9A-F]{2})*)"'
)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()
    combined.date.cache_clear()


def line(
    target: bytes = b"/", referer: bytes = b"", user_agent: bytes = b"", **changed: Any
) -> str:
    return combined.line(
        a_record(
            request=a_head(target=target), captured=Captured(referer, user_agent), bytes_sent=2,
            **changed,
        )
    )  # fmt: skip


def unescape(text: str) -> bytes:
    return re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), text).encode("latin-1")


def test_the_line_is_nginxs(zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "UTC")
    time.tzset()
    combined.date.cache_clear()
    began = datetime.fromisoformat("2026-11-25T14:09:55+00:00").timestamp()
    written = line(b'/a"b\\c', b"http://r/", b'x"y\\z\x7f\x80\xc3\xa9\t!', began=began)
    assert written == (
        r'127.0.0.1 - - [25/Nov/2026:14:09:55 +0000] "GET /a\x22b\x5Cc HTTP/1.1" 200 2 '
        r'"http://r/" "x\x22y\x5Cz\x7F\x80\xC3\xA9\x09!"'
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Asia/Kolkata", "01/Jan/1970:05:30:00 +0530"),
        ("America/St_Johns", "31/Dec/1969:20:30:00 -0330"),
    ],
)
def test_the_date_is_local_time_with_its_zone(
    name: str, shown: str, zone: pytest.MonkeyPatch
) -> None:
    zone.setenv("TZ", name)
    time.tzset()
    combined.date.cache_clear()
    assert combined.date(0) == shown


def test_what_is_not_there_is_a_dash() -> None:
    assert line().endswith('"-" "-"')
    refused = combined.line(a_record(client="", request=None, status=400))
    assert refused.startswith("- - - [")
    assert refused.endswith('] "-" 400 51 "-" "-"')


@pytest.mark.parametrize(
    ("status", "termination", "shown"),
    [(200, "CD", 200), (0, "CH", 499), (0, "CR--", 499), (0, "KH", 444)],
)
def test_an_end_without_a_response_has_nginxs_status_for_it(
    status: int, termination: str, shown: int
) -> None:
    written = line(status=status, termination=termination)
    assert f'HTTP/1.1" {shown} 2 ' in written


@given(target=st.binary(), referer=st.binary(), user_agent=st.binary())
def test_no_request_can_break_a_line(target: bytes, referer: bytes, user_agent: bytes) -> None:
    written = line(b"/" + target, referer, user_agent)
    match = LINE.fullmatch(written)
    assert match
    assert written.isascii()
    assert written.isprintable()
    assert unescape(match[3]) == b"GET /" + target + b" HTTP/1.1"
    assert unescape(match[6]) == (referer or b"-")
    assert unescape(match[7]) == (user_agent or b"-")


@pytest.mark.parametrize("byte", [b"x", b'"', b"\x80"])
def test_the_longest_line_fits_into_a_pipe_in_one_piece(byte: bytes) -> None:
    written = line(b"/" + byte * 20_000, byte * 30_000, byte * 30_000, client="f" * 45)
    assert len(written) <= LONGEST_LINE
    assert LINE.fullmatch(written)
