"""For all tests, however they are shared out between workers."""

import gc
import warnings

import pytest
from hypothesis import HealthCheck, settings

# A slow machine is no fault of an example. Every run tries the same examples, so that it ends as the run before it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="module")
def garbage_of_other_files() -> None:
    """Collect it here, where it is nobody's fault.

    Which files a worker has run before differs from run to run. A socket that one of them has left open is a warning
    when it is collected, and a warning fails the test that runs at that moment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
