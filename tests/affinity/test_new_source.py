"""A source of session keys is one file: the patterns and words of the options stand in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.source_copy import copy_packages, run_in

if TYPE_CHECKING:
    from pathlib import Path

USE = """
from hermes_lb.affinity.keys import KeyRules
from hermes_lb.balancing.hashing import key_source
from hermes_lb.config import ConfigError, load_config
from hermes_lb.testing import config_for
from tests.support.pools import FakeRequest

options = {"balance": "maglev", "strategy": {"hash_on": "method"}, "stick": [{"on": "method"}]}
backend = load_config(config_for("127.0.0.1:9", **options)).backends["servers"]
head = b"PUT / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
print(KeyRules(backend.stick).find(head, "").key)
print(key_source(backend.strategy.hash_on)(FakeRequest(request_head=head)))
try:
    load_config(config_for("127.0.0.1:9", stick=[{"on": "methods"}]))
except ConfigError as error:
    print(error)
"""


@pytest.mark.pure_only("it changes the source of a module")
def test_a_new_source_of_session_keys_is_a_change_of_one_file(tmp_path: Path) -> None:
    copy_packages(tmp_path, "hermes_lb", "tests/support")
    keys = tmp_path / "hermes_lb/http/keys.py"
    text = keys.read_text()
    method = '    elif kind == "method":\n        pattern = rb"\\A([^ ]+)"\n'
    for old, new in (
        ('r"client|', 'r"client|method|'),
        (' or "client"', ', "method" or "client"'),
        ('    elif kind == "path":', f'{method}    elif kind == "path":'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    keys.write_text(text)

    by_rule, by_strategy, refused = run_in(tmp_path, USE).splitlines()
    assert by_rule == by_strategy == "b'PUT'"
    assert refused.endswith('"path:/sessions/{id}", "method" or "client"')
