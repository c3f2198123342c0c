"""A recording of what each event does to the phase and the deadline of an exchange.

The recorder wraps the entry points of client connections and exchanges while tests run, and changes
nothing else. Two recordings, from before and after a refactoring, are compared: CONTRIBUTING.md.

    adapter     what is known of the code under test: attributes, methods, timeouts
    recorder    calls of entry points -> transitions
    recording   a set of transitions, in a file, merged and compared
    plugin      the option of pytest that switches it on
"""
