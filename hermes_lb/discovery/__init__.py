"""Finds a backend's servers when the configuration does not list their addresses.

dns  host names of servers, looked up periodically
"""

from hermes_lb.discovery.dns import Resolver

__all__ = ["Resolver"]
