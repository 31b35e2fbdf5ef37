"""What the tests of several modules need."""

from pathlib import Path

import pytest

from anything3d.mini import sam


@pytest.fixture(scope="session")
def toy_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SAM with random weights. Nobody writes into it."""
    folder = tmp_path_factory.mktemp("weights") / "sam"
    sam.save(sam.build(0), folder)
    return folder
