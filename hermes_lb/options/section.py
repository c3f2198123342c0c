"""The base class of all sections."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hermes_lb.options.patterns import NAME

Name = Annotated[str, Field(pattern=NAME)]


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error.

    Strict: TOML has types, so `backup = "yes"` and `weight = "2"` are errors.
    """

    # By alias: `return`, which is no name in Python.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)
