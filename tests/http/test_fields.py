"""The handling of a field by its name; and the memory that untrusted clients can fill.

From outside, through the parsers: how names are looked up is a matter of speed.
"""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import TYPE_CHECKING

import pytest

from hermes_lb.config import Limits
from hermes_lb.http import RequestParser, fields
from hermes_lb.http import request as request_module
from hermes_lb.http import response as response_module
from hermes_lb.http.bounded_cache import SizedCache
from hermes_lb.http.fields import REQUEST_FIELDS, RESPONSE_FIELDS, parse_content_length
from tests.support.heads import (
    ADDED,
    HANDSHAKE,
    forward,
    outcome,
    parse_request,
    request,
    request_parser,
    response,
    response_parser,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VALUES = {b"transfer-encoding": b"chunked", b"expect": b"100-continue", b"upgrade": b"websocket"}
_CASES = [bytes.lower, bytes.upper, bytes.title, bytes.swapcase]


def _told(parser, data: bytes) -> dict[str, object]:
    """The outcome, whatever the case of the names in what is sent."""
    told = outcome(parser, data)
    sent = told.pop("sent", b"")
    assert isinstance(sent, bytes)
    told.pop("names", None)
    told.pop("forwarded", None)
    return told | {"sent": sent.lower()}


@pytest.mark.parametrize("name", sorted(REQUEST_FIELDS))
def test_a_name_in_a_request_means_the_same_in_any_case(name: bytes) -> None:
    line = b": " + _VALUES.get(name, b"1")
    host = b"X: y" if name == b"host" else b"Host: a"
    told = [_told(request_parser(), request(case(name) + line, host=host)) for case in _CASES]
    assert told == told[:1] * len(_CASES)


@pytest.mark.parametrize("name", sorted(RESPONSE_FIELDS))
def test_a_name_in_a_response_means_the_same_in_any_case(name: bytes) -> None:
    line = b": " + _VALUES.get(name, b"1")
    told = [_told(response_parser(), response(case(name) + line)) for case in _CASES]
    assert told == told[:1] * len(_CASES)


@pytest.mark.parametrize("name", sorted(name for name in REQUEST_FIELDS if b"-" in name))
def test_row4_row23_twins_with_an_underscore_are_dropped(name: bytes) -> None:
    for twin in (name.replace(b"-", b"_"), name.replace(b"-", b"_", 1).upper()):
        sent = forward(parse_request(request(twin + b": evil", b"X: y")))
        assert sent == request(b"X: y")[:-2] + ADDED


@pytest.mark.parametrize(
    ("selecting", "dropped"),
    [
        (b"x-a-b", [b"X_A_B", b"x_a-b", b"X-A_b"]),
        (b"x_a", [b"X-A"]),
        (b"x_a-b", [b"X-A-B", b"x_a_b", b"x-a_b"]),
    ],
)
def test_twins_of_a_field_that_selects_are_dropped(selecting: bytes, dropped: list[bytes]) -> None:
    mine, ended = selecting.upper() + b": 1", (b"Connection: Z", b"Z: 1")
    for name, more in product(dropped, ((), ended)):
        data = request(name + b": evil", mine, b"X: y", *more)
        for kept, sent in (
            ((), [name + b": evil", mine, b"X: y"]),
            ((selecting,), [mine, b"X: y"]),
        ):
            head = RequestParser(Limits(), frozenset(kept)).parse(data)
            assert head.forwarded == b"".join(line + b"\r\n" for line in sent)


@pytest.mark.parametrize(
    "name", [*sorted(REQUEST_FIELDS), b"x-forwarded-port", b"proxy-x", b"host_", b"x_real_ip"]
)
def test_to_select_gives_a_field_no_other_meaning(name: bytes) -> None:
    """Above all, no client's word on itself passes because a session key reads it."""
    lines = [b"X: y"] if name == b"host" else [name + b": " + _VALUES.get(name, b"1"), b"X: y"]
    asked = [request(*lines), request(*lines, b"Connection: close")]
    plain, selecting = RequestParser(Limits()), RequestParser(Limits(), frozenset((name,)))
    for data in asked:
        assert outcome(selecting, data) == outcome(plain, data)


@pytest.mark.parametrize(
    "name",
    [
        b"X-Own",
        b"Hosts",
        b"_",
        b"X_Own",
        b"Host_",
        b"Content",
        b"%b",
        b"100%",
        b"%%",
        b"!#$%&'*+.^_`|~",
    ],
)
def test_unknown_names_are_forwarded(name: bytes) -> None:
    lines = (name + b": 1", b"TE: x", name + b": %b")
    sent = forward(parse_request(request(*lines)))
    assert sent == request(lines[0], lines[2])[:-2] + ADDED


def test_the_same_names_in_another_head_take_its_values() -> None:
    parser = request_parser()
    for value in (b"1", b"2"):
        head = parser.parse(request(b"X: " + value, b"Content-Length: " + value, b"Y: z" + value))
        assert head.length == int(value)
        assert b"\r\nX: %b\r\nY: z%b\r\n" % (value, value) in forward(head)


def test_a_nomination_in_one_head_does_not_count_in_the_next() -> None:
    parser = request_parser()
    for value, is_gone in ((b"x-a", True), (b"close", False), (b"x-b", False), (b"X-A", True)):
        head = parser.parse(request(b"Connection: " + value, b"X-A: 1"))
        assert (b"X-A" not in forward(head)) == is_gone


@pytest.mark.parametrize(
    ("value", "keep_alive", "is_upgrade"),
    [
        (b"close", False, False),
        (b"Keep-Alive,Upgrade", True, True),
        (b" x\t, CLOSE ", False, False),
        (b",, close ,,", False, False),
        (b"close, upgrade", False, True),
        (b"close close", True, False),
        (b'"close"', True, False),
        (b"close;q=1", True, False),
        (b"closed", True, False),
        (b"\xa0close", True, False),
        (b"", True, False),
        (b",", True, False),
    ],
)
def test_options_of_connection(value: bytes, keep_alive: bool, is_upgrade: bool) -> None:
    for _ in range(2):  # as new, and from memory
        lines = (b"Connection: " + value, b"Upgrade: websocket", *HANDSHAKE)
        head = parse_request(request(*lines))
        assert (head.keep_alive, head.upgrade == b"websocket") == (keep_alive, is_upgrade)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        row("zero", b"0", 0),
        row("one", b"1", 1),
        row("leading-zeros", b"005", 5),
        row("18-digits", b"9" * 18, 10**18 - 1),
        *(
            row(f"row5-{value[:20]!r}-{len(value)}", value, None)
            for value in (
                b"", b" ", b" 5", b"5\t", b"+5", b"-5", b"-0", b"0x5", b"5_0", b"5e0", b'"5"',
                b"5.0", b"5 5",
                b"5\n", b"5\x0b", b"5\xa0", b"5,5", b"5, 5", b"\xd9\xa5", b"\xb2", b"1" * 5000,
                b"9223372036854775808", b"18446744073709551621",
            )
        ),
    ],
)  # fmt: skip
def test_a_content_length_is_digits_below_2_63(value: bytes, number: int | None) -> None:
    assert parse_content_length(value) == number


