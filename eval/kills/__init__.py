"""Runs that are killed at random moments and gone on with, compared bit for bit with runs that were not.

`kinds` says what is run and what it ends with, `processes` starts and kills it, `__main__` is the program.
"""
