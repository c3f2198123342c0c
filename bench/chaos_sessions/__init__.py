"""The invariants of agent_worker's sessions, with processes, signals, lost replies, failovers."""
