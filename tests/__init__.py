"""The checker of shapes and types in signatures while tests run; an int is a float, as in Python's own typing."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
