"""The operator's side: the admin listener.

operator     what it may see and do: the balancer's side
admin        the listener: its start, its end, what is where
guard        who may use it; `token`: the token, as its file has it now
strangers    connections that ask for nothing good end
runner       aiohttp's server, with answers of our form; `quiet`: and without its tracebacks
api          /api/v1: what there is to see, and what may be changed
views        what is shown, as plain values; `schemas`: their shapes
openapi      the description of all that; `openapi_page`: as a page
history      the last minutes, sampled
feed         the live stream
state_file   what operators have set, kept in a file
"""

from hermes_lb.control.admin import AdminServer

__all__ = ["AdminServer"]
