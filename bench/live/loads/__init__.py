"""The clients: wrk for requests, Protocols on uvloop for streams and WebSockets."""
