from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from certwright.init import Options, init
from tests.helpers.clock import FakeClock


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `certwright init` makes. Tests read it and never change it."""
    directory = tmp_path_factory.mktemp("init") / "certwright"
    asyncio.run(init(Options(directory=directory), clock=FakeClock()))
    return directory
