"""What a session costs: round trips, time, memory, and how each grows.

`python -m bench.sessions`
"""
