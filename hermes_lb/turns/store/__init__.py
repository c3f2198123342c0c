"""Turns in Redis or Valkey.

url         `[store].url`: the servers, credentials, TLS
link        one connection: commands leave in order, replies come to callbacks
node        one server: its shared connection, and others for commands that block
topology    the server that holds a key: one server, Sentinels (`sentinel`), Cluster (`cluster`)
scripts     the Lua scripts, from `lua/`
client      runs scripts within a patience; the only place that judges errors

journals    what control needs of the journals; `stored_journals` is all of them
journal     the journal of a turn of this process; `outbox`: its batches that may be missing
writer      sends the batches of all journals
reading     a follower's place in a journal
subscriber  notifications
embedded    the Valkey of a balancer without a `[store].url`
"""
