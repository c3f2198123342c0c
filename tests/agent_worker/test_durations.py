import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("0", 0), (" 3 s ", 3)],
)
def test_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1e3s", "1 day", "1s2", "nan", "٣s"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="20ms"):
        parse_duration(text)


@given(st.integers(0, 100_000).map(lambda ms: ms / 1000))
def test_what_is_formatted_is_read_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)
