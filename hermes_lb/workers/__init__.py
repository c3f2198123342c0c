"""A supervisor, its worker processes, and the memory they share.

run             the process: signals, service manager (systemd, status), `limits`, `watch`
supervisor      start, reload, upgrade and shutdown, in order
shared_state    server states, learned sessions (pins) and totals (gathered), shared by all workers
start_check     what would make a start fail; `new_file`: validate a file for a reload

fleet           one worker per slot; child is one of them; worker_group: is one of them alone?
channel         messages between supervisor and worker
worker          the worker process: the data path, controlled by the supervisor
crash_loops     restart backoff; `heartbeats`: detects stuck workers
listening       the listening sockets of all slots; `unserved_listeners`: of slots without a worker
kept_files      the last valid certificates

shared_memory   counters and leases of all workers, one region each; `layout` assigns the rows
sharing         turns sharing on and off in a worker
peers           the other workers' leases and queues, as its pools see them
shared_clients  connections and requests by client, over all workers
published       a worker's counters
spread          even numbers of connections in all workers; `inbox`: connections on their way

upgrade         checks and executes the new code; `generation`: has this process been upgraded?
handover        state that survives it, in memory and descriptors; `decisions`: in JSON
found           the servers of discoveries in it, and in messages
admin_listener  admin listener whose sockets survive an upgrade
"""
