"""The operator's side: the admin listener."""

from hermes_lb.control.admin import AdminServer

__all__ = ["AdminServer"]
