"""`python -m bench.chaos_turns.backend HOST PORT NAME FILE`: executes turns, and knows nothing of
them.

    POST /ignoring/turns   a `Question`; answered by an event stream or JSON
    GET  /events           the same, of the query
    POST /checking/turns   the same; refuses a fence that is not above its session's last one (409),
                           and ends what an older one still executes before it begins
    POST /continued/turns  the same as /ignoring, and the work does not end with its connection: GET
                           of X-Hermes-Resume continues the stream (docs/unbroken-streams.md)
    POST /leaving/turns    the same as /ignoring
    GET  /health

Each line of FILE says what happened, see `executions`. A connection that is lost ends the work.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import sys
import time

from aiohttp import web

from agent_worker.tasks import spawn
from bench.chaos_turns.executions import BEGUN, CUT, DONE, FENCED, REFUSED, UNFENCED
from bench.chaos_turns.script import Question, answer, answer_as_json

# One request in this number is refused (503), before anything is done.
_REFUSES_EACH = 23


class Said:
    """The pieces of an answer so far."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_done = False
        self._more = asyncio.Event()

    def add(self, piece: bytes) -> None:
        if piece:
            self.pieces.append(piece)
        self._more.set()
        self._more = asyncio.Event()

    async def wait(self) -> None:
        await self._more.wait()


class Backend:
    def __init__(self, name: str, file: str) -> None:
        self._name = name
        # Each line is one write: two processes do not mix theirs.
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._asked = itertools.count(1)
        self._said: dict[str, Said] = {}
        self._fences: dict[tuple[str, str], int] = {}
        self._running: dict[tuple[str, str], asyncio.Task[object]] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/ignoring/turns", self._ignoring)
        app.router.add_post("/checking/turns", self._checking)
        app.router.add_post("/leaving/turns", self._ignoring)
        app.router.add_post("/continued/turns", self._continued)
        app.router.add_get("/continued/turns/{execution}", self._continue)
        app.router.add_get("/events", self._events)
        app.router.add_get("/health", self._health)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ignoring(self, request: web.Request) -> web.StreamResponse:
        return await self._execute(request, Question.from_body(await request.read()))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._execute(request, Question.from_query(request.query))

    async def _checking(self, request: web.Request) -> web.StreamResponse:
        question = Question.from_body(await request.read())
        session = request.headers["Authorization"], request.headers.get("X-Session-Id", "")
        fence = int(request.headers.get("X-Hermes-Fence", 0))
        if not fence:
            self._note(UNFENCED, question, request, "")
        if fence <= self._fences.get(session, 0):
            self._note(FENCED, question, request, "")
            return web.json_response({"error": "an older fence"}, status=409)
        self._fences[session] = fence
        task = asyncio.current_task()
        assert task is not None
        before, self._running[session] = self._running.get(session), task
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
        try:
            return await self._execute(request, question)
        finally:
            if self._running.get(session) is task:
                del self._running[session]

    async def _continued(self, request: web.Request) -> web.StreamResponse:
        question = Question.from_body(await request.read())
        if next(self._asked) % _REFUSES_EACH == 0:
            self._note(REFUSED, question, request, "")
            return web.Response(status=503, headers={"Retry-After": "1"}, text="not now")
        execution = secrets.token_hex(4)
        self._note(BEGUN, question, request, execution)
        self._said[execution] = said = Said()
        spawn(self._say(said, question, request, execution), name="say")
        return await self._tell(request, execution, said, 0)

    async def _say(
        self, said: Said, question: Question, request: web.Request, execution: str
    ) -> None:
        for piece in answer(question, execution):
            await asyncio.sleep(question.interval)
            said.add(piece)
        said.is_done = True
        said.add(b"")
        self._note(DONE, question, request, execution)

    async def _continue(self, request: web.Request) -> web.StreamResponse:
        execution = request.match_info["execution"]
        said = self._said.get(execution)
        if said is None:
            return web.Response(status=404)
        line = b"id: " + request.headers.get("Last-Event-ID", "none").encode()
        behind = (n for n, piece in enumerate(said.pieces, 1) if line in piece.splitlines())
        return await self._tell(request, execution, said, next(behind, 0))

    async def _tell(
        self, request: web.Request, execution: str, said: Said, position: int
    ) -> web.StreamResponse:
        headers = {
            "Content-Type": "text/event-stream",
            "X-Hermes-Resume": f"/continued/turns/{execution}",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        while position < len(said.pieces) or not said.is_done:
            if position == len(said.pieces):
                await said.wait()
                continue
            await response.write(said.pieces[position])
            position += 1
        await response.write_eof()
        return response

    async def _execute(self, request: web.Request, question: Question) -> web.StreamResponse:
        if next(self._asked) % _REFUSES_EACH == 0:
            self._note(REFUSED, question, request, "")
            return web.Response(status=503, headers={"Retry-After": "1"}, text="not now")
        execution = secrets.token_hex(4)
        self._note(BEGUN, question, request, execution)
        how = CUT
        try:
            speak = self._as_json if question.as_json else self._as_stream
            response = await speak(request, question, execution)
            how = DONE
            return response
        finally:
            self._note(how, question, request, execution)

    async def _as_json(
        self, request: web.Request, question: Question, execution: str
    ) -> web.StreamResponse:
        await asyncio.sleep(question.words * question.interval)
        response = web.Response(
            status=500 if question.fails else 200,
            body=answer_as_json(question, execution),
            content_type="application/json",
        )
        return response

    async def _as_stream(
        self, request: web.Request, question: Question, execution: str
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "*"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for piece in answer(question, execution):
            await asyncio.sleep(question.interval)
            await response.write(piece)
        await response.write_eof()
        return response

    def _note(self, what: str, question: Question, request: web.Request, execution: str) -> None:
        headers = request.headers
        said = {
            "what": what,
            "at": time.time(),
            "server": self._name,
            "uid": question.uid,
            "execution": execution,
            "principal": headers.get("Authorization", ""),
            "session": headers.get("X-Session-Id", ""),
            "fence": int(headers.get("X-Hermes-Fence", 0)),
            "is_checked": request.path.startswith("/checking/"),
        }
        os.write(self._file, json.dumps(said).encode() + b"\n")


def main(host: str, port: str, name: str, file: str) -> None:
    async def serve() -> None:
        backend = Backend(name, file)
        runner = web.AppRunner(backend.app(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, int(port), backlog=1000).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
