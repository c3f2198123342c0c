"""The metrics of a worker. Each worker in a process has a registry of its own."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """`render()` returns the Prometheus text format."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.active_sessions = Gauge(
            "hermes_active_sessions",
            "Leases held, turns without a session, and attached streams of this worker",
            registry=self.registry,
        )
        counter = partial(Counter, registry=self.registry)
        self.turns = counter(
            "hermes_turns", "Turns that this worker ended, by how they ended", ["outcome"]
        )
        self.steps = counter("hermes_steps", "Model steps that were committed")
        self.tokens = counter("hermes_tokens", "Text deltas received from the engine")
        self.summaries = counter("hermes_summaries", "Summaries of what outgrew a model's window")
        self.engine_retries = counter(
            "hermes_engine_retries",
            "Answers of the engine that broke off and were asked for again, by how they went on",
            ["how"],
        )
        self.archived = counter("hermes_archived_messages", "Messages given to the archive")
        self.tool_calls = counter(
            "hermes_tool_calls",
            "Tool calls, by tool and by result (ok, error, timeout, replayed, unknown)",
            ["tool", "result"],
        )
        self.store_errors = counter(
            "hermes_store_errors", "Store operations that Redis did not answer", ["operation"]
        )
        self.responses = counter("hermes_responses", "HTTP responses, by status", ["status"])

    def render(self) -> bytes:
        return generate_latest(self.registry)
