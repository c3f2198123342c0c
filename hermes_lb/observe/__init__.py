"""What can be seen from outside: access log, termination codes, metrics.

record        a request that has ended, in plain values; `hermes_lb.observe.record` builds it
recorder      `[log]`: which format, and which requests
httplog       a record -> a line in HAProxy's format; `combined` and `json_log`: in the others
escaping      what strangers sent, made fit for a line
sampling      which requests are shown, if not all are
termination   how a request ended, in HAProxy's letters
access_log    lines that wait for a thread to write them
background    the thread
sinks         where lines go: files, descriptors, syslog
messages      what the balancer says of itself, by the same means

observed      what metrics and admin listener look at
metric_table  every metric, and where its numbers are
metrics       Prometheus' text format
recent        the last requests that ended badly
loop_lag      how late the event loop is
usage         what a process uses of the machine
"""
