"""Differential tests: do all parsers read the messages that pass the balancer alike?

Bytes are generated (`request_grammar`, `response_grammar`, on `fragments`) or come from the files
of `corpus`. An `arena` sends them through a real balancer between `peers`. Independent parsers
(`request_referees`, `response_referees`) read what was sent and what came of it, and two judges
(`request_judge`, `response_judge`) compare. `fuzz` does that for as long as one likes. `recurring`
needs no balancer: it compares the parsers and their caches with llhttp.
"""
