"""Clients that hold conversations: on any worker, by any policy, again and again until answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from bench.chaos_sessions.history import Asked
from bench.chaos_sessions.reading import LOST, Event, Followed, Transcript, check_ids, read_events
from bench.chaos_sessions.resuming import ACCEPT, TurnReader

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from bench.chaos_sessions.fleet import Worker
    from bench.chaos_sessions.resuming import TurnStream
    from bench.chaos_sessions.tally import Tally

SESSIONS = "/api/agent/sessions"
# Seconds. A stopped worker does not answer; its clients go to another one.
_SILENCE = 2.0
_MOST_PAUSE = 0.3

_KINDS = (
    "write {words} words {uid}",
    "hello {uid}",
    "how many messages? {uid}",
    "calculate {words} + 3, {uid}",
    "what time is it? calculate 2 * {words}; {uid}",
    "note colour: {uid}",
    "recall colour {uid}",
    "send mail to ada: {uid}",
    "{uid} what time is it?\nsend mail to bob: {uid}\nwrite {words} words",
)
# Mails are what can go wrong for good: as many as the rest.
_WEIGHTS = (3, 2, 1, 1, 2, 1, 1, 5, 5)
_POLICIES = ("reject", "enqueue", "interrupt")


@dataclass
class Session:
    id: str
    token: str
    asked: list[Asked] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    streams: list[TurnStream] = field(default_factory=list)
    #: One client talks in it and comes back for each turn, so nothing keeps it from its answers;
    #: and how each turn ended then: uid, last event's name and data.
    is_quiet: bool = False
    ends: list[tuple[str, str, str]] = field(default_factory=list)
    #: A deletion was sent (time.monotonic()); and whether it was acknowledged.
    deletion_at: float | None = None
    is_deleted: bool = False
    #: A client got "no such session", though none had deleted it.
    missing_at: float | None = None

    @property
    def is_gone(self) -> bool:
        return self.deletion_at is not None or self.missing_at is not None


class Crowd:
    """What all clients share. `is_over`: begin nothing new, but bring to an end what was begun."""

    def __init__(self, workers: Sequence[Worker], tally: Tally, rng: random.Random) -> None:
        self.workers = workers
        self.tally = tally
        self.rng = rng
        self.sessions: list[Session] = []
        self.is_over = False
        self._numbers = itertools.count(1)
        timeout = aiohttp.ClientTimeout(total=60, sock_connect=_SILENCE, sock_read=_SILENCE)
        self.http = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**20
        )

    def uid(self) -> str:
        return f"u-{next(self._numbers)}"

    def url(self, *parts: str) -> str:
        return self.at("/".join([SESSIONS, *parts]))

    def at(self, path: str) -> str:
        """At a random worker: mostly one that is up, sometimes one that is expected to be down."""
        up = [worker for worker in self.workers if worker.is_up]
        chosen = self.workers if not up or self.rng.random() < 0.1 else up
        return self.rng.choice(chosen).url + path

    async def pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.02, _MOST_PAUSE))

    async def new_session(self, *, is_quiet: bool = False) -> Session:
        token = f"token-{self.rng.randrange(4)}"
        while True:
            with contextlib.suppress(*LOST):
                async with self.http.post(self.url(), headers=bearer(token)) as response:
                    if response.status == 201:
                        session_id = (await response.json())["session_id"]
                        session = Session(session_id, token, is_quiet=is_quiet)
                        self.sessions.append(session)
                        return session
            await self.pause()

    async def delete(self, session: Session) -> None:
        """Until it is gone for certain."""
        session.deletion_at = time.monotonic()
        while not session.is_deleted:
            with contextlib.suppress(*LOST):
                url = self.url(session.id)
                async with self.http.delete(url, headers=bearer(session.token)) as response:
                    # 404: the reply of the one before was lost.
                    session.is_deleted = response.status in {204, 404}
            await self.pause()
        self.tally.figures["sessions deleted"] += 1


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Client:
    """One of several that talk in the same session at once."""

    def __init__(self, crowd: Crowd, session: Session) -> None:
        self._crowd = crowd
        self._session = session
        self._rng = crowd.rng
        self._tally = crowd.tally

    async def talk(self, messages: int) -> None:
        """Send this number of messages, or fewer if the run is over or the session is gone."""
        for _ in range(messages):
            if self._crowd.is_over or self._session.is_gone:
                return
            await self.ask()
            await self._crowd.pause()

    async def ask(self, *, text: str | None = None) -> None:
        """One message, sent until it is settled; without a key only once."""
        uid = self._crowd.uid()
        [kind] = self._rng.choices(_KINDS, _WEIGHTS)
        # Seconds of speech, if another worker shall take the turn over.
        most = 120 if self._session.is_quiet else 40
        content = (text or kind).format(uid=uid, words=self._rng.randint(5, most))
        # Without an idempotency key a client can't come back for its turn.
        has_key = text is not None or self._session.is_quiet or self._rng.random() < 0.85
        asked = Asked(uid, self._session.id, content, f"key-{uid}" if has_key else None)
        self._session.asked.append(asked)
        [policy] = self._rng.choices(_POLICIES, (6, 2, 1))
        if text is not None or self._session.is_quiet:
            policy = "reject"
        while not asked.is_settled:
            with contextlib.suppress(*LOST):
                await self._try(asked, policy)
            if asked.key is None:
                asked.is_settled = True
            await self._crowd.pause()

    async def _try(self, asked: Asked, policy: str) -> None:
        headers = bearer(self._session.token)
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        resumes = self._session.is_quiet or self._rng.random() < 0.25
        if resumes:
            headers |= ACCEPT
        elif self._rng.random() < 0.5:
            headers["Accept"] = "text/event-stream"
        body = {"content": asked.content, "policy": policy}
        url = self._crowd.url(self._session.id, "messages")
        self._tally.figures["requests"] += 1
        asked.tries += 1
        async with self._crowd.http.post(url, json=body, headers=headers) as response:
            if response.content_type != "text/event-stream":
                self._judge(asked, response.status, await response.json())
                return
            asked.accept(time.monotonic())
            if response.headers.get("Idempotency-Replayed"):
                self._tally.figures["answers replayed"] += 1
            if resumes:
                await self._resume(asked, response.headers["X-Hermes-Resume"], response)
                return
            last = await self._hear(asked, response, Transcript(), may_leave=True)
        if last is not None and not asked.is_settled:
            await self._follow_own(asked, *last)

    async def _resume(self, asked: Asked, path: str, response: aiohttp.ClientResponse) -> None:
        """Read the turn to its end, wherever it goes on; perhaps another client does as well."""
        session = self._session
        count = 2 if self._rng.random() < 0.25 else 1
        readers = [TurnReader(self._crowd, bearer(session.token), path) for _ in range(count)]
        # One that was asked for again by its key begins with what stands for the events so far.
        session.streams += [each.stream for each in readers[asked.tries > 1 :]]
        await readers[0].hear(response)
        ends = await asyncio.gather(*(each.go_on() for each in readers))
        for reader, end in zip(readers, ends, strict=True):
            if end.name == "done":
                text, content = reader.transcript.text, end.data["content"]
                what = f"{asked.uid} resumed: {text[-200:]!r}, {content[-200:]!r}"
                self._tally.check("answers", text == content, what, session.id)
        if session.is_quiet:
            session.ends.append((asked.uid, ends[0].name, ends[0].text))
        if ends[0].name == "done":
            self._answered(asked, ends[0].data["content"])
        elif ends[0].name == "404":
            self._judge(asked, 404, ends[0].data)
        else:
            asked.last_said_at = time.monotonic()

    async def _hear(
        self,
        asked: Asked,
        response: aiohttp.ClientResponse,
        transcript: Transcript,
        *,
        may_leave: bool = False,
    ) -> tuple[str, Transcript] | None:
        """Read to the end, or until we leave: the last id and the transcript by then.

        None if the turn did not go on: its stream ended with an error, or broke off.
        """
        leaves_at = self._rng.randint(2, 30) if may_leave and self._rng.random() < 0.3 else None
        events: list[Event] = []
        try:
            async for event in read_events(response):
                events.append(event)
                transcript.add(event)
                if event.name == "done":
                    self._answered(asked, event.data["content"])
                    what = f"{asked.uid}: deltas {transcript.text[-200:]!r}, {event.text[-200:]}"
                    is_same = transcript.text == event.data["content"]
                    self._tally.check("answers", is_same, what, self._session.id)
                    return None
                if event.name == "error":
                    asked.last_said_at = time.monotonic()
                    return None
                if leaves_at is not None and len(events) >= leaves_at:
                    self._tally.figures["streams left by their client"] += 1
                    break
        except LOST:
            self._tally.figures["streams broken"] += 1
        finally:
            check_ids(self._tally, self._session.id, events)
        ids = [event.id for event in events if event.id]
        return (ids[-1], transcript) if ids else None

    async def _follow_own(self, asked: Asked, last_id: str, transcript: Transcript) -> None:
        """Go on with the turn's own stream elsewhere, as long as it is the same worker's turn."""
        headers = {**bearer(self._session.token), "Last-Event-ID": last_id}
        url = self._crowd.url(self._session.id, "events") + "?until=done"
        fence = last_id.partition("-")[0]
        events: list[Event] = []
        async with self._crowd.http.get(url, headers=headers) as response:
            if response.status != 200:
                return
            async for event in read_events(response):
                # Another fence: our turn was cut short, and this is the next one, of any client.
                if not event.id or event.id.partition("-")[0] != fence or event.name == "reset":
                    return
                events.append(event)
                transcript.add(event)
                if event.name == "done":
                    self._tally.figures["streams taken up elsewhere"] += 1
                    check_ids(self._tally, self._session.id, events)
                    self._answered(asked, event.data["content"])
                    what = f"{asked.uid} resumed: {transcript.text[-200:]!r}, {event.text[-200:]}"
                    is_same = transcript.text == event.data["content"]
                    self._tally.check("answers", is_same, what, self._session.id)
                    return
                if event.name == "error":
                    return

    def _judge(self, asked: Asked, status: int, body: Any) -> None:
        """What a JSON response says of the message."""
        code = body.get("error", {}).get("code", "")
        now = time.monotonic()
        self._tally.figures[f"responses {status} {code}".rstrip()] += 1
        if status == 200:
            asked.accept(now)
            self._answered(asked, body["content"])
        elif status == 202:
            asked.accept(now)
            # Some ask again by their key until there is an answer, others trust.
            asked.is_settled = asked.key is None or self._rng.random() < 0.3
        elif code in {"turn_abandoned", "turn_interrupted"}:
            asked.accept(now)
            asked.is_settled = code == "turn_abandoned"
            if self._session.is_quiet:
                self._session.ends.append((asked.uid, code, ""))
        elif status == 404:
            if self._session.deletion_at is None:
                self._session.missing_at = self._session.missing_at or now
            asked.is_settled = True
        elif code not in {"turn_in_progress", "inbox_full"} and status < 500:
            self._tally.check("live", False, f"{asked.uid}: {status} {body}", self._session.id)
            asked.is_settled = True

    def _answered(self, asked: Asked, content: str) -> None:
        asked.accept(time.monotonic())
        asked.answers.append(content)
        asked.is_settled = True


async def follow(crowd: Crowd, session: Session) -> None:
    """Read all events of a session, from one worker and then another, until cancelled or gone."""
    followed = Followed()
    session.followed.append(followed)
    while not session.is_deleted:
        headers = bearer(session.token)
        if followed.last_id is not None:
            headers["Last-Event-ID"] = followed.last_id
        url = crowd.url(session.id, "events")
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(crowd.rng.uniform(0.3, 4.0)):
                async with crowd.http.get(url, headers=headers) as response:
                    if response.status == 200:
                        async for event in read_events(response):
                            followed.add(event, time.monotonic())
        await asyncio.sleep(0.02)


async def intrude(crowd: Crowd, session: Session) -> None:
    """Try every call as another user, once."""
    headers = bearer(crowd.rng.choice(["token-x", f"{session.token}x", "token-stranger"]))
    key = crowd.rng.choice(session.asked).key if session.asked else None
    with_key = {**headers, **({"Idempotency-Key": key} if key else {})}
    content = next((asked.content for asked in session.asked if asked.key == key), "hello")
    turn = session.streams[-1].turn if session.streams else 1
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {"headers": headers}),
        ("DELETE", "", {"headers": headers}),
        ("GET", "events", {"headers": headers}),
        ("GET", "events", {"headers": {**headers, "Last-Event-ID": "1-1"}}),
        ("GET", f"events?turn={turn}", {"headers": headers}),
        ("GET", "blobs/" + "0" * 64, {"headers": headers}),
        *(
            (
                "POST",
                "messages",
                {"headers": with_key, "json": {"content": content, "policy": each}},
            )
            for each in _POLICIES
        ),
        ("GET", "ws", {"headers": {**headers, **_UPGRADE}}),
    ]
    method, path, arguments = crowd.rng.choice(calls)
    with contextlib.suppress(*LOST):
        url = crowd.url(*filter(None, [session.id, path]))
        async with crowd.http.request(method, url, **arguments) as response:
            is_refused = response.status == 404 or response.status >= 500
            what = f"{method} {path} gave {response.status} to another principal"
            crowd.tally.check("8", is_refused, what, session.id)


_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
