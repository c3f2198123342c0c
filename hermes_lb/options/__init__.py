"""What options are declared with, wherever they belong: a strategy's, a probe's, a whole file's.

section     the base class of every table, and the patterns of texts
units       durations, sizes, addresses, networks, statuses
kinds       a table whose keys depend on a kind, such as `[backends.NAME.strategy]` on `balance`
problems    what is wrong with a configuration, in lines for people
"""
