"""m. Clients and servers that send as much as they can, and readers that take nothing."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.chaos.balancer import BACKEND
from bench.chaos.flood import JSON, LARGE
from bench.chaos.http2_caller import Http2Caller
from bench.chaos.report import percentile
from bench.chaos.scenario import Scenario
from bench.chaos.waiting import PATIENCE, NeverCame, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.caller import Caller
    from bench.live.processes import Process

    _WellBehaved = Callable[[Balancer, float], Awaitable[list[float]]]

_MB = 1_000_000
# The balancer answers it by itself: no server's slowness is in the measurement.
_SMALL = b"OPTIONS * HTTP/1.1\r\nHost: chaos.test\r\nMax-Forwards: 0\r\n\r\n"
_GET_LARGE = b"GET /large HTTP/1.1\r\nHost: chaos.test\r\n\r\n"
# Bytes of one connection that the balancer holds: 64 KiB, and a read of 256 KiB.
_BOUND = 320 * 1024
# MB beside these: the allocator's, whose heap has holes. The same responses, 66 MB at most, take
# 63 to 76 MB where each read has pages of its own (MALLOC_MMAP_THRESHOLD_), and 48 to 85 else.
_SLACK = 25.0


async def _well_behaved(balancer: Balancer, seconds: float) -> list[float]:
    """How long small requests on one connection take, in seconds."""
    took: list[float] = []
    end = time.monotonic() + seconds
    async with await balancer.connect() as caller:
        while time.monotonic() < end:
            began = time.perf_counter()
            await caller.send(_SMALL)
            response = await caller.read_response()
            took.append(time.perf_counter() - began)
            if response.status != 200:
                raise AssertionError(f"a small request: {response}")
            await asyncio.sleep(0.002)
    return took


async def _well_behaved_by_http2(balancer: Balancer, seconds: float) -> list[float]:
    """The same, on streams of one connection."""
    took: list[float] = []
    end = time.monotonic() + seconds
    async with await Http2Caller.connect(balancer.address) as caller:
        while time.monotonic() < end:
            began = time.perf_counter()
            status = await caller.ask("OPTIONS", "*", ("max-forwards", "0"))
            took.append(time.perf_counter() - began)
            if status != 200:
                raise AssertionError(f"a small request: {status}")
            await asyncio.sleep(0.002)
    return took


class _Growth:
    """The most by which the balancer's memory grows while the block runs, in MB."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self.most = 0.0

    async def _watch(self, before: float) -> None:
        while True:
            now = self._balancer.process.resident_kb() / 1000
            self.most = max(self.most, now - before)
            await asyncio.sleep(0.05)

    async def __aenter__(self) -> _Growth:
        before = self._balancer.process.resident_kb() / 1000
        self._task = asyncio.get_running_loop().create_task(self._watch(before))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


@dataclass
class Flood(Scenario):
    """One kind of it, beside a client that behaves. Subclasses say what is special."""

    kind: ClassVar[str]
    held: ClassVar[float] = 2 * _BOUND  # bytes for each client: both sides of an exchange
    frontend: ClassVar[dict[str, Any]] = {}
    others: ClassVar[dict[str, _WellBehaved]] = {"small requests": _well_behaved}

    clients: int = 4
    seconds: float = 3.0
    most_p50: float = 0.1  # seconds, of the client that behaves

    async def run(self, arena: Arena) -> None:
        async with (
            arena.flood_server() as server,
            arena.balancer({"agent1": server}, frontend=self.frontend) as balancer,
        ):
            quiet = await self._beside(balancer, self.seconds / 3)
            host, port = balancer.address
            sizes = str(self.clients), str(self.seconds)
            async with (
                _Growth(balancer) as growth,
                arena.flood(self.kind, host, str(port), *sizes) as flood,
            ):
                beside = await self._beside(balancer, self.seconds * 0.8)
                sent, answers = await _result(flood)
            balancer.hang_up()
            await balancer.until_quiet()
            after = await self._beside(balancer, self.seconds / 3)
        figure, must = arena.report.figure, arena.report.must
        figure("clients", self.clients)
        figure("MB that they sent", sent / _MB)
        for name, all_took in (("without", quiet), ("beside", beside), ("after", after)):
            for who, took in all_took.items():
                figure(f"{who} {name} them", len(took))
                figure(f"{who} {name} them: p50 ms", percentile(took, 0.5) * 1000)
                figure(f"{who} {name} them: p99 ms", percentile(took, 0.99) * 1000)
        figure("the balancer's memory, growth in MB", growth.most)
        for who, took in beside.items():
            p50 = percentile(took, 0.5)
            most_ms = self.most_p50 * 1000
            must(p50 <= self.most_p50, f"others' p50 is below {most_ms:g} ms: {who}", p50)
        most = _SLACK + self.clients * self.held / _MB
        must(growth.most <= most, f"memory grows by at most {most:.0f} MB", growth.most)
        self.judge(arena, answers)

    async def _beside(self, balancer: Balancer, seconds: float) -> dict[str, list[float]]:
        took = await asyncio.gather(*(ask(balancer, seconds) for ask in self.others.values()))
        return dict(zip(self.others, took, strict=True))

    @abstractmethod
    def judge(self, arena: Arena, answers: int) -> None: ...


