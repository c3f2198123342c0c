"""Pages in the place of the balancer's own texts: by status, for all or for a route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import load_config
from hermes_lb.config.error_pages import MOST
from hermes_lb.options.problems import ConfigError
from tests.support.http_peer import request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

PAGES = {"404.html": "<p>gone</p>", "any.json": '{"error": true}', "route.txt": "of the route"}


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, str]:
    """Files by their names."""
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in PAGES}


@pytest.mark.parametrize(
    ("target", "status", "kind", "body"),
    [
        ("/none", 404, "text/html; charset=utf-8", b"<p>gone</p>"),
        ("/route/404", 404, "text/html; charset=utf-8", b"<p>gone</p>"),
        ("/route/410", 410, "application/json", b'{"error": true}'),
        ("/route/down", 503, "text/plain; charset=utf-8", b"of the route"),
        ("/down", 503, "text/plain; charset=utf-8",
         b"503 Service Unavailable: no server is available, please try again\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_status_has_its_page(
    stage: Stage, pages: dict[str, str], method: str, target: str, status: int, kind: str,
    body: bytes,
) -> None:  # fmt: skip
    lb = await stage.balancer(
        stage.nobody(),
        backend={"retries": 0},
        frontend={
            "default_backend": None,
            "routes": [
                {"path": "/route/404", "return": 404},
                {"path": "/route/410", "return": 410},
                {"path": "/route/down", "backend": "agents",
                 "error_pages": {"5xx": pages["route.txt"]}},
                {"path": "/down", "backend": "agents"},
            ],
        },
        error_pages={"404": pages["404.html"], "4xx": {"file": pages["any.json"]}},
    )  # fmt: skip
    client = await stage.client(lb)
    await client.send(request(method, target))
    answer = await client.read_response(method=method)
    assert (answer.status, answer.get("Content-Type")) == (status, kind)
    assert answer.get("Content-Length") == str(len(body))
    assert answer.body == (body if method == "GET" else b"")


@pytest.mark.http1_only("such bytes are no request of HTTP/2")
async def test_what_is_no_request_has_a_page_too(stage: Stage, pages: dict[str, str]) -> None:
    _, client, _ = await stage.served(error_pages={"4xx": pages["any.json"]})
    answer = await client.answer_to(b"GET / HTTP/1.1\r\n\r\n")
    assert (answer.status, answer.body) == (400, b'{"error": true}')


async def test_a_page_of_a_server_is_the_servers(stage: Stage, pages: dict[str, str]) -> None:
    _, client, origin = await stage.line(error_pages={"5xx": pages["any.json"]})
    await client.get()
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"of the server", status=503)
    assert (await client.read_response()).body == b"of the server"


async def test_a_reload_reads_the_files_again(stage: Stage, pages: dict[str, str]) -> None:
    lb = await stage.balancer(
        stage.nobody(), frontend={"routes": [{"return": 404}]},
        error_pages={"404": pages["404.html"]},
    )  # fmt: skip
    tables: dict[str, Any] = lb.config.model_dump()
    tables["error_pages"] = {"404": pages["route.txt"]}
    changes = await lb.reconfigure(tables)
    assert [line.partition(":")[0] for line in changes] == [
        "error_pages.404.file", "error_pages.404.text",
    ]  # fmt: skip
    assert (await stage.ask(lb)).body == b"of the route"


def configured(pages: dict[str, Any]) -> dict[str, Any]:
    return {
        "frontends": [{"name": "f", "bind": "*:1", "default_backend": "b"}],
        "backends": {"b": {"servers": [{"name": "s", "address": "127.0.0.1:1"}]}},
        "error_pages": pages,
    }


def test_problems_of_files_are_reported_at_once_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "large.html").write_bytes(b"x" * (MOST + 1))
    (tmp_path / "latin.html").write_bytes(b"\xe9")
    pages = {
        "404": str(tmp_path / "none.html"),
        "500": str(tmp_path / "large.html"),
        "502": str(tmp_path / "latin.html"),
        "503": str(tmp_path),
    }
    with pytest.raises(ConfigError) as caught:
        load_config(configured(pages))
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert list(found) == [f"error_pages.{key}" for key in pages]
    texts = list(found.values())
    assert "No such file" in texts[0]
    assert "has more than 64 KiB" in texts[1]
    assert "is not UTF-8" in texts[2]
    assert "it is no file" in texts[3]


def test_a_page_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    """By a worker that starts later, for example."""
    path = tmp_path / "404.html"
    path.write_text("one")
    config = load_config(configured({"404": str(path)}))
    path.unlink()
    again = type(config).inherited(config.model_dump(mode="json"))
    assert again.error_pages["404"].text == "one"
    assert load_config({**config.model_dump()}) == config


@pytest.mark.parametrize("status", ["200", "600", "4x", "404.html"])
def test_only_errors_have_pages(status: str) -> None:
    with pytest.raises(ConfigError, match="a status such as 503"):
        load_config(configured({status: "x"}))
