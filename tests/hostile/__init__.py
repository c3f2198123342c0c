"""Hostile input, end to end. What `support` asserts is explained like what a test asserts."""

import pytest

pytest.register_assert_rewrite("tests.hostile.support")
