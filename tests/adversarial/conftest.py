"""For every test here: what an attacker does raises nothing."""

from tests.support.raised import nothing_was_raised

__all__ = ["nothing_was_raised"]
