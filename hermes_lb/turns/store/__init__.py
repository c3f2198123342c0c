"""Turns in Redis or Valkey.

url         `[store].url`: the servers, credentials, TLS
link        one connection: commands leave in order, replies come to callbacks
node        one server: its shared connection, and others for commands that block
topology    the server that holds a key: one server, Sentinels (`sentinel`), Cluster (`cluster`)
scripts     the Lua scripts, from `lua/`
client      runs scripts within a patience; the only place that judges errors
"""
