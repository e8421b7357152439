"""``fanout run`` and ``fanout check``: a job in an event loop, with signals, progress, and one way to end."""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from fanout.cli.loading import loaded, loaded_or_outline
from fanout.cli.output import (
    estimate_text,
    findings_text,
    print_error,
    print_json,
    print_text,
    status_text,
    summary_text,
)
from fanout.cli.progress import progress_display
from fanout.cli.signals import Interrupts
from fanout.clock import VirtualClock
from fanout.engine import RunControl
from fanout.errors import ConfigError
from fanout.job import Findings, Summary, check_job, dry_run, job_status, run_job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cli.progress import Display

Outcome = TypeVar("Outcome", Summary, Findings)


def run_command(
    file: str, settings: Sequence[str], how: Mapping[str, Any], *, real_time: bool, as_json: bool, quiet: bool
) -> int:
    """Run a job, print its summary; returns the exit code. ``how`` is `run_job`'s ``rows``, ``fresh``, ..."""
    virtual = (how["mock"] or how["replay"] is not None) and not real_time
    display = progress_display(quiet=quiet or virtual)  # in virtual time there is nothing to be watched
    try:
        with asyncio.Runner(loop_factory=VirtualClock if virtual else None) as runner:
            summary = runner.run(_run(file, settings, how, display, seeded=virtual))
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    _print_outcome(summary, "" if quiet else summary_text(summary), as_json=as_json)
    return summary.exit_code


def check_command(file: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Check a job, print what was found; returns the exit code."""
    try:
        findings = asyncio.run(_check(file, settings))
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    _print_outcome(findings, findings_text(findings), as_json=as_json)
    return findings.exit_code


def dry_run_command(file: str, settings: Sequence[str], latency: float | None, *, as_json: bool) -> int:
    """Count what a job would send, print it; returns the exit code."""
    try:
        estimate = asyncio.run(dry_run(loaded(file, settings), latency=latency))
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    if as_json:
        print_json(estimate.as_dict())
    else:
        print_text(estimate_text(estimate))
    return estimate.exit_code


def status_command(file: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Print how far a job's run has come; returns the exit code."""
    try:
        status = job_status(loaded_or_outline(file, settings))
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    if as_json:
        print_json(status.as_dict())
    else:
        print_text(status_text(status))
    return 0


async def _run(
    file: str, settings: Sequence[str], how: Mapping[str, Any], display: Display, *, seeded: bool
) -> Summary:
    job = loaded(file, settings)
    if seeded:
        random.seed(job.tables.mock.seed)  # of the jitter in all waits: the same run has the same events
    control = RunControl()
    with Interrupts(control, display) as interrupts:
        display.open()
        try:
            summary = await run_job(job, **how, control=control, on_start=display.start)
        finally:
            await display.stop()
    return _with_signal(summary, interrupts)


async def _check(file: str, settings: Sequence[str]) -> Findings:
    job = loaded(file, settings)
    control = RunControl()
    with Interrupts(control, progress_display(quiet=True)) as interrupts:
        return _with_signal(await check_job(job, control=control), interrupts)


def _with_signal(outcome: Outcome, interrupts: Interrupts) -> Outcome:
    if outcome.stop_kind == "interrupted" and interrupts.received == signal.SIGTERM:
        return replace(outcome, exit_code=143)
    return outcome


def _print_outcome(outcome: Summary | Findings, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(outcome.as_dict())
    else:
        print_text(text)
    if outcome.stop_reason is not None:
        print_error(f"stopped early: {outcome.stop_reason}", outcome.exit_code)
