"""The API description as an HTML page without scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOP = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} admin API</title>
<link rel="stylesheet" href="/page/style.css">
</head>
<body class="reading">
<header class="bar"><h1>{title} <span class="quiet">admin API {version}</span></h1>
<nav><a href="/">Dashboard</a> <a href="/api/v1/openapi.json">openapi.json</a></nav></header>
<main>
<p>{about}</p>
"""


def render(document: dict[str, Any]) -> str:
    """Render an OpenAPI document of ours."""
    info = document["info"]
    return "".join(
        (
            _TOP.format(
                title=escape(info["title"]),
                version=escape(info["version"]),
                about=_prose(info["description"]),
            ),
            *_operations(document["paths"]),
            "<h2>Shapes</h2>\n",
            *_shapes(document["components"]["schemas"]),
            "</main>\n</body>\n</html>\n",
        )
    )


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield (
                f'<section class="operation"><h2><code class="method {method}">{method.upper()}'
                f"</code> <code>{escape(path)}</code></h2>\n"
                f"<p>{escape(operation['summary'])}.</p>\n<dl>\n"
            )
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "query":
                    yield _row(f"?{parameter['name']}=", escape(parameter["description"]))
            if body := operation.get("requestBody"):
                yield _row("body", _content(body))
            for status, response in operation["responses"].items():
                yield _row(status, f"{escape(response['description'])}: {_content(response)}")
            yield "</dl></section>\n"


def _row(name: str, html: str) -> str:
    return f"<dt><code>{escape(name)}</code></dt><dd>{html}</dd>\n"


def _content(part: dict[str, Any]) -> str:
    ((media, content),) = part["content"].items()
    suffix = "" if media == "application/json" else f" ({escape(media)})"
    return _type(content["schema"]) + suffix


def _shapes(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<section class="shape" id="{escape(name)}"><h3>{escape(name)}</h3>\n<dl>\n'
        for key, value in schema.get("properties", {}).items():
            about = value.get("description", "")
            yield _row(key, _type(value) + (f": {escape(about)}" if about else ""))
        yield "</dl></section>\n"


def _type(schema: dict[str, Any]) -> str:
    """A schema in short, with links to named ones."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object" and schema.get("properties"):
        return "{" + ", ".join(map(escape, schema["properties"])) + "}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(kind)


def _prose(text: str) -> str:
    """Escaped; backticks become `<code>`."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
