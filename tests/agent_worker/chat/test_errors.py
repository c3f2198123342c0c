"""Errors raise the SDK's own exceptions, and have OpenAI's form for other clients."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from agent_worker.api.chat_messages import MAX_MESSAGES
from agent_worker.models import EngineOptions, TextDelta
from tests.support.agent.chat import BEARER, CLOCK, MODEL, assistant, chunks_of, user
from tests.support.agent.engines import PlannedEngine
from tests.support.examples import examples
from tests.support.needs import needs_package

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.chat.conftest import StartSystem
    from tests.support.agent.running_worker import RunningWorker

openai = needs_package("openai")

COMPLETIONS = "/v1/chat/completions"
GO = [user("go")]
TEXT = {"Content-Type": "text/plain"}


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def calls(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call(each) for each in ids]}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "noon"}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "clock", **function}}


async def test_an_unknown_token_is_an_authentication_error(start_system: StartSystem) -> None:
    system = await start_system(tokens={"t-ada": "ada"})
    for request in (
        system.ask("go"),
        system.ask("go", session="new"),
        system.client.models.list(),
        system.client.models.retrieve(MODEL),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            await request
        assert caught.value.code == "unauthorized"
        assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_session_that_is_unknown_or_anothers_is_not_found(
    start_system: StartSystem,
) -> None:
    system = await start_system()
    answer = await system.answer("go", session="new")
    sid = answer.headers["X-Hermes-Session-Id"]
    other = system.client.with_options(api_key="another")
    for client, session in ((other, sid), (system.client, "x" * 32), (system.client, "*")):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(
                model=MODEL, messages=GO, extra_headers={"X-Hermes-Session-Id": session}
            )
        assert caught.value.code == "session_not_found"
        assert "X-Hermes-Session-Id" not in caught.value.response.headers


async def test_an_unknown_model_is_not_found(start_system: StartSystem) -> None:
    system = await start_system()
    for request in (system.ask("go", model="gpt"), system.client.models.retrieve("org/gpt")):
        with pytest.raises(openai.NotFoundError) as caught:
            await request
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_the_models_are_the_agent_its_engine_and_the_engines_model(
    start_system: StartSystem,
) -> None:
    system = await start_system()
    assert [model.id async for model in system.client.models.list()] == [MODEL, "scripted"]
    system = await start_system(engine_options=EngineOptions(model="org/large"))
    listed = [model.id async for model in system.client.models.list()]
    assert listed == [MODEL, "scripted", "org/large"]
    for model in listed:
        found = await system.client.models.retrieve(model)
        assert (found.id, found.object, found.owned_by) == (model, "model", "hermes")
        assert (await system.ask("go", model=model)).model == model


async def test_without_redis_a_kept_session_is_unavailable(
    start_system: StartSystem, own_redis_server: RedisServer
) -> None:
    system = await start_system(redis_url=own_redis_server.url)
    sid = (await system.answer("go", session="new")).headers["X-Hermes-Session-Id"]
    own_redis_server.stop()
    for session in (sid, "new"):
        with pytest.raises(openai.InternalServerError) as caught:
            await system.ask("go", session=session)
        assert (caught.value.status_code, caught.value.code) == (503, "store_unavailable")
        assert caught.value.response.headers["X-Hermes-Degraded"] == "store"
        assert int(caught.value.response.headers["Retry-After"]) >= 1


async def test_an_engine_that_fails_is_tried_again_without_a_session(
    start_system: StartSystem,
) -> None:
    """Nothing was stored, so the SDK's own retries are harmless."""
    engine = PlannedEngine([RuntimeError("s3cret")], [TextDelta("here")])
    system = await start_system(engine=engine, max_retries=1)
    assert (await system.ask("go")).choices[0].message.content == "here"


async def test_an_engine_that_fails_in_a_stream_without_a_session(
    start_system: StartSystem, http: ClientSession
) -> None:
    broken = [TextDelta("a"), RuntimeError("s3cret")]
    system = await start_system(engine=PlannedEngine(broken, list(broken)))
    stream = await system.ask("go", stream=True)
    with pytest.raises(openai.APIError, match="The model failed to answer") as caught:
        await chunks_of(stream)
    assert caught.value.code == "engine_failed"
    body = {"model": MODEL, "messages": GO, "stream": True}
    async with http.post(system.url + COMPLETIONS, json=body, headers=BEARER) as response:
        events = (await response.text()).split("\n\n")
    assert events[-1] == ""
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert not any("[DONE]" in event for event in events)


