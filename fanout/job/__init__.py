"""The job: one TOML file, run from its input to its output."""

from fanout.job.check import Findings, Form, check_job
from fanout.job.load import load_job
from fanout.job.model import Job, JobFile
from fanout.job.run import run_job
from fanout.job.schema import job_schema
from fanout.job.summary import SCHEMA_VERSION, Summary

__all__ = [
    "SCHEMA_VERSION",
    "Findings",
    "Form",
    "Job",
    "JobFile",
    "Summary",
    "check_job",
    "job_schema",
    "load_job",
    "run_job",
]