@dataclass
class Pipelining(Flood):
    """Requests one behind the other, without end; the answers are read."""

    name: ClassVar[str] = "pipelining"
    title: ClassVar[str] = "m. Requests one behind the other, without end"
    kind: ClassVar[str] = "requests"

    least_answers: int = 1000  # in all

    def judge(self, arena: Arena, answers: int) -> None:
        arena.report.figure("answers that they got", answers)
        arena.report.must(
            answers >= self.least_answers, f"they get {self.least_answers} answers", answers
        )


@dataclass
class TinyUploads(Flood):
    """Uploads in chunks of one byte, each with an extension, without end."""

    name: ClassVar[str] = "tiny-uploads"
    title: ClassVar[str] = "m. Uploads in chunks of one byte"
    kind: ClassVar[str] = "chunks"

    def judge(self, arena: Arena, answers: int) -> None:
        arena.report.must(answers == 0, "no server answers them", answers)


@dataclass
class LongBodies(Flood):
    """JSON that takes long to parse, in which the balancer looks for the session of a turn."""

    name: ClassVar[str] = "long-bodies"
    title: ClassVar[str] = "m. JSON of a million bytes, in which a session is looked for"
    kind: ClassVar[str] = "bodies"
    held: ClassVar[float] = 6 * JSON  # it is kept, joined, and on its way
    frontend: ClassVar[dict[str, Any]] = {
        "routes": [
            {
                "path_prefix": "/turns/",
                "backend": BACKEND,
                "turns": {"principal": "none", "session": "json:/s"},
            }
        ]
    }

    def judge(self, arena: Arena, answers: int) -> None:
        arena.report.figure("answers that they got", answers)
        arena.report.must(answers >= self.clients, "they are answered", answers)


@dataclass
class TinyResponses(Flood):
    """Responses in chunks of one byte, without end."""

    name: ClassVar[str] = "tiny-responses"
    title: ClassVar[str] = "m. Responses in chunks of one byte"
    kind: ClassVar[str] = "responses"

    def judge(self, arena: Arena, answers: int) -> None:
        arena.report.must(answers == self.clients, "each has begun", answers)


@dataclass
class Http2Resets(Flood):
    """Streams are reset, by the client (CVE-2023-44487) or so that we have to (CVE-2025-8671)."""

    name: ClassVar[str] = "http2-resets"
    title: ClassVar[str] = "m. Rapid resets of HTTP/2"
    kind: ClassVar[str] = "http2-resets"
    frontend: ClassVar[dict[str, Any]] = {"http2": True}
    others: ClassVar[dict[str, _WellBehaved]] = {
        "small requests": _well_behaved,
        "streams": _well_behaved_by_http2,
    }

    clients: int = 6

    def judge(self, arena: Arena, answers: int) -> None:
        arena.report.figure("connections that were ended", answers)
        arena.report.must(answers >= self.clients, "each is ended at its bound", answers)


