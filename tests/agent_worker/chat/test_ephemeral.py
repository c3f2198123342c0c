"""`POST /api/agent/ephemeral`: turns without a session, in the worker's own API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import TextDelta, ToolCall
from agent_worker.tasks import spawn
from agent_worker.tools import Effect, Toolbox
from tests.support.agent.chat import assistant, user
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.sse import all_events, deltas
from tests.support.waiting import until

if TYPE_CHECKING:
    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

PATH = "/api/agent/ephemeral"
SSE = {"Accept": "text/event-stream"}
HISTORY = [user("my name is Ada"), assistant("Nice to meet you, Ada.")]


async def test_an_answer_to_the_clients_own_history(worker: RunningWorker) -> None:
    body = {"content": "what is my name?", "history": HISTORY}
    async with worker.http.post(PATH, json=body) as response:
        assert response.status == 200
        assert response.headers["X-Session-Durability"] == "ephemeral"
        assert await response.json() == {
            "session_id": "",
            "step": 1,
            "content": "Your name is Ada.",
            "is_final": True,
        }


async def test_its_events_are_those_of_a_session_without_ids(worker: RunningWorker) -> None:
    body = {"content": "calculate 2 + 3 * 4"}
    async with worker.http.post(PATH, json=body, headers=SSE) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Session-Durability"] == "ephemeral"
        events = await all_events(response)
    tools = [event for event in events if event.name.startswith("tool.")]
    assert [(event.name, event.data["name"]) for event in tools] == [
        ("tool.started", "calculator"),
        ("tool.completed", "calculator"),
    ]
    assert (tools[1].data["ok"], tools[1].data["result"]) == (True, "14")
    assert {event.id for event in events} == {""}
    assert (events[-1].name, events[-1].data["step"]) == ("done", 2)
    assert events[-1].data["content"] == deltas(events) == "Let me use calculator. 2 + 3 * 4 = 14."


async def test_turns_at_the_same_time_end_each_by_itself(start_worker: StartWorker) -> None:
    """They were one in the worker's list, so the second one to end failed."""
    engine = GatedEngine()
    worker = await start_worker(engine=engine)

    async def turn() -> tuple[int, str]:
        async with worker.http.post(PATH, json={"content": "go"}) as response:
            return response.status, (await response.json())["content"]

    turns = [spawn(turn(), name="turn") for _ in range(2)]
    await until(lambda: worker.worker.load() == 2)
    engine.gate.set()
    assert [await one for one in turns] == [(200, "one two")] * 2


async def test_it_needs_no_redis(start_worker: StartWorker, own_redis_server: RedisServer) -> None:
    worker = await start_worker(redis_url=own_redis_server.url)
    own_redis_server.stop()
    async with worker.http.post(PATH, json={"content": "hello"}) as response:
        assert response.status == 200
        assert (await response.json())["content"] == "Turn 1, 1 messages seen. You said: hello"


async def test_only_tools_that_read_run(start_worker: StartWorker) -> None:
    ran = []

    async def run(arguments: dict[str, Any], context: Any) -> str:
        ran.append((context.session_id, context.principal))
        return "x" * 40_000

    toolbox = Toolbox([FunctionTool(effect.value, run, effect) for effect in Effect])
    calls = [ToolCall(effect.value, effect.value) for effect in Effect]
    engine = PlannedEngine(calls, [TextDelta("done")])
    worker = await start_worker(engine=engine, toolbox=toolbox)
    async with worker.http.post(PATH, json={"content": "go"}) as response:
        assert (await response.json())["content"] == "done"
    assert ran == [("", "anonymous")]
    by_call = {each["tool_call_id"]: each["content"] for each in engine.histories[1][2:]}
    assert by_call["once"] == "error: there is no tool 'once'"
    assert by_call["idempotent"] == "error: there is no tool 'idempotent'"
    # There is no store for the rest.
    assert by_call["read"] == "x" * 32_768 + "\n[... cut; 40000 bytes in all]"


