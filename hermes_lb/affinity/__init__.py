"""Who served this client before: wraps any strategy."""

from hermes_lb.affinity.cookie import CookieAffinity, Reading, request_letter
from hermes_lb.affinity.keys import StickRules, Stuck

__all__ = ["CookieAffinity", "Reading", "StickRules", "Stuck", "request_letter"]
