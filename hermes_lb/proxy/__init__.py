"""The data path, file by file in travel order; docs/life-of-a-request.md walks through it.

exchange       one request and its response: phases, the one end
state          what is known of it, from its head to its record
select         a backend: affinity, strategy, lease, or the queue                 Q
retry          what may fail before the response head: the retry table
upload         the request's body
relay          bodies both ways, back-pressure, the end of the message       D L
resume         event streams that go on from another server when theirs is lost
moving         streams leave a server that stands still
tunnel         after a 101: raw bytes both ways                              T
abandoned      a response that the server may finish although the client has left
local_replies  responses of our own end an exchange; `reply_texts` writes them
record         an exchange that has ended: the counters, and its line in the access log

batch          the events of one loop iteration, processed stage by stage
deadlines      the sweep over all deadlines
liveness       does a server that leaves a check unanswered still send?
context        what the connections of one balancer share
inflight       the requests in flight, for the operator

`http1` has the connections: `client`, with `intake`, and `upstream`.
"""

from hermes_lb.proxy.inflight import end_sessions, running_sessions
from hermes_lb.proxy.liveness import has_moved

__all__ = ["end_sessions", "has_moved", "running_sessions"]