BAD = [
    ({"messages": "go"}, "messages", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": None}, "messages", "invalid_value"),
    ({"messages": ["go"]}, "messages[0]", "invalid_value"),
    ({"messages": [{"content": "go"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [user(None)]}, "messages[0].content", "invalid_value"),
    ({"messages": [user(7)]}, "messages[0].content", "invalid_value"),
    ({"messages": [user([])]}, "messages[0].content", "invalid_value"),
    ({"messages": [user(["go"])]}, "messages[0].content[0]", "unsupported_value"),
    (
        {"messages": [user([{"type": "text", "text": "x"}, {"type": "image_url"}])]},
        "messages[0].content[1]",
        "unsupported_value",
    ),
    (
        {"messages": [user([{"type": "text", "text": None}])]},
        "messages[0].content[0].text",
        "invalid_value",
    ),
    ({"messages": [*GO, assistant("done")]}, "messages", "invalid_value"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
    ({"messages": [calls("a"), result("a")]}, "messages", "invalid_value"),
    ({"messages": [*GO, result("a")]}, "messages[1].tool_call_id", "invalid_value"),
    ({"messages": [*GO, calls("a")]}, "messages", "invalid_value"),
    ({"messages": [*GO, calls("a"), *GO]}, "messages", "invalid_value"),
    ({"messages": [*GO, calls("a"), *GO, result("a")]}, "messages", "invalid_value"),
    ({"messages": [*GO, calls("a", "b"), result("b")]}, "messages", "invalid_value"),
    (
        {"messages": [*GO, calls("a"), result("a"), result("a")]},
        "messages[3].tool_call_id",
        "invalid_value",
    ),
    ({"messages": [*GO, calls("a", "a")]}, "messages[1].tool_calls", "invalid_value"),
    (
        {"messages": [*GO, {**calls(), "tool_calls": {"a": 1}}]},
        "messages[1].tool_calls",
        "invalid_value",
    ),
    (
        {"messages": [*GO, {**calls(), "tool_calls": [{"type": "custom"}]}]},
        "messages[1].tool_calls[0]",
        "unsupported_value",
    ),
    (
        {"messages": [*GO, {**calls(), "tool_calls": [{**call("a"), "function": {}}]}]},
        "messages[1].tool_calls[0].function.arguments",
        "invalid_value",
    ),
    ({"messages": [user("")] * (MAX_MESSAGES + 1)}, "messages", "invalid_value"),
    ({"messages": [user("x" * 200_000)] * 3}, None, "context_length_exceeded"),
    ({"model": None}, "model", "invalid_value"),
    ({"model": 7}, "model", "invalid_value"),
    ({"n": 2}, "n", "unsupported_value"),
    ({"n": True}, "n", "unsupported_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": 7}, "stream_options", "invalid_value"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "invalid_value",
    ),
    ({"tool_choice": "required", "tools": [CLOCK]}, "tool_choice", "unsupported_value"),
    ({"tool_choice": tool(), "tools": [CLOCK]}, "tool_choice", "unsupported_value"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
    ({"functions": []}, "functions", "unsupported_value"),
    ({"tools": {}}, "tools", "invalid_value"),
    ({"tools": [CLOCK, CLOCK]}, "tools", "invalid_value"),
    ({"tools": [tool(name=f"t{n}") for n in range(129)]}, "tools", "invalid_value"),
    ({"tools": [{"type": "custom"}]}, "tools[0]", "unsupported_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "invalid_value"),
    ({"tools": [CLOCK, tool(name="a b")]}, "tools[1].function.name", "invalid_value"),
    ({"tools": [tool(description=7)]}, "tools[0].function.description", "invalid_value"),
    (
        {"tools": [tool(parameters=json.loads('{"a":' * 65 + "{}" + "}" * 65))]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD)
async def test_a_body_that_is_wrong_says_where(
    worker: RunningWorker, body: Any, param: str | None, code: str
) -> None:
    body = {"model": MODEL, "messages": GO, **body}
    async with worker.http.post(COMPLETIONS, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


async def test_the_sdk_raises_a_bad_request(start_system: StartSystem) -> None:
    system = await start_system()
    with pytest.raises(openai.BadRequestError) as caught:
        await system.ask("go", n=2)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_value")
    with pytest.raises(openai.BadRequestError) as caught:
        await system.ask("go", session="new", extra_headers={"Idempotency-Key": "a b"})
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    "messages", [[user("x" * 300_000)], [user("x" * 250_000)] * 5, [user(["x" * 1100_000])]]
)
async def test_what_is_too_large_is_a_413(start_system: StartSystem, messages: Any) -> None:
    system = await start_system()
    with pytest.raises(openai.APIStatusError) as caught:
        await system.ask(*messages)
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "data", "headers", "status", "code"),
    [
        ("POST", "/chat/completions", b"", {}, 400, "invalid_value"),
        ("POST", "/chat/completions", b"{", {}, 400, "bad_request"),
        ("POST", "/chat/completions", b"[]", {}, 400, "bad_request"),
        ("POST", "/chat/completions", b"\xff", {}, 400, "bad_request"),
        ("POST", "/chat/completions", b"[" * 100_000, {}, 400, "bad_request"),
        ("POST", "/chat/completions", b'{"model":"\\udc00"}', {}, 400, "bad_request"),
        ("POST", "/chat/completions", b"a", TEXT, 415, "unsupported_media_type"),
        ("GET", "/chat/completions", b"", {}, 405, "method_not_allowed"),
        ("POST", "/embeddings", b"{}", {}, 404, "not_found"),
        ("GET", "/", b"", {}, 404, "not_found"),
    ],
)
async def test_each_error_below_v1_has_openais_form(
    worker: RunningWorker,
    method: str,
    path: str,
    data: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    async with worker.http.request(
        method, f"{worker.url}/v1{path}", data=data, headers=headers
    ) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")


@pytest.mark.parametrize("value", ["", "one, two"])
async def test_a_session_header_that_names_no_session(worker: RunningWorker, value: str) -> None:
    headers = [("X-Hermes-Session-Id", each) for each in value.split(", ")]
    async with worker.http.post(
        COMPLETIONS, json={"model": MODEL, "messages": GO}, headers=headers
    ) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_request")


async def test_a_bug_tells_the_client_nothing(
    start_system: StartSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start_system()

    def broken(*args: object) -> None:
        raise RuntimeError("s3cret")

    monkeypatch.setattr("agent_worker.api.chat.chat_request_of", broken)
    with pytest.raises(openai.InternalServerError) as caught:
        await system.ask("go")
    assert (caught.value.status_code, caught.value.code) == (500, "internal")
    assert caught.value.type == "server_error"
    assert "s3cret" not in caught.value.response.text
    assert "s3cret" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WHOLE = {
    "model": MODEL,
    "messages": [
        {"role": "developer", "content": "Be brief."},
        user([{"type": "text", "text": "what time is it?"}]),
        calls("a", "b"),
        result("a"),
        result("b"),
        assistant("noon"),
        user("and now?"),
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [tool(description="the time", parameters={"type": "object"})],
    "tool_choice": "auto",
    "n": 1,
    "response_format": {"type": "text"},
}


def inside(value: Any) -> dict[Any, Any]:
    """The items of a JSON value, by key or index."""
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths in it."""
    return [path, *(p for key, child in inside(value).items() for p in paths(child, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with another value at the path (removed for `...`), if the path exists."""
    if not path:
        return None if change is ... else change
    key, *rest = path
    if key not in inside(value):
        return value
    copy = value.copy()
    if not rest and change is ...:
        del copy[key]
    else:
        copy[key] = changed(value[key], tuple(rest), change)
    return copy


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """A body with all fields, and errors in up to three places."""
    body = WHOLE
    if draw(st.booleans()):
        # Otherwise each one is refused in a session.
        body = {name: value for name, value in WHOLE.items() if name != "tools"}
    for path in draw(st.lists(st.sampled_from(paths(body)), max_size=3)):
        body = changed(body, path, draw(st.just(...) | JSON))
    return body


# While an example is drawn, workers in the other thread use `random` for their pauses.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.hypothesis
@pytest.mark.parametrize("session", [None, "new"])
async def test_no_body_makes_the_worker_fail(worker: RunningWorker, session: str | None) -> None:
    """An unusual body that is valid after all may be a 200; then it is answered."""
    loop = asyncio.get_running_loop()
    headers = {"X-Hermes-Session-Id": session} if session else {}

    async def post(body: Any) -> None:
        async with worker.http.post(COMPLETIONS, json=body, headers=headers) as response:
            text = await response.text()
        assert response.status in {200, 400, 404}, text
        if response.status != 200:
            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
        elif response.content_type == "text/event-stream":
            assert text.endswith("data: [DONE]\n\n")
        else:
            assert json.loads(text)["object"] == "chat.completion"

    @examples(150, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies())
    def check(body: Any) -> None:
        asyncio.run_coroutine_threadsafe(post(body), loop).result()

    await asyncio.to_thread(check)
