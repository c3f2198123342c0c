"""HTTP/2 to clients: a connection whose streams are the client's sides of exchanges (RFC 9113).

codec       the server's side of `http.frames`
fields      a request's fields as a head of HTTP/1.1, which one parser judges for both versions
connection  the frames of a loop iteration: requests begin, data passes, everything written at once
stream      one request and its response: a `Downstream`
tunnel_end  a WebSocket (RFC 8441)
verdicts    why the codec has refused streams, or ended a connection

An exchange does not know which version its client has.
"""
