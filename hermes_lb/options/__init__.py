"""How options are declared: those of a strategy, of a probe, of a section of the file.

section     the base class of every table
patterns    regular expressions of texts, with their words
units       durations, sizes, addresses, networks, statuses
kinds       a table whose keys depend on a kind, such as `[backends.NAME.strategy]` on `balance`
problems    problems of a configuration, in lines for operators
"""
