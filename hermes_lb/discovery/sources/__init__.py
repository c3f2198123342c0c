"""The kinds of discovery.

base             the port: an async iterator of server sets
registry         all kinds
options          `[backends.NAME.discovery]`
names            names of servers, made of what a source gives
addresses        the addresses of one host name, by the answers so far; no I/O
dns              addresses or SRV records of a name, by their TTL
dns_resolver     look-ups by dnspython (extra `dns`)
file             a watched JSON file
resolve          `resolve` of a server: the addresses of its host name, by the system
kubernetes       EndpointSlices of a service
kubernetes_api   the calls to a Kubernetes API server
endpoint_slices  the servers in EndpointSlices; no I/O
"""
