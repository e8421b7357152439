"""The job: one TOML file, run from its input to its output."""

from fanout.job.check import Findings, OutputSchema, check_job
from fanout.job.dry_run import Estimate, dry_run
from fanout.job.load import load_job, load_job_or_outline
from fanout.job.model import Job, JobFile, Outline
from fanout.job.override import overridden
from fanout.job.rewrite import require_writable, write_settings
from fanout.job.run import run_job
from fanout.job.schema import job_schema
from fanout.job.status import Status, job_status
from fanout.job.summary import SCHEMA_VERSION, Summary

__all__ = [
    "SCHEMA_VERSION",
    "Estimate",
    "Findings",
    "Job",
    "JobFile",
    "Outline",
    "OutputSchema",
    "Status",
    "Summary",
    "check_job",
    "dry_run",
    "job_schema",
    "job_status",
    "load_job",
    "load_job_or_outline",
    "overridden",
    "require_writable",
    "run_job",
    "write_settings",
]
