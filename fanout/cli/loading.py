"""The job file that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._redact import Redactor
from fanout.cli.output import BORDER
from fanout.job import load_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.job import Job


def loaded(file: str, settings: Sequence[str]) -> Job:
    """The job, whose secrets are printed nowhere from now on. Raises `ConfigError`."""
    BORDER.redactor = Redactor()
    job = load_job(file, settings)
    BORDER.redactor = job.redactor
    return job
