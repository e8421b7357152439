"""The fixtures of `tests.jobs`."""

from tests.jobs import doubler, write_job

__all__ = ["doubler", "write_job"]
