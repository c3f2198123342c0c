"""The description of the admin API, as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1).

Made of the declared endpoints and of pydantic's JSON Schemas of their shapes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from hermes_lb.control import shapes
from hermes_lb.control.api import Api
from hermes_lb.control.commands import CommandsApi
from hermes_lb.control.endpoints import PREFIX, Endpoint, endpoints_of
from hermes_lb.control.scaling import ScalingApi
from hermes_lb.control.turns_api import TurnsApi
from hermes_lb.observe.metric_table import version

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

    from hermes_lb.control.shapes import Given

Schema = dict[str, Any]

_ABOUT = """\
Queries and commands for operators. Without a token it is on loopback only, and open to every \
local process; with one, send `Authorization: Bearer TOKEN`. Commands need \
`Content-Type: application/json`, and are refused for pages of other origins."""

_ERRORS = {
    400: "the query or the body is invalid",
    401: "a token is needed",
    404: "no such backend or server",
    409: "not possible; the message has the reason",
    422: "the configuration has errors; the old one goes on",
    503: "too many live streams are open",
}
_ANY_ERROR = "another error, such as 403 for pages of other origins, or 415"
_REFERENCE = "#/components/schemas/{model}"


class _Generator(GenerateJsonSchema):
    """Without pydantic's titles; an answer has exactly its keys."""

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return {**super().typed_dict_schema(schema), "additionalProperties": False}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _untitled(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_untitled(one) for one in schema] if isinstance(schema, list) else schema


@cache
def _schemas() -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """By shape: where it is; and all of them by name."""
    found: list[Any] = [shapes.Error]
    for endpoint in _ENDPOINTS:
        found += [one for one in (endpoint.answers, endpoint.body) if one is not None]
    wanted = list({repr(one): one for one in found}.values())
    places, definitions = TypeAdapter.json_schemas(
        [(repr(one), "validation", TypeAdapter(one)) for one in wanted],
        ref_template=_REFERENCE,
        schema_generator=_Generator,
    )
    named = _untitled(definitions)["$defs"]
    return {key: _untitled(schema) for (key, _), schema in places.items()}, named


def _place(shape: Any) -> Schema:
    return _schemas()[0][repr(shape)]


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    content = {endpoint.media: {"schema": _place(endpoint.answers)}}
    responses: dict[str, Any] = {str(endpoint.status): {"description": "done", "content": content}}
    taken = (400,) if endpoint.body or endpoint.query else ()
    refusals = {str(code): _ERRORS[code] for code in sorted({401, *taken, *endpoint.errors})}
    for code, why in (refusals | {"default": _ANY_ERROR}).items():
        error = {"application/json": {"schema": _place(shapes.Error)}}
        responses[code] = {"description": why, "content": error}
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": responses}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    if endpoint.query is not None:
        parameters += _parameters(endpoint.query)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        body = {"application/json": {"schema": _place(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _parameters(query: type[Given]) -> list[Schema]:
    schema = _untitled(query.model_json_schema())
    return [
        {
            "name": name, "in": "query", "description": one.pop("description", ""), "schema": one,
        }
        for name, one in schema["properties"].items()
    ]  # fmt: skip


_ENDPOINTS = endpoints_of(Api, CommandsApi, ScalingApi, TurnsApi)


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for endpoint in _ENDPOINTS:
        methods = paths.setdefault(PREFIX + endpoint.path, {})
        methods[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hermes_lb", "version": version(), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": _schemas()[1],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
