"""For all tests, however they are shared out between workers."""

import gc
import warnings

import pytest


@pytest.fixture(autouse=True, scope="module")
def garbage_of_other_files() -> None:
    """Collect it here, where it is nobody's fault.

    Which files a worker has run before differs from run to run. A socket that one of them has left open is a warning
    when it is collected, and a warning fails the test that runs at that moment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
