"""Finds a backend's servers when the configuration does not list their addresses.

sources      the kinds of `[backends.NAME.discovery]`, one file each: dns, file, kubernetes
watch        follows the source of one backend: retries, damping, its log
damping      which changes of a source take effect, and when
discoveries  all backends: what a balancer starts, reloads and stops
dns          `resolve`: host names of single servers, looked up periodically by the system
"""
