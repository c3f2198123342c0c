"""Observability: access log, termination codes, metrics.

record        a request that has ended, in plain values; `hermes_lb.proxy.record` builds it
recorder      `[log]`: which format, and which requests
request_log   a recorder and its access log, which change together
httplog       a record -> a line in HAProxy's format; `combined` and `json_log`: in the others
escaping      untrusted input, made fit for a line
sampling      which requests are shown, if not all are
termination   how a request ended, in HAProxy's letters
access_log    lines that wait for a thread to write them
background    the thread
sinks         where lines go: files, descriptors, syslog
messages      the balancer's own messages, written in the same way

observed      the state that metrics and admin listener read
metric_table  every metric, and where its numbers are
metrics       Prometheus' text format
recent        the last requests that ended badly
loop_lag      how late the event loop is
certificates  those in use, and when they expire
spans         OpenTelemetry's spans of requests, exported by OTLP
usage         CPU, memory and descriptors of a process
"""
