"""For every test here: whatever cells say, nothing is raised."""

from tests.support.raised import nothing_was_raised

__all__ = ["nothing_was_raised"]
