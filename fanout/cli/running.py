"""``fanout run`` and ``fanout check``: a job in an event loop, with signals, progress, and one way to end."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fanout.cli.output import findings_text, print_error, print_json, print_text, summary_text
from fanout.cli.progress import progress_display
from fanout.cli.signals import Interrupts
from fanout.engine import RunControl
from fanout.errors import ConfigError
from fanout.job import Findings, Summary, check_job, load_job, run_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cli.progress import Display

Outcome = TypeVar("Outcome", Summary, Findings)


def run_command(file: str, settings: Sequence[str], rows: slice, *, as_json: bool, quiet: bool) -> int:
    """Run a job, print its summary; returns the exit code."""
    try:
        summary = asyncio.run(_run(file, settings, rows, progress_display(quiet=quiet)))
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


async def _run(file: str, settings: Sequence[str], rows: slice, display: Display) -> Summary:
    job = load_job(file, settings)
    control = RunControl()
    with Interrupts(control, display) as interrupts:
        try:
            summary = await run_job(job, rows=rows, control=control, on_start=display.start)
        finally:
            await display.stop()
    return _with_signal(summary, interrupts)


async def _check(file: str, settings: Sequence[str]) -> Findings:
    job = load_job(file, settings)
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
