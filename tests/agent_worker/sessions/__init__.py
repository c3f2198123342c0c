import pytest

# Before it is imported: what it asserts for others shall say as much as a test's own.
pytest.register_assert_rewrite("tests.agent_worker.sessions.support")
