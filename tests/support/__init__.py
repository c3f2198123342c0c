"""What tests share, by concept.

waiting       for a condition, or for the event loop to turn
http_peer     a scripted HTTP peer on a bare socket; `origin`: one behind the balancer
stage         a real balancer between scripted peers, and what must hold after each test
log_line      the access log, as a test reads it; logging_balancer: in any format
tls           certificates, and peers that speak TLS; websocket: the handshake
heads         parsers of heads; cuts: bytes in pieces; referees: readings by other people
hostile       ways in which hostile bytes arrive, and what has to follow
loops         the event loops that a test runs on; examples: of a property test
programs      other programs, and whether they are here; balancer_process: whole balancers
"""
