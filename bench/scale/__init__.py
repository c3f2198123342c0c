"""hermes_lb at a machine's limits: live streams up to the limit of descriptors; 10,000 servers.

`python -m bench.scale`; docs/performance.md has the figures.
"""
