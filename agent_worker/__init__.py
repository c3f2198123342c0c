"""A stateless HTTP, SSE and WebSocket worker that keeps all sessions in Redis.

Any worker can serve any turn of any session. The state of a turn is in Redis, protected by a lease
and a fence (`agent_worker.sessions`); a worker that dies loses only its running step.
"""

from agent_worker.app import Worker, WorkerConfig, build_app

__all__ = ["Worker", "WorkerConfig", "build_app"]
