"""Jobs: a TOML file describes rows from a file, through a remote model, into a file.

`load_job` reads the file, `check_job`, `dry_run` and `job_status` examine the job, and `run_job` runs it.
"""

from fanout.job.check import check_job, dry_run, job_status
from fanout.job.edit import require_not_overridden, require_writable, write_settings
from fanout.job.exchange import RecordedRow, recorded_row
from fanout.job.failures import FailureReport, job_failures
from fanout.job.load import load_job, load_job_or_outline
from fanout.job.model import Job, JobFile, Outline
from fanout.job.report import SCHEMA_VERSION, ArraySchema, CheckReport, Estimate, Status, Summary
from fanout.job.run import run_job
from fanout.job.run_report import recreate_report
from fanout.job.schema import job_schema

__all__ = [
    "SCHEMA_VERSION",
    "ArraySchema",
    "CheckReport",
    "Estimate",
    "FailureReport",
    "Job",
    "JobFile",
    "Outline",
    "RecordedRow",
    "Status",
    "Summary",
    "check_job",
    "dry_run",
    "job_failures",
    "job_schema",
    "job_status",
    "load_job",
    "load_job_or_outline",
    "recorded_row",
    "recreate_report",
    "require_not_overridden",
    "require_writable",
    "run_job",
    "write_settings",
]  # fmt: skip
