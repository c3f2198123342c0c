"""Turns in Redis or Valkey.

url         `[store].url`: the servers, credentials, TLS
login       the credentials of new connections, of which there may be two while they change
link        one connection: commands leave in order, replies come to callbacks
node        one server: its shared connection, and others for commands that block
topology    the server that holds a key: one server, Sentinels (`sentinel`), Cluster (`cluster`)
scripts     the Lua scripts, from `lua/`
client      runs scripts within a patience; the only place that judges errors
in_flight   how many of them at once
keys        the table of all keys, and their slots

Control, by principal:
control         the scripts as calls; states.py becomes their table of transitions
stored          a record as the scripts return it
stored_turns    TurnStore; owned_turn, a turn of this process
session_queue   one turn of a session at a time
incarnation     the beats of this process; observer, those of others
quotas          limits of principals, each and together
inventory       what operators see and delete

Data, by turn:
stored_journals   Journals (`journals` is what control needs of them); journal, the journal of one
outbox            the batches of one journal on their way; append_command, those of many
writer            writes them, each lane to one server
reading           a follower's place; subscriber, notifications; shared_work, one read for many
sealing           what is stored of responses, encrypted
embedded          the Valkey that the balancer starts; opening, all of it put together
"""
