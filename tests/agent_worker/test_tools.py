import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.storage.base import Storages
from agent_worker.tools import Effect, ToolContext, ToolError, default_toolbox
from agent_worker.tools.calculator import MAX_LENGTH, calculate
from agent_worker.tools.notes import MAX_NAME, MAX_NOTES, MAX_VALUE

NOON = datetime(2025, 3, 1, 12, 0, 5, tzinfo=UTC)


async def run(name: str, arguments: dict, notes: dict | None = None) -> str:
    context = ToolContext(notes={} if notes is None else notes, now=lambda: NOON)
    return await default_toolbox(Storages()).get(name).run(arguments, context)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * -4", "-20"),
        ("7 / 2", "3.5"),
        ("4 / 2", "2"),
        ("7 // 2 + 7 % 4", "6"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("+1.5", "1.5"),
        (" 1 ", "1"),
    ],
)
def test_arithmetic(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "foo",
        "__import__('os')",
        "(1).__class__",
        "[1][0]",
        "'a' * 9",
        "True + 1",
        "1 if 2 else 3",
        "1 << 9",
        "1; 2",
        "1\n2",
        "lambda: 1",
        "1j * 1j",
        "\0",
        "(" * 100 + ")" * 100,
        "-" * 199 + "1 1",
    ],
)
def test_what_is_not_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ToolError):
        calculate(expression)


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "9**99999", "(9**999)**999", "1e308*10", "2.0**99999", "9" * 201, "10**400/3"],
)
def test_what_grows_too_large_is_refused_before_it_is_computed(expression: str) -> None:
    with pytest.raises(ToolError):
        calculate(expression)


def test_division_by_zero_and_roots_of_negatives_are_named() -> None:
    with pytest.raises(ToolError, match="division by zero"):
        calculate("1 / 0")
    with pytest.raises(ToolError, match="division by zero"):
        calculate("0 ** -1")
    with pytest.raises(ToolError, match="not a real number"):
        calculate("(-8) ** 0.5")


@given(st.integers(), st.integers(), st.sampled_from("+-*"))
def test_whole_numbers_are_exact(left: int, right: int, op: str) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[op]
    expression = f"{left} {op} ({right})"
    if len(expression) <= MAX_LENGTH:
        assert calculate(expression) == str(expected)


@given(st.text(max_size=MAX_LENGTH))
def test_any_text_gives_a_value_or_a_tool_error(expression: str) -> None:
    with contextlib.suppress(ToolError):
        assert isinstance(calculate(expression), str)


async def test_the_clock_tells_the_time_it_is_given() -> None:
    assert await run("clock", {}) == "2025-03-01 12:00:05 UTC"


async def test_notes_are_kept_and_read() -> None:
    notes: dict[str, str] = {}
    await run("note_set", {"name": "colour", "value": "blue"}, notes)
    assert notes == {"colour": "blue"}
    assert await run("note_get", {"name": "colour"}, notes) == "blue"
    with pytest.raises(ToolError, match="no note 'size'"):
        await run("note_get", {"name": "size"}, notes)


async def test_notes_are_bounded() -> None:
    notes = {str(n): "x" for n in range(MAX_NOTES)}
    with pytest.raises(ToolError, match="already"):
        await run("note_set", {"name": "more", "value": "x"}, notes)
    assert await run("note_set", {"name": "0", "value": "y"}, notes) == "y"
    with pytest.raises(ToolError, match=str(MAX_NAME)):
        await run("note_set", {"name": "n" * (MAX_NAME + 1), "value": "x"})
    with pytest.raises(ToolError, match=str(MAX_VALUE)):
        await run("note_set", {"name": "n", "value": "x" * (MAX_VALUE + 1)})


@pytest.mark.parametrize("arguments", [{}, {"name": 7}, {"name": " "}, {"name": None}])
async def test_wrong_arguments_are_the_models_mistake(arguments: dict) -> None:
    with pytest.raises(ToolError, match="'name'"):
        await run("note_get", arguments)


def test_the_box_knows_its_tools_and_their_effects() -> None:
    box = default_toolbox(Storages())
    assert {spec.name: spec.effect for spec in box.specs} == {
        "clock": Effect.READ,
        "calculator": Effect.READ,
        "note_set": Effect.IDEMPOTENT,
        "note_get": Effect.READ,
        "produce": Effect.READ,
    }
    assert repr(box) == "Toolbox(clock, calculator, note_set, note_get, produce)"
    with pytest.raises(ToolError, match="no tool 'rm'"):
        box.get("rm")
