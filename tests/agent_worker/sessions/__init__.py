import pytest

# Before its import, so that its assertions are as informative as those of a test.
pytest.register_assert_rewrite("tests.agent_worker.sessions.support")
