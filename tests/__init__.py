import pytest

# Before it is imported: what it asserts for others is explained like what a test asserts.
pytest.register_assert_rewrite("tests.support")
