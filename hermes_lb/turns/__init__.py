"""Durable turns: a request to an agent that executes once, and whose stream can be resumed.

options    `[frontends.routes.turns]` and `[store]`
states     the states of a turn, and their transitions
ports      the store and the journal, as the data path sees them
secret     the key of all digests: a file
store      the same in Redis or Valkey: its scripts, the journal's connection, incarnations

The part on the data path is `hermes_lb.proxy.turns`. docs/turn-gateway.md is for users.
"""
