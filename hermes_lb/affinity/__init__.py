"""Affinity: a client's requests go to one server, whatever the strategy is.

cookie, dates      a cookie names the server
keys               a key in the request decides: by hashing, or as learnt from responses
bodies             the keys that a response's body names
table, stores      the servers of learnt keys, in memory or shared
response_cookies   the affinity cookie in a response
"""

from hermes_lb.affinity.cookie import CookieAffinity, Reading, request_letter
from hermes_lb.affinity.keys import KeyRules, SessionKey

__all__ = ["CookieAffinity", "KeyRules", "Reading", "SessionKey", "request_letter"]
