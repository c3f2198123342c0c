"""Who served this client before: wraps any strategy."""

from hermes_lb.affinity.cookie import CookieAffinity, request_letter

__all__ = ["CookieAffinity", "request_letter"]
