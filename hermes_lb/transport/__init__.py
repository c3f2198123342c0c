"""Connections as bytes: what HTTP and TLS share.

endpoint   pausing and resuming reads, by reasons
run_queue  a bounded share of a loop iteration for each connection
kernel     socket options and events that asyncio does not report
addresses  client addresses in their plain form
"""
