"""Streamed turns through the balancer, all processes real, while all of these fail."""
