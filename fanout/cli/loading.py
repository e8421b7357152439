"""The job file that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._redact import Redactor
from fanout.cli.output import BORDER
from fanout.job import load_job, load_job_or_outline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.job import Job, Outline


def loaded(file: str, settings: Sequence[str]) -> Job:
    """The job, whose secrets are printed nowhere from now on. Raises `ConfigError`."""
    BORDER.redactor = Redactor()
    job = load_job(file, settings)
    BORDER.redactor = job.redactor
    return job


def loaded_or_outline(file: str, settings: Sequence[str]) -> Job | Outline:
    """The same, or what can be known of it where variables under endpoint and codec are not set."""
    BORDER.redactor = Redactor()
    job = load_job_or_outline(file, settings)
    BORDER.redactor = job.redactor
    return job