async def test_the_step_limit_ends_it_and_says_so(start_worker: StartWorker) -> None:
    async def again(arguments: dict[str, Any], context: Any) -> str:
        return "again"

    steps = [[TextDelta(f"{n} "), ToolCall("c", "again")] for n in range(3)]
    worker = await start_worker(
        engine=PlannedEngine(*steps), toolbox=Toolbox([FunctionTool("again", again)]), step_limit=2
    )
    async with worker.http.post(PATH, json={"content": "go"}) as response:
        answer = await response.json()
    assert (answer["step"], answer["content"], answer["is_final"]) == (2, "0 1 ", False)
    assert 'hermes_turns_total{outcome="step_limit"} 1.0' in worker.worker.metrics.render().decode()


async def test_a_failure_is_a_status_or_the_last_event(start_worker: StartWorker) -> None:
    failing = [TextDelta("a"), RuntimeError("s3cret")]
    worker = await start_worker(engine=PlannedEngine(failing, list(failing)))
    async with worker.http.post(PATH, json={"content": "go"}) as response:
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "engine_failed"
    async with worker.http.post(PATH, json={"content": "go"}, headers=SSE) as response:
        events = await all_events(response)
    assert [event.name for event in events] == ["message.delta", "error"]
    assert events[-1].data == {"code": "engine_failed", "message": "The model failed to answer."}


async def test_a_client_that_leaves_stops_the_engine(start_worker: StartWorker) -> None:
    engine = GatedEngine()
    worker = await start_worker(engine=engine)
    async with worker.http.post(PATH, json={"content": "go"}, headers=SSE) as response:
        await engine.started.wait()
        response.close()
    await engine.closed.wait()
    await worker.worker.turns.wait_idle()


async def test_a_window_that_is_too_small_is_the_clients_to_solve(
    start_worker: StartWorker,
) -> None:
    """It is never summarised: the summary would be lost, and repeated for each message."""
    engine = PlannedEngine([TextDelta("a")])
    worker = await start_worker(engine=engine, context_tokens=30)
    # Two messages of 12 and 11 tokens fit; with another one they do not.
    history = [{"role": "system", "content": "x" * 32}]
    body = {"content": "x" * 28, "history": history}
    async with worker.http.post(PATH, json=body) as response:
        assert response.status == 200
    body["history"] = [*history, user("x" * 20)]
    async with worker.http.post(PATH, json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"
    assert (len(engine.requests), engine.summarised) == (1, [])


async def test_its_own_steps_may_outgrow_the_window_but_the_instructions_stay(
    start_worker: StartWorker,
) -> None:
    async def look(arguments: dict[str, Any], context: Any) -> str:
        return "x" * 2000

    steps = [[ToolCall("c1", "look")], [ToolCall("c2", "look")], [TextDelta("done")]]
    engine = PlannedEngine(*steps)
    toolbox = Toolbox([FunctionTool("look", look)])
    worker = await start_worker(engine=engine, toolbox=toolbox, context_tokens=300)
    history = [{"role": "system", "content": "Be brief."}, user("one"), assistant("two")]
    body = {"content": "go", "history": history}
    async with worker.http.post(PATH, json=body) as response:
        assert (await response.json())["content"] == "done"
    assert [request[:4] for request in engine.histories] == [[*history, user("go")]] * 3
    assert engine.histories[2][5]["content"] == "x" * 400 + " [...]"
    assert engine.summarised == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "bad_request"),
        ({"content": " "}, 400, "bad_request"),
        ({"content": "x", "history": "y"}, 400, "invalid_value"),
        ({"content": "x", "history": [{"role": "user"}]}, 400, "invalid_value"),
        ({"content": "x" * 300_000}, 413, "too_large"),
    ],
)
async def test_what_is_wrong_has_the_workers_own_form(
    worker: RunningWorker, body: Any, status: int, code: str
) -> None:
    async with worker.http.post(PATH, json=body) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"], set(error)) == (status, code, {"code", "message"})


async def test_a_token_is_needed_where_tokens_are(start_worker: StartWorker) -> None:
    worker = await start_worker(tokens={"t-ada": "ada"})
    async with worker.http.post(PATH, json={"content": "x"}) as response:
        assert response.status == 401
