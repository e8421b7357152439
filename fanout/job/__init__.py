"""The job: one TOML file, run from its input to its output."""

from fanout.job.check import Findings, Form, check_job
from fanout.job.dry_run import Estimate, dry_run
from fanout.job.load import load_job
from fanout.job.model import Job, JobFile
from fanout.job.run import run_job
from fanout.job.schema import job_schema
from fanout.job.status import Status, job_status
from fanout.job.summary import SCHEMA_VERSION, Summary

__all__ = [
    "SCHEMA_VERSION",
    "Estimate",
    "Findings",
    "Form",
    "Job",
    "JobFile",
    "Status",
    "Summary",
    "check_job",
    "dry_run",
    "job_schema",
    "job_status",
    "load_job",
    "run_job",
]
