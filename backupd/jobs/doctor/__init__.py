"""The doctor: checks the set-up end to end, one line a check, with the cure beside what is not well.

Each module looks at one thing in two steps: a function that gathers *facts* (it blocks, and reads only), and
a pure one that judges them. Both the daemon and a console without a daemon use them. Nothing is changed but
one probe file of `disk`, which is removed again.
"""
