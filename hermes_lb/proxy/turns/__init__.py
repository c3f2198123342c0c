"""Durable turns on the data path: `[frontends.routes.turns]`, in travel order.

admission    which requests have a gate, and which kind
rules        a route's options, ready to be applied
principal    whose request it is: a digest of its credential
keys         the Idempotency-Key, and the session, of a request
fingerprint  what makes two requests the same
event_ids    `h1.<turn>.<number>`, and where a client wants to go on
gate         what all gates have in common
executing    a request that executes its turn; its client may leave
turn         a request with a key, a session or a stream: it executes its turn, or follows another's
takeover     a turn whose owner has died goes on here
resume_gate  `/.hermes/turns/<id>`: a turn that is named by its id
owner        the turn that a request executes: what is written of it, and when
client       the client's side of any of these; an owner's may leave
detached     an owner's exchange after its client has left, for the sweep and the operator
follower     how a request follows a turn: from where, and with which head
place        its place in a journal
journal_side the server's side of a follower: a journal instead of a connection
keep_alive   comments in the silence of a stream
heads        stored heads, and our fields
problems     answers as application/problem+json

`ports.TurnGate` is what an exchange knows of it. docs/turn-gateway.md is for users.
"""
