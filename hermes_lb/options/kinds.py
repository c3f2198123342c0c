"""A table whose keys depend on a kind: those of `[backends.NAME.strategy]` on `balance`.

Each kind has a model of its own options. A key of another kind is an error, which names the kinds
that have it: a setting without effect would go unnoticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hermes_lb.options.problems import any_of, did_you_mean, quoted
from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHER_KIND = "other_kind"
"""The type of the error for a key of another kind. Its message is for people as it is."""

INHERITED = "is_inherited"
"""In pydantic's context: keys of other kinds are dropped instead of refused."""


class Kinds:
    """The options of all kinds. `selector` is the key that says which kind it is.

    `undescribed`: a kind whose keys are in no JSON Schema, so that the problems of unknown ones are
    worded here.
    """

    def __init__(
        self, selector: str, models: Mapping[str, type[Section]], *, undescribed: str = ""
    ) -> None:
        self._selector = selector
        self._models = models
        self._undescribed = undescribed

    def validate(self, kind: str, given: Any, context: Any = None) -> Section:
        """A table, or a model -> the model of this kind; `context`: pydantic's.

        Raises ValidationError.
        """
        model = self._models[kind]
        if not isinstance(given, dict):
            return model.model_validate(given)
        foreign = {key: message for key in given if (message := self._foreign(kind, str(key)))}
        problems = [
            InitErrorDetails(
                type=PydanticCustomError(OTHER_KIND, "{text}", {"text": message}),
                loc=(key,),
                input=given[key],
            )
            for key, message in foreign.items()
            if INHERITED not in (context or ())
        ]
        try:
            options = model.model_validate({k: v for k, v in given.items() if k not in foreign})
        except ValidationError as error:
            problems += [
                InitErrorDetails(
                    type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {})
                )
                for one in error.errors(include_url=False)
            ]
        if problems:
            raise ValidationError.from_exception_data(model.__name__, problems)
        return options

    def validate_own(self, given: Any, default: str, context: Any = None) -> Section:
        """The same for a table that has the selector itself. Raises ValidationError."""
        kind = default
        if isinstance(given, dict):
            kind = given.get(self._selector, default)
        elif isinstance(given, Section):
            kind = getattr(given, self._selector)
        if isinstance(kind, str) and kind in self._models:
            return self.validate(kind, given, context)
        expected = any_of([repr(name) for name in self._models])
        unknown = InitErrorDetails(
            type="literal_error", loc=(self._selector,), input=kind, ctx={"expected": expected}
        )
        raise ValidationError.from_exception_data(self._selector, [unknown])

    def _foreign(self, kind: str, key: str) -> str | None:
        """The problem of a key that only other kinds have; None for any other key."""
        if key in self._models[kind].model_fields:
            return None
        owners = self._owners(key)
        if owners:
            return f"not an option of {quoted(kind)}; it belongs to {self._selector} = {owners}"
        own = self._models[kind].model_fields
        every = [name for model in self._models.values() for name in model.model_fields]
        near = did_you_mean(key, own) or did_you_mean(key, every)
        if kind == self._undescribed and (near is None or near in own):
            keys = f"the keys here are {', '.join(own)}" if own else "there are no keys here"
            return f"unknown key; {keys if near is None else f'did you mean {quoted(near)}?'}"
        if near is None or near in own:
            return None
        return (
            f"unknown key; did you mean {quoted(near)}? "
            f"It belongs to {self._selector} = {self._owners(near)}"
        )

    def _owners(self, key: str) -> str:
        names = [name for name, model in self._models.items() if key in model.model_fields]
        return any_of([quoted(name) for name in names]) if names else ""

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of a table with the keys of all kinds; kinds that share a key share its
        schema."""
        properties: dict[str, Any] = {}
        for model in self._models.values():
            for key, schema in model.model_json_schema().get("properties", {}).items():
                properties.setdefault(key, schema)
        if self._selector in properties:
            properties[self._selector] = {"type": "string", "enum": list(self._models)}
        return {"type": "object", "additionalProperties": False, "properties": properties}
