"""The commands. Each one reads its command line, calls the pipeline and prints what it says. They have no own logic."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # as `python -m jobs.run` begins
    # The working folder comes before the environment then, and a stray six.py in it would be taken for the library.
    import anything3d  # noqa: F401 - found where this package was
    import pipeline  # noqa: F401
    import schemas  # noqa: F401

    sys.path.append(sys.path.pop(0))
