"""Fixtures for every test: tests/support/plugin.py.  Here: how hard hypothesis tries at each size."""

from typing import Final

import hypothesis
import pytest

pytest_plugins = ["tests.support.plugin", "pytester"]

PATIENT: Final = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
"""Other work on the machine is no failure."""

# The small size tries the same examples every time, so that an unrelated change is never blamed for an example it
# happened to meet; the other two look for new ones.
hypothesis.settings.register_profile("small", PATIENT, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("long", PATIENT, max_examples=1_000, print_blob=True)
hypothesis.settings.register_profile("fuzz", PATIENT, max_examples=100_000, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile(config.getoption("--size"))