# Caches are bounded in entries and in bytes: untrusted clients choose their contents.

_FILLER = b",".join(b"%x" % i for i in range(6_000))  # 30 KB
_CHOSEN: dict[str, Callable[[bytes], bytes]] = {
    "name": lambda text: request(b"X-%b: y" % text.replace(b",", b".")),
    "names": lambda text: request(*(b"%b: y" % name for name in text.split(b",")[:90])),
    "connection": lambda text: request(b"Connection: " + text),
    "host": lambda text: request(host=b"Host: " + text.replace(b",", b".")),
    "bad-host": lambda text: request(host=b"Host: " + text + b","),
    "authority": lambda text: request(line=b"GET http://%b/ HTTP/1.1" % text.replace(b",", b".")),
    "request-id": lambda text: request(b"X-Request-ID: " + text),
    "cookie": lambda text: request(b"Cookie: " + text),
}


@pytest.fixture
def _forgotten() -> None:
    """Empty the tables of the modules: one that is full already would not grow."""
    for module in (fields, request_module, response_module):
        for table in vars(module).values():
            if isinstance(table, dict) and type(table) is not dict:
                table.clear()


def _growth(heads: Iterator[bytes]) -> int:
    """Bytes that are still held after these heads."""
    parser = request_parser()
    tracemalloc.start()
    try:
        for head in heads:
            outcome(parser, head)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("chosen", _CHOSEN)
def test_row17_many_heads_leave_little_behind(chosen: str) -> None:
    make = _CHOSEN[chosen]
    assert _growth(make(b"%d,x" % i) for i in range(6_000)) < 8 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("chosen", _CHOSEN)
def test_row17_large_heads_leave_nothing_behind(chosen: str) -> None:
    make = _CHOSEN[chosen]
    size = 15_000 if chosen == "authority" else len(_FILLER)  # below the limit of a target
    assert _growth(make(b"%d,%b" % (i, _FILLER[:size])) for i in range(150)) < 1024 * 1024


def test_a_memory_of_keys_that_differ_in_size_is_emptied_when_they_are_too_many_or_too_much() -> (
    None
):
    memory: SizedCache[str, int] = SizedCache(most=4, longest=10, room=25)
    for number, (size, kept) in enumerate(
        [(10, 1), (10, 2), (11, 2), (5, 3), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 1), (10, 2)]
    ):
        assert memory.remember(str(number), size, number) == number
        assert len(memory) == kept
