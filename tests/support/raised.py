"""What a node does on a loop raises into the loop's log, where no test sees it: this fixture does.

from tests.support.raised import nothing_was_raised  # in a conftest.py
"""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_was_raised(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
