"""Finds a backend's servers when the configuration does not list their addresses.

sources      the kinds, one file each: dns, file, kubernetes; and `resolve` of a single server
watch        follows one source: retries, damping, its log
damping      which changes of a source take effect, and when
discoveries  all backends: what a balancer starts, reloads and stops
"""
