"""What `python -m bench.session_keys` measures."""

from __future__ import annotations

from bench.session_keys import cases


def test_its_requests_and_responses_have_the_keys_that_their_names_say() -> None:
    found = {name: act() for name, act in cases().items()}
    for name, key in found.items():
        has_key = "JSON" in name or "event" in name or name == "request: a header"
        assert bool(key) == has_key, name
