"""Streams of HTTP/2 on the arena: files, generated ones, and what the judge notices."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.differential import stream_corpus
from tests.differential.play import play
from tests.differential.stream_corpus import StreamFile
from tests.differential.stream_grammar import StreamCase, stream_cases
from tests.support.cuts import byte_by_byte, cut
from tests.support.examples import examples

if TYPE_CHECKING:
    from tests.differential.arena import Arena

FILES = stream_corpus.files()
EXAMPLES = examples(1500).max_examples


@pytest.mark.parametrize("file", [pytest.param(each, id=each.name) for each in FILES])
def test_corpus(arena: Arena, file: StreamFile) -> None:
    case = file.case()
    [wire] = case.pieces
    for pieces in (
        case.pieces,
        byte_by_byte(wire),
        cut(wire, [24, 33, 50]),
        cut(wire, [len(wire) - 3]),
    ):
        verdict = play(arena, case._replace(pieces=pieces))
        if file.client:
            assert (verdict.client, verdict.origin) == (
                [file.client], [file.origin] if file.origin else []
            ), pieces  # fmt: skip


@pytest.mark.hypothesis
@pytest.mark.timeout(300)
def test_a_stream_is_the_request_that_http1_would_be(arena: Arena) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(stream_cases())
    def play_one(case: StreamCase) -> None:
        outcomes[play(arena, case).refusal[:3]] += 1

    play_one()
    assert outcomes[""] > EXAMPLES / 4, outcomes  # or it has shown nothing
    assert outcomes["res"] > EXAMPLES / 4, outcomes
    # One in 50 has an answer with a status; which, the corpus says. The examples change with the
    # project's sources, from which hypothesis takes constants.
    assert outcomes.keys() > {"", "res"}, outcomes


@examples(200)
@given(stream_cases())
def test_what_is_written_is_read(case: StreamCase) -> None:
    file = StreamFile("name", "what it is", case.fields, case.body, case.trailers)
    assert stream_corpus.read("name", stream_corpus.write(file)) == file
