"""Several processes: a supervisor, its workers, and what they share.

run             the process: signals, the service manager (systemd, status), `limits`, `watch`
supervisor      the order in which all of it starts, reloads, is upgraded and ends
shared_state    what all processes know alike: verdicts, sessions (pins), numbers (gathered)
start_check     what a start would fail at; `new_file`: what a reload may go on by

fleet           a worker in each seat: child is one of them, company all of them
channel         how supervisor and worker talk
worker          the other end: the data path, and an ear for the supervisor
crash_loops     who crashes has to wait; `signs_of_life`: who is stuck
listening       the sockets of all seats; `vacant`: of a seat that nobody can take
kept_files      certificates as they last were good

block           the memory that all of them share, in `rows`
sharing         what a worker does with it, unless it is alone
peers           the others' leases and queues, as its pools see them
shared_clients  what clients take, counted together
published       its own numbers

handover        what outlives an image of the program, and how the next one is executed
image           which image this is; `decisions`: what the last one has decided
admin_listener  the admin listener's sockets outlive it, too
"""
