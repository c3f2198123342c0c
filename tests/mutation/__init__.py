"""Mutation testing by a curated table: faults put into the code on purpose, each of which a test
must catch. `make mutants` runs it; CONTRIBUTING.md says how to add one.

    table     what a mutant is, and `mutants/*.toml`, one file for each area
    copies    a temporary copy of the tree, with one mutant in it at a time
    report    the verdicts, and what is printed of them
"""
