"""``fanout tune``: a search in an event loop, told trial by trial, and written into the job file on request."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fanout.cli.loading import loaded
from fanout.cli.output import print_error, print_json, print_text
from fanout.cli.progress import Silent
from fanout.cli.signals import Interrupts
from fanout.cli.tuning_text import plan_text, trial_text, tuning_text
from fanout.clock import VirtualClock
from fanout.errors import ConfigError
from fanout.job import overridden, require_writable, write_settings
from fanout.tune import SearchControl, tune_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.tune import Plan, Trial, Trials, TuneOptions, Tuning

_KEYS = ("chunks.rows", "limits.concurrency")


def tune_command(
    file: str, settings: Sequence[str], wishes: TuneOptions, *, mock: bool, write: bool, as_json: bool
) -> int:
    """Tune a job, print what was found; returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=VirtualClock if mock else None) as runner:
            tuning = runner.run(_tune(file, settings, wishes, mock=mock, write=write))
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    failure = ""
    if write and tuning.settings and tuning.stop_kind is None:
        tuning, failure = _written(tuning, file)
    if as_json:
        print_json(tuning.as_dict())
    else:
        print_text(tuning_text(tuning, file))
    if tuning.stop_reason is not None:
        unwritten = "; the job file is as it was" if write else ""
        print_error(f"stopped early: {tuning.stop_reason}{unwritten}", tuning.exit_code)
    if failure:
        print_error(failure, tuning.exit_code)
    return tuning.exit_code


def _written(tuning: Tuning, file: str) -> tuple[Tuning, str]:
    """Write what was found; where that fails, why. It has cost too much to be lost then."""
    try:
        write_settings(Path(file), tuning.settings)
    except ConfigError as error:
        return replace(tuning, exit_code=2), str(error)
    return replace(tuning, written=file), ""


async def _tune(file: str, settings: Sequence[str], wishes: TuneOptions, *, mock: bool, write: bool) -> Tuning:
    job = loaded(file, settings)
    if write:
        _require_keys_of_file(settings)
        require_writable(job.file)
    if mock:
        random.seed(job.tables.mock.seed)  # of the jitter in all waits: the same search has the same trials
    control, teller = SearchControl(), _Teller()
    with Interrupts(control, teller) as interrupts:
        tuning = await tune_job(job, wishes, teller, mock=mock, control=control)
    if tuning.stop_kind == "interrupted" and interrupts.received == signal.SIGTERM:
        return replace(tuning, exit_code=143)
    return tuning


def _require_keys_of_file(settings: Sequence[str]) -> None:
    for key in _KEYS:
        if setting := overridden(settings, key):
            raise ConfigError(f"--write sets {key} in the job file, so it cannot be overridden by --set {setting}")


class _Teller(Silent):
    """Tells of trials as they are made."""

    def __init__(self) -> None:
        super().__init__()
        self._trials: Trials | None = None

    def planned(self, plan: Plan, trials: Trials) -> None:
        """Say what is going to be sent."""
        self._trials = trials
        self.say(plan_text(plan))

    def tried(self, trial: Trial) -> None:
        """Say what a trial has given."""
        self.say(trial_text(trial))

    def say(self, message: str) -> None:
        """Say something on stderr, if anybody reads it."""
        with suppress(OSError):
            super().say(message)

    def in_flight(self) -> int:
        """Requests in flight at this moment."""
        client = self._trials.client if self._trials else None
        return client.statistics().in_flight if client else 0
