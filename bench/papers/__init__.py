"""Claims of papers, checked in the laboratory: `python -m bench.papers --traces DIRECTORY`.

claims   each claim with its source, its figure, and the run that checks it
lab      recorded traffic played to two strategies, as ratios over seeds
clients  one client that floods, beside others
verdict  confirmed, partly, or not seen, by the ratio's interval
page     docs/strategies/papers.md
"""
