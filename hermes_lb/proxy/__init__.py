"""The data path, file by file in travel order; docs/life-of-a-request.md walks through it.

phases         the table: what may follow what, which deadline runs, who is waited for
ports          both sides of an exchange, as it sees them
exchange       one request and its response; `enter` changes its phase

admit          may it be served, and by which backend?                       R
select         a backend: affinity, strategy, lease, or the queue            Q C
upload         the request's body                                            H
retry          what becomes of a request whose server failed: the retry table
response       the response's head, rewritten for the client                 D
resume         event streams that go on from another server when theirs is lost
tunnel         after a 101: raw bytes both ways
abandoned      a response that the server may finish although the client has left
local_replies  responses of our own: the one place where an error becomes one
record         an exchange that has ended: the counters, and its line in the access log

batch          the events of one loop iteration, processed stage by stage
deadlines      the sweep over all deadlines
context        what the connections of one balancer share
moving         streams leave a server that stands still
liveness       does a server that leaves a check unanswered still send?
inflight       the requests in flight, for the operator

`http1` has the connections, which implement the ports; nothing else here imports it.
"""

from hermes_lb.proxy.inflight import end_sessions, running_sessions
from hermes_lb.proxy.liveness import has_moved

__all__ = ["end_sessions", "has_moved", "running_sessions"]
