"""Tuning: which size of a chunk and how many requests in flight give the most rows/s at an endpoint."""

from fanout.job.tuning.budget import Budget
from fanout.job.tuning.control import SearchControl
from fanout.job.tuning.measuring import Trials
from fanout.job.tuning.report import Plan, Tuning
from fanout.job.tuning.trial import Trial
from fanout.job.tuning.tune import tune_job
from fanout.job.tuning.tuner import Audience
from fanout.job.tuning.wishes import TuneOptions

__all__ = ["Audience", "Budget", "Plan", "SearchControl", "Trial", "Trials", "TuneOptions", "Tuning", "tune_job"]
