"""The published formats, by excerpts of the files themselves."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hermes_lb.lab import traces
from hermes_lb.lab.prefix_cache import BLOCK
from hermes_lb.lab.recording import PRIVATE, START, Recording, uncached

EXCERPTS = Path(__file__).parent / "excerpts"


def excerpt(name: str) -> Recording:
    return traces.read(EXCERPTS / name)


def test_agents_are_closed_loops_with_the_prefix_of_their_last_call() -> None:
    recording = excerpt("agent_sessions.csv")
    assert [len(session.calls) for session in recording.sessions] == [12, 16]
    assert not recording.has_starts
    calls = recording.sessions[0].calls
    assert [(call.after, call.pause) for call in calls[:3]] == [(START, 0.0), (0, 12.0), (1, 8.0)]
    assert (calls[1].input, calls[1].output, calls[1].length) == (72_762, 296, 9.19)
    stops: dict[int, int] = {}
    new = [uncached(call.input, call.blocks, stops) for call in calls[:2]]
    assert new == [71_175, 72_762 - 71_168 // BLOCK * BLOCK]


def test_a_sub_agent_has_a_loop_and_a_prefix_of_its_own() -> None:
    session = excerpt("agent_sessions.csv").sessions[1]
    main, sub, second = session.calls[0], session.calls[1], session.calls[2]
    assert (main.after, sub.after, second.after) == (START, START, 1)
    assert not set(main.blocks) & set(sub.blocks)
    assert second.blocks[0].start == sub.blocks[0].start
    assert session.calls[11].after == 0  # the main agent goes on when its own pause is over


def test_requests_of_azure_are_sessions_of_one() -> None:
    recording = excerpt("azure_llm.csv")
    assert recording.requests == len(recording.sessions) == 20
    second = recording.sessions[1]
    assert second.start == pytest.approx(4.314579, abs=1e-5)
    assert (second.calls[0].input, second.calls[0].output) == (396, 109)


def test_conversations_of_mooncake_share_blocks_that_no_other_has() -> None:
    recording = excerpt("mooncake.jsonl")
    assert recording.requests == 120
    assert len(recording.sessions) < 120
    longest = max(recording.sessions, key=lambda session: len(session.calls))
    assert [call.after for call in longest.calls] == list(range(START, len(longest.calls) - 1))
    for call in longest.calls:
        assert call.blocks[0].start == 0  # the system prompt, which all requests share
        assert call.blocks[-1].start >= PRIVATE
        assert sum(map(len, call.blocks)) == -(-call.input // BLOCK)


@pytest.mark.parametrize("name", ["agent_sessions.csv", "azure_llm.csv", "mooncake.jsonl"])
def test_a_file_may_be_packed_by_gzip(name: str, tmp_path: Path) -> None:
    packed = tmp_path / "trace.gz"
    packed.write_bytes(gzip.compress((EXCERPTS / name).read_bytes()))
    assert traces.read(packed).sessions == excerpt(name).sessions


def test_the_first_requests_are_of_the_first_sessions() -> None:
    recording = traces.read(EXCERPTS / "agent_sessions.csv", 15)
    assert [len(session.calls) for session in recording.sessions] == [12, 3]


HEADER = "session,agent,t,input_tokens,output_tokens,prefix_tokens,api_s,think_s\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER, "it has no request"),
        (HEADER + "1,,0.0,x,1,0,1.0,0.0\n", "line 2: 'x' is not a number from 0 to"),
        (HEADER + "1,,0.0,-1,1,0,1.0,0.0\n", "line 2: '-1' is not a number"),
        (HEADER + "1,,nan,1,1,0,1.0,0.0\n", "line 2: 'nan' is not a number"),
        (HEADER + "1,,0.0\n", "line 2 has 3 columns of 8"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", "line 2: 'now' is not a time"),
        (
            '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}\n{"a": 1}\n',
            "line 2 is not a request of Mooncake's format",
        ),
        (
            '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["1"]}\n',
            "line 1 is not a request of Mooncake's format",
        ),
        ("hello\n", "no line of it is a request in the format httplog"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported(content: str, said: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(content)
    with pytest.raises(ValueError, match=said):
        traces.read(trace)


def test_a_damaged_archive_is_reported(tmp_path: Path) -> None:
    trace = tmp_path / "trace.gz"
    trace.write_bytes(gzip.compress((EXCERPTS / "mooncake.jsonl").read_bytes())[:-4000])
    with pytest.raises(ValueError, match="is damaged"):
        traces.read(trace)
