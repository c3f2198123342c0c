"""HTTP/2 (RFC 9113): connections whose streams are the sides of exchanges.

frame_io    input and output of a connection, in either role

To clients:

codec       the server's side of `http.frames`
fields      a request's fields as a head of HTTP/1.1, which one parser judges for both versions
connection  the frames of a loop iteration: requests begin, data passes, everything written at once
stream      one request and its response: a `Downstream`
grpc        the balancer's errors for requests of gRPC
tunnel_end  a WebSocket (RFC 8441)
verdicts    why the codec has refused streams, or ended a connection

To servers:

connection_pool  which connection a request gets; dials are shared
upstream         a connection, and what begins, continues and ends by its frames
upstream_stream  one request and its response: a `ServerSide`
upstream_fields  a request's head as fields, and a response's fields as a head of HTTP/1.1

An exchange does not know which version its client and its server have.
"""
