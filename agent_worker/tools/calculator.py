"""Arithmetic: interprets a syntax tree; nothing is evaluated as Python."""

from __future__ import annotations

import ast
import math
import operator
from typing import TYPE_CHECKING, Any

from agent_worker.tools.base import Effect, ToolError, ToolSpec, text_argument, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.tools.base import ToolContext

MAX_LENGTH = 200
# 4096 bits are 1,234 digits: more than needed, and computed in microseconds.
_MAX_BITS = 4096

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str:
    """The value of `expression` (+ - * / // % ** and parentheses), as text.

    Raises ToolError for anything else, for a division by zero, and for too large results.
    """
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"the expression exceeds {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body)
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError("this is not an arithmetic expression") from None
    except OverflowError:
        raise ToolError("the result is too large") from None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ToolError("the result is not a finite number")
        if value.is_integer() and abs(value) < 1e15:
            value = int(value)
    return str(value)


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
    raise ToolError("only numbers, + - * / // % ** and parentheses are allowed")


def _power(base: int | float, exponent: int | float) -> int | float:
    whole = isinstance(base, int) and isinstance(exponent, int)
    # Checked before it is computed: 9**9**9 has 370 million digits.
    if whole and abs(exponent) * max(int(base).bit_length(), 1) > _MAX_BITS:
        raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise ToolError("the result is not a real number")
    return _bounded(value)


def _bounded(value: int | float) -> int | float:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise OverflowError
    return value


class Calculator:
    spec = ToolSpec(
        "calculator", "The value of an arithmetic expression", Effect.READ, texts("expression")
    )

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        return calculate(text_argument(arguments, "expression", limit=MAX_LENGTH))
