"""HTTP/1 connections: bytes to heads and bodies, on both sides of an exchange.

client           faces the client: bytes -> request heads
intake           bytes of a client that are not part of the present request
upstream         faces the server: bytes -> response heads
connection_pool  idle connections to a server, or a new one
tunnel_end       one side of a tunnel
"""
