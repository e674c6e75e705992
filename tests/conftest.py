from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder with a config.yaml, in which watchdogs and daemons of the test's own run; none is left behind."""
    box = Sandbox(tmp_path)
    yield box
    box.clean_up()
