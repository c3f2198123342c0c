"""Claims of papers, checked in the laboratory: `python -m bench.papers --traces DIRECTORY`.

claims   each claim with its source, its figure, and the run that checks it
lab      recorded traffic played to two strategies
pushing, stealing  strategies with the options that a run needs
clients  one client that floods, beside others
kept     results by claim and seed, for an interrupted run
verdict  confirmed, partly, or not seen, by the ratio's interval
page     docs/strategies/papers.md
"""
