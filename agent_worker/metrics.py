"""The metrics of a worker. Each worker in a process has a registry of its own."""

from __future__ import annotations

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
        self.turns = Counter(
            "hermes_turns",
            "Turns that this worker ended, by how they ended",
            ["outcome"],
            registry=self.registry,
        )
        self.steps = Counter(
            "hermes_steps", "Model steps that were committed", registry=self.registry
        )
        self.tokens = Counter(
            "hermes_tokens", "Text deltas received from the engine", registry=self.registry
        )
        self.summaries = Counter(
            "hermes_summaries", "Summaries of what outgrew a model's window", registry=self.registry
        )
        self.engine_retries = Counter(
            "hermes_engine_retries",
            "Answers of the engine that broke off and were asked for again, by how they went on",
            ["how"],
            registry=self.registry,
        )
        self.archived = Counter(
            "hermes_archived_messages", "Messages given to the archive", registry=self.registry
        )
        self.tool_calls = Counter(
            "hermes_tool_calls",
            "Tool calls, by tool and by result (ok, error, timeout, replayed, unknown)",
            ["tool", "result"],
            registry=self.registry,
        )
        self.store_errors = Counter(
            "hermes_store_errors",
            "Store operations that Redis did not answer",
            ["operation"],
            registry=self.registry,
        )
        self.responses = Counter(
            "hermes_responses", "HTTP responses, by status", ["status"], registry=self.registry
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)
