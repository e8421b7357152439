"""Tuning: which size of a chunk and how many requests in flight give the most rows/s at an endpoint."""

from fanout.tune.budget import Budget
from fanout.tune.control import SearchControl
from fanout.tune.measuring import Trials
from fanout.tune.report import Plan, Tuning
from fanout.tune.trial import Trial
from fanout.tune.tune import tune_job
from fanout.tune.tuner import Audience
from fanout.tune.wishes import TuneOptions

__all__ = ["Audience", "Budget", "Plan", "SearchControl", "Trial", "Trials", "TuneOptions", "Tuning", "tune_job"]