@dataclass
class Http2Floods(Http2Resets):
    """All that a client of HTTP/2 can send without end, of each kind one connection at a time."""

    name: ClassVar[str] = "http2-floods"
    title: ClassVar[str] = "m. Floods of HTTP/2, a mix"
    kind: ClassVar[str] = "http2-floods"

    clients: int = 12


@dataclass
class UnreadResponses(Scenario):
    """Many clients ask for 2 MB and read nothing, over connections with large windows.

    Others have read the same before, so that the kernel takes a whole response at a time.
    """

    name: ClassVar[str] = "unread-responses"
    title: ClassVar[str] = "m. Responses of 2 MB that no client reads"
    at_once: ClassVar[int] = 1  # readers, on one connection
    frontend: ClassVar[dict[str, Any]] = {}

    readers: int = 200
    seconds: float = 3.0
    most_p50: float = 0.1  # seconds

    async def run(self, arena: Arena) -> None:
        async with (
            arena.flood_server() as server,
            arena.balancer(
                {"agent1": server}, backend={"keep_alive": 1000}, frontend=self.frontend
            ) as balancer,
        ):
            await self._widen(balancer)
            quiet = await _well_behaved(balancer, self.seconds / 3)
            async with _Growth(balancer) as growth:
                for _ in range(self.readers // self.at_once):
                    caller = await balancer.connect(receive_buffer=4096)
                    caller.stop_reading()
                    await caller.send(self.asks())
                beside = await _well_behaved(balancer, self.seconds)
            balancer.hang_up()
            await balancer.until_quiet()
            after = await _well_behaved(balancer, self.seconds / 3)
        figure, must = arena.report.figure, arena.report.must
        figure("readers", self.readers)
        figure("a response, MB", LARGE / _MB)
        figure("the balancer's memory, growth in MB", growth.most)
        for name, took in (("before", quiet), ("beside them", beside), ("after them", after)):
            figure(f"small requests {name}: p50 ms", percentile(took, 0.5) * 1000)
            figure(f"small requests {name}: slowest ms", max(took) * 1000)
        most = _SLACK + self.readers * _BOUND / _MB
        must(growth.most <= most, f"memory grows by at most {most:.0f} MB", growth.most)
        p50 = percentile(beside, 0.5)
        must(p50 <= self.most_p50, f"others' p50 is below {self.most_p50 * 1000:g} ms", p50)

    def asks(self) -> bytes:
        """The request of each connection."""
        return _GET_LARGE

    async def _widen(self, balancer: Balancer) -> None:
        async def read(caller: Caller) -> None:
            for _ in range(3):
                await caller.send(_GET_LARGE)
                await caller.read_response()

        callers = [await balancer.connect() for _ in range(self.readers)]
        await asyncio.gather(*map(read, callers))
        balancer.hang_up()


@dataclass
class UnreadStreams(UnreadResponses):
    """The same by HTTP/2: the windows of all streams are as wide as they may be."""

    name: ClassVar[str] = "unread-streams"
    title: ClassVar[str] = "m. Responses of 2 MB that no client reads, by HTTP/2"
    at_once: ClassVar[int] = 50
    frontend: ClassVar[dict[str, Any]] = {"http2": True}

    def asks(self) -> bytes:
        widest = 2**31 - 1
        settings = _frame(4, 0, 0, b"\0\4" + widest.to_bytes(4))  # INITIAL_WINDOW_SIZE
        window = _frame(8, 0, 0, (widest - 65_535).to_bytes(4))
        # GET, http, and literals for :path and :authority (RFC 7541 appendix A).
        get_large = b"\x82\x86\x04\x06/large\x01\x0achaos.test"
        streams = [_frame(1, 5, 2 * number + 1, get_large) for number in range(self.at_once)]
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + window + b"".join(streams)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 section 4.1."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


async def _result(flood: Process) -> tuple[int, int]:
    """-> the bytes that its clients have sent, and the answers that they got."""

    async def has_ended() -> bool:
        return not flood.is_running()

    await until(has_ended, "the clients end", patience=PATIENCE)
    last = flood.log.read_text().split("\n")[-2]
    try:
        sent, answers = map(int, last.split())
    except ValueError:
        raise NeverCame(f"the clients broke: {flood.output()}") from None
    return sent, answers
