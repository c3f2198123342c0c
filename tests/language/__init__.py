"""The word list: the project's prose uses the field's terms, as docs/glossary.md lists them.

`words.toml` has the patterns, `passages.py` finds the prose, `check.py` compares them.
`make check` runs `python -m tests.language`.
"""
