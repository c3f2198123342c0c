"""A server of a language model with continuous batching: what its time depends on.

It works in iterations (Orca, OSDI 2022). Each iteration gives one token to every request that
decodes, and works on a chunk of one request's prefill beside them (Sarathi-Serve, OSDI 2024):

    seconds = base + sequence * decoding + token * chunk, the last only during a prefill

So a prefill is as long as its uncached tokens, decoding slows with the occupied slots, and a long
prefill slows the tokens of all others. Both progress by iterations: the machine has one clock that
counts them, on which each request's end is known when it begins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, fields
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from hermes_lb.lab.machine import Machine
from hermes_lb.lab.prefix_cache import BLOCK, PrefixCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hermes_lb.backends import Server
    from hermes_lb.lab.job import Job


@dataclass(frozen=True, slots=True)
class Model:
    """The parameters; `calibration` fits them to a log.

    The defaults are Llama-2-70B on eight H100: least squares over the rows `h100-80gb-pcap`,
    `tensor_parallel` 8, of Splitwise's published measurements (Patel et al., ISCA 2024;
    splitwise-sim, data/perf_model.csv). Times per token of batches of 1, 2, 4, 8, 16, 32, 64 are
    29.7, 30.1, 31.8, 32.4, 34.2, 38.9, 50.0 ms; prefills of 4,096 to 32,768 tokens in batches of
    512 take 0.49, 1.05, 2.02, 3.83 s. A chunk has 512 tokens as in Sarathi-Serve. The cache is
    the 2 TB of host memory of such a machine, at 2 x 80 layers x 8 heads x 128 x 2 B a token (as
    LMCache and Mooncake use it; the GPUs' own memory would hold 1.3 million).
    """

    base: float = 0.0296  # seconds of an iteration, whatever it does
    sequence: float = 0.00031  # seconds for each request that decodes
    token: float = 0.000117  # seconds for each token of prefill
    chunk: int = 512  # tokens of prefill in an iteration
    slots: int = 16  # requests at a time
    cache: int = 6_000_000  # tokens
    move: float = 0.05  # seconds to load a session's state, where its last call was elsewhere

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value < 0 or (one.name in ("base", "chunk") and not value):
                raise ValueError(f"a model of a server can't have {one.name} = {value}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Model:
        """From JSON; what is missing has its default. Raises ValueError for an unknown name."""
        known = {one.name: int if one.type == "int" else float for one in fields(cls)}
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(
                f"a model of a server has no {', '.join(unknown)}; it has {', '.join(known)}"
            )
        checked: dict[str, Any] = {name: known[name](value) for name, value in values.items()}
        return cls(**checked)

    def as_json(self) -> dict[str, float]:
        return asdict(self)

    def iteration(self, decoding: int, *, is_prefilling: bool) -> float:
        """Its seconds."""
        seconds = self.base + self.sequence * decoding
        return seconds + self.token * self.chunk if is_prefilling else seconds

    def alone(self, uncached: float, output: float) -> float:
        """Seconds of a call that has a server for itself."""
        prefill = max(1.0, uncached) / self.chunk * self.iteration(0, is_prefilling=True)
        return prefill + max(0.0, output - 1.0) * self.iteration(1, is_prefilling=False)

    def work(self, uncached: float, output: float) -> float:
        """Seconds of a server that such a call costs while all slots are occupied."""
        slots = max(1, self.slots)
        # All others decode meanwhile: what they get during prefills costs nothing more.
        prefill = uncached / self.chunk
        decode = max(0.0, output / slots - prefill)
        return prefill * self.iteration(slots, is_prefilling=True) + decode * self.iteration(
            slots, is_prefilling=False
        )


class LlmMachine(Machine):
    """Prefills one request at a time, in order; decodes all others of its slots."""

    __slots__ = (
        "_at", "_cache", "_decoding", "_done", "_ends", "_model", "_prefill_end", "_prefilling",
        "_step", "_version",
    )  # fmt: skip

    def __init__(self, servers: Sequence[Server], place: int, slots: int, model: Model) -> None:
        super().__init__(servers, place, slots)
        self._model = model
        self._cache = PrefixCache(model.cache // BLOCK)
        self._prefilling: deque[Job] = deque()  # the first one is worked on
        self._prefill_end = 0.0  # of the first one, in iterations
        self._ends: list[tuple[float, int, Job]] = []  # of those that decode, in iterations
        self._decoding = 0
        self._done = 0.0  # iterations since the start
        self._at = 0.0  # seconds, at `_done`
        self._step = model.iteration(0, is_prefilling=False)
        self._version = 0

    def accept(self, job: Job, now: float, *, is_moved: bool) -> None:
        job.length = self._model.move if is_moved else 0.0  # before its work
        if self.slots and self.running >= self.slots:
            self.queue.append(job)
        else:
            self._admit(job, now)

    def _admit(self, job: Job, now: float) -> None:
        self.running += 1
        self.run.started(job, now)
        if job.length:
            self.run.at(now + job.length, self._loaded, job)
        else:
            self._loaded(job, now)

    def _loaded(self, job: Job, now: float) -> None:
        """The session's state is here."""
        self._advance(now)
        self._prefilling.append(job)
        if len(self._prefilling) == 1:
            self._prefill()
        self._plan(now)

    def _prefill(self) -> None:
        """Begin with the first one that waits for it."""
        job = self._prefilling[0]
        tokens = job.workload.tokens
        assert tokens is not None
        total, blocks = tokens.inputs[job.number], tokens.blocks[job.number]
        # At least one token is computed, for the first one of the output.
        cached = max(0, min(self._cache.found(blocks) * BLOCK, total - 1))
        self.run.measures.cached[job.number] = cached
        self._prefill_end = self._done + max(1, total - cached) / self._model.chunk

    def _advance(self, now: float) -> None:
        self._done += (now - self._at) / self._step
        self._at = now

    def _plan(self, now: float) -> None:
        """The next end of a prefill or of a response, unless something changes before."""
        self._version += 1
        is_prefilling = bool(self._prefilling)
        self._step = self._model.iteration(self._decoding, is_prefilling=is_prefilling)
        if self._ends and not (is_prefilling and self._prefill_end <= self._ends[0][0]):
            end, act = self._ends[0][0], self._decoded
        elif is_prefilling:
            end, act = self._prefill_end, self._prefilled
        else:
            return
        version = self._version

        def happen(_: None, now: float) -> None:
            if version == self._version:
                self._done, self._at = end, now
                act(now)

        self.run.at(now + max(0.0, end - self._done) * self._step, happen)

    def _prefilled(self, now: float) -> None:
        """The first token."""
        job = self._prefilling.popleft()
        number, tokens = job.number, job.workload.tokens
        assert tokens is not None
        self._cache.use(tokens.blocks[number])
        self.run.measures.firsts[number] = now - job.arrived
        if self._prefilling:
            self._prefill()
        job.balancer.answered(job, now)
        if tokens.outputs[number] > 1:
            self._decoding += 1
            heappush(self._ends, (self._done + tokens.outputs[number] - 1, number, job))
        else:
            self._end(job, now)
        self._plan(now)

    def _decoded(self, now: float) -> None:
        """The last token."""
        _, _, job = heappop(self._ends)
        self._decoding -= 1
        self._end(job, now)
        self._plan(now)

    def _end(self, job: Job, now: float) -> None:
        self.run.served(job, now)
        self.running -= 1
        if self.queue:
            self._admit(self.queue.popleft(), now)
        job.lease.release(job.output)
