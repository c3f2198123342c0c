"""Each file of the corpus, in all ways to cut it; and the format of these files."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.differential import corpus
from tests.differential.corpus import Case
from tests.differential.play import play
from tests.differential.request_grammar import RequestCase
from tests.differential.response_grammar import ResponseCase
from tests.support.cuts import byte_by_byte, cut
from tests.support.examples import examples

if TYPE_CHECKING:
    from tests.differential.arena import Arena

CASES = corpus.cases()
BYTEWISE = 2000  # bytes; longer ones only have a few cuts


def _ways(wire: bytes) -> list[list[bytes]]:
    random = Random(len(wire))
    cuts = [cut(wire, random.choices(range(len(wire) + 1), k=4)) for _ in range(3)]
    return [[wire], *([byte_by_byte(wire)] if len(wire) < BYTEWISE else []), *cuts]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=pytest.mark.row(case.row) if case.row else ())
        for case in CASES
    ],
)
def test_corpus(arena: Arena, case: Case) -> None:
    for pieces in _ways(case.wire):
        if case.request:
            verdict = play(arena, ResponseCase(case.request, pieces, case.ending))
        else:
            verdict = play(arena, RequestCase(pieces, case.early, case.refuses))
        if case.client is not None:
            assert (verdict.client, verdict.origin) == (case.client, case.origin), pieces
        if case.body is not None:
            assert verdict.body == case.body


def test_cases_say_what_must_come_of_them() -> None:
    """Those of the fuzzer don't, until a person has looked at them."""
    unexplained = [case.name for case in CASES if case.client is None]
    assert unexplained == [name for name in unexplained if name.startswith("found-")]


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("GET /\\r\\n\nHost: a\\r\\n\n", b"GET /\r\nHost: a\r\n"),
        ("a\nb", b"ab"),
        ("\\t\\0\\\\\\xff\\x20", b"\t\0\\\xff "),
        ("\\*3{a\\n}b", b"a\na\na\nb"),
        ("\\*0{a}", b""),
        ("", b""),
    ],
)
def test_what_a_line_stands_for(text: str, wire: bytes) -> None:
    assert corpus.unescape(text) == wire


@pytest.mark.parametrize("text", ["\\q", "\\", "\\xg0", "\\*{a}", "\\*3a"])
def test_no_escape(text: str) -> None:
    with pytest.raises(ValueError, match="not an escape"):
        corpus.unescape(text)


@pytest.mark.parametrize(
    "text", ["what: x\n", "what: x\nwho: y\n---\n", "client: 400\n---\nGET", "GET / HTTP/1.1\\r\\n"]
)
def test_no_case(text: str) -> None:
    with pytest.raises(ValueError, match="not a case"):
        corpus.read("name", text)


_wires = st.one_of(
    st.binary(max_size=60), st.text(" \\\r\n\t\0ax{*3}", max_size=60).map(str.encode)
)


@examples(200)
@given(wire=_wires, early=st.sampled_from([0, 413]), refuses=st.sampled_from([0, 417]))
def test_what_is_written_is_read(wire: bytes, early: int, refuses: int) -> None:
    case = Case("name", "what it is", wire, early=early, refuses=refuses)
    assert corpus.read("name", corpus.write(case)) == case


def test_a_response_is_written_and_read() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxxx"
    case = Case("name", "what", b"HTTP/1.1 200 OK\r\n\r\n", request=request, ending="reset")
    assert corpus.read("name", corpus.write(case)) == case
