"""The worker: a stateless HTTP, SSE and WebSocket process that keeps every session in Redis.

Any worker can serve any turn of any session. What a turn needs is in Redis, guarded there
by a lease and a fence (`agent_worker.sessions`); a worker that dies loses only its running step.
"""

from agent_worker.app import Worker, WorkerConfig, build_app

__all__ = ["Worker", "WorkerConfig", "build_app"]
