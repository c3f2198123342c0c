"""Active health checks: probes, what their results mean, and when they run.

checker      runs the probes and turns their results into server states
rise_fall    HAProxy's `rise` and `fall`
lateness     does not count the event loop's own delays against a server
probes       one kind of probe a file, with its options; `registry` lists them

Nothing is imported here: the configuration reads the probes' options without the rest.
"""
