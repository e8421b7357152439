"""The commands at work: each runs a job or a server in an event loop, handles signals, and returns the exit code."""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from fanout._redact import Redactor
from fanout.cli.output import OUTPUT, print_result, print_stop
from fanout.cli.progress import progress_display
from fanout.cli.show import probe_text
from fanout.cli.texts import check_text, estimate_text, status_text, summary_text
from fanout.clock import VirtualClock
from fanout.engine import RunControl
from fanout.job import (
    SCHEMA_VERSION,
    CheckReport,
    Summary,
    check_job,
    dry_run,
    job_status,
    load_job,
    load_job_or_outline,
    recreate_report,
    run_job,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from fanout.cli.progress import Display
    from fanout.cluster import Cluster
    from fanout.job import Job, Outline

Report = TypeVar("Report", Summary, CheckReport)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_command(
    file: str,
    settings: Sequence[str],
    options: Mapping[str, Any],
    *,
    on: str | None = None,
    workers: int | None = None,
    real_time: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run a job, and print its summary. ``options`` are `run_job`'s ``rows``, ``fresh``, ..."""
    # Other processes have clocks of their own.
    virtual = (options["mock"] or options["replay"] is not None) and not real_time and on is None
    display = progress_display(quiet=quiet or virtual)  # virtual time passes too quickly for a display
    # The sleeps of a rehearsal or a replay cost nothing on a clock that jumps to the next timer.
    with asyncio.Runner(loop_factory=VirtualClock if virtual else None) as runner:
        summary = runner.run(_run(file, settings, options, display, on=on, workers=workers, seeded=virtual))
    text = "" if quiet else summary_text(summary, fresh=options["fresh"])
    _print_report(summary, text, as_json=as_json)
    return summary.exit_code


def check_command(file: str, settings: Sequence[str], *, show: bool, as_json: bool) -> int:
    """Check a job, and print the report; with ``show`` also the first request and its answer."""
    report = asyncio.run(_check(file, settings, show=show))
    _print_report(report, "\n\n".join(filter(None, [check_text(report), probe_text(report)])), as_json=as_json)
    return report.exit_code


def dry_run_command(file: str, settings: Sequence[str], latency: float | None, *, as_json: bool) -> int:
    """Estimate a job without sending anything, and print the estimate."""
    estimate = asyncio.run(dry_run(load(file, settings), latency=latency))
    print_result(estimate.as_dict(), estimate_text(estimate), as_json=as_json)
    return estimate.exit_code


def report_command(file: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Write the report of a job's run again, and print its path."""
    path = str(recreate_report(load_outline(file, settings)))
    print_result({"schema_version": SCHEMA_VERSION, "report": path}, path, as_json=as_json)
    return 0


def status_command(file: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Print the progress of a job's run."""
    status = job_status(load_outline(file, settings))
    print_result(status.as_dict(), status_text(status), as_json=as_json)
    return 0


def serve_command(name: str, host: str, port: int, latency: float, faults: str | None = None, seed: int = 0) -> int:
    """Serve a model until a signal comes, with faults if ``faults`` names any."""
    from fanout.faults.names import parse_faults
    from fanout.serving.app import serve

    if faults is None:
        serving = serve(name, host, port, latency=latency, on_ready=_announce)
    else:
        serving = _serve_faulty(name, host, port, latency, parse_faults(faults), seed)
    return asyncio.run(_until_signal(serving))


def load(file: str, settings: Sequence[str]) -> Job:
    """Load a job, and redact its secrets in all output from now on. Raises `ConfigError`."""
    OUTPUT.redactor = Redactor()
    job = load_job(file, settings)
    OUTPUT.redactor = job.redactor
    return job


def load_outline(file: str, settings: Sequence[str]) -> Job | Outline:
    """Load a job as `load` does, without code that it names."""
    # Errors of loading are redacted by the loader; an old redactor would hide parts of another job.
    OUTPUT.redactor = Redactor()
    job = load_job_or_outline(file, settings)
    OUTPUT.redactor = job.redactor
    return job


class Interrupts:
    """While entered, SIGINT and SIGTERM end the run of ``control`` instead of the process.

    The first signal finishes the requests in flight, the second one abandons them.
    """

    def __init__(self, control: RunControl, display: Display) -> None:
        self.received: signal.Signals | None = None
        """The first signal."""
        self._control = control
        self._display = display
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._receive, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def exit_code(self, exit_code: int, stop_kind: str | None) -> int:
        """Return ``exit_code``, or that of SIGTERM if it stopped the run."""
        return 143 if stop_kind == "interrupted" and self.received == signal.SIGTERM else exit_code

    def _receive(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self._control.drain(f"interrupted by {number.name}", "interrupted")
            n = self._display.in_flight()
            self._display.say(f"finishing {n} request{'s' * (n != 1)} in flight; press Ctrl-C again to stop now")
        else:
            self._control.cut()
            self._display.say("stopping now, and writing what is done; press Ctrl-C again to abandon that too")
            # A third signal ends the process, in case writing hangs.
            self.__exit__()


async def _run(
    file: str,
    settings: Sequence[str],
    options: Mapping[str, Any],
    display: Display,
    *,
    on: str | None,
    workers: int | None,
    seeded: bool,
) -> Summary:
    job = load(file, settings)
    remote = None if on is None else _cluster(job, settings, options, display, on, workers)
    if seeded:
        random.seed(job.tables.mock.seed)  # for the jitter of all backoffs: equal runs have equal events
    control = RunControl()
    with Interrupts(control, display) as interrupts:
        display.open()
        try:
            # Signals end the run through its control, so that finished rows are written.
            summary = await run_job(job, **options, control=control, on_start=display.start, remote=remote)
        finally:
            await display.stop()
    return _with_signal(summary, interrupts)


def _cluster(
    job: Job, settings: Sequence[str], options: Mapping[str, Any], display: Display, on: str, workers: int | None
) -> Cluster:
    from fanout.cluster import Cluster, open_engine

    # The other options are about the journal of the output, which the driver's own process opens.
    names = ("rows", "mock", "fresh")
    return Cluster(
        job,
        open_engine(on, workers),
        settings=settings,
        say=display.say,
        **{name: options[name] for name in names},
    )


async def _check(file: str, settings: Sequence[str], *, show: bool) -> CheckReport:
    job = load(file, settings)
    control = RunControl()
    with Interrupts(control, progress_display(quiet=True)) as interrupts:
        return _with_signal(await check_job(job, show=show, control=control), interrupts)


def _with_signal(report: Report, interrupts: Interrupts) -> Report:
    kind = report.stop.kind if report.stop else None
    return replace(report, exit_code=interrupts.exit_code(report.exit_code, kind))


def _print_report(report: Summary | CheckReport, text: str, *, as_json: bool) -> None:
    print_result(report.as_dict(), text, as_json=as_json)
    if report.stop is not None:
        print_stop(report.stop, report.exit_code)


async def _serve_faulty(
    name: str, host: str, port: int, latency: float, faults: Mapping[str, float], seed: int
) -> None:
    """Serve a model until cancelled, with faults by chance."""
    from concurrent.futures import ThreadPoolExecutor

    from fanout.faults.server import FaultServer
    from fanout.serving.models import load_model

    model = load_model(name)
    worker = ThreadPoolExecutor(1, "model")
    try:
        async with FaultServer(
            model, faults=faults, seed=seed, latency=latency, host=host, port=port, record=False, worker=worker
        ) as server:
            _announce(server.origin)
            await asyncio.Event().wait()
    finally:
        # Not waited for: a function that hangs must not keep the server from ending.
        worker.shutdown(wait=False, cancel_futures=True)


async def _until_signal(serving: Coroutine[None, None, None]) -> int:
    loop, received = asyncio.get_running_loop(), []
    server = loop.create_task(serving)

    def end(number: signal.Signals) -> None:
        received.append(number)
        server.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end, number)
    try:
        await server
    except asyncio.CancelledError:
        if not received:
            raise
    # The code that a shell gives a process which the signal ended.
    return 128 + received[0]


def _announce(url: str) -> None:
    click.echo(url)  # click flushes, so a parent process that waits for this line gets it
    click.echo("press Ctrl-C to stop", err=True)
