"""Cells, commits and Ray. No arithmetic on pixels."""
