"""A fake Kubernetes API server, strict and independent of the balancer's client: the real `kubectl`
lists, watches, patches and deletes its objects.

server     the HTTP API: authentication, RBAC, discovery documents, list, watch, patch, delete
store      objects with versions, and the history that watches read
faults     what goes wrong on demand: 410, 401, 429, dropped watches, slow lists, garbage
objects    EndpointSlices and Pods as a cluster has them
deployment pods that are real worker processes, with their controller and kubelet
"""
