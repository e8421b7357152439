"""Tuning: find the chunk size and the concurrency with the most rows per second at an endpoint.

`tune_job` reads a sample of the job's input and asks a `Search` for points to try. For each point a `TrialRunner` sends
chunks through a client of its own and measures them, as long as the `Budget` lasts. The result is a `TuneReport`.
"""

from fanout.tune.runner import SearchControl, TrialRunner
from fanout.tune.search import Budget, TuneOptions
from fanout.tune.trial import Plan, Trial, TuneReport
from fanout.tune.tune import TuneListener, tune_job

__all__ = [
    "Budget", "Plan", "SearchControl", "Trial", "TrialRunner", "TuneListener", "TuneOptions", "TuneReport", "tune_job",
]  # fmt: skip
