from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import Sandbox

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder with a config.yaml, in which watchdogs and daemons of the test's own run; none is left behind."""
    box = Sandbox(tmp_path)
    yield box
    box.clean_up()
