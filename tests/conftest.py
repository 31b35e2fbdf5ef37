"""How tests are shared out between several workers (`pytest -n 2 --dist loadgroup`); one worker alone runs them all."""

import gc
import warnings

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests that start Ray to one worker, which begins with them, and the tests of one file to one worker.

    The tests that start Ray share a corpus and take the longest. The tests of one file share networks.
    """
    if config.getoption("dist", "no") != "loadgroup":
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if _starts_ray(item) else item.path.stem))
    items.sort(key=_starts_ray, reverse=True)


def _starts_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.fixture(autouse=True, scope="module")
def garbage_of_other_files() -> None:
    """Collect it here, where it is nobody's fault.

    Which files a worker has run before differs from run to run. A socket that one of them has left open is a warning
    when it is collected, and a warning fails the test that runs at that moment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
