"""`make bench`: ours and what people would use instead, in turn in one run, after a check that both compute the same.

`row.py` says what a row is, `measure.py` measures one, `rows/` has one file for each, and `__main__.py` is the command.
"""
