"""The commands that check, tune and run a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fanout._version import __version__
from fanout.cli.parameters import AS_JSON, JOB, SET, Counts, RowRange, leave
from fanout.cli.result_commands import cache, compare, failures, report, show, status
from fanout.cli.start_commands import init, presets, schema, serve

_EXIT_CODES = """\b
Exit codes:
  0    every row is done
  1    ran to the end, but some rows failed; they are listed
  2    the job, its input or its use is wrong
  3    stopped early, with the reason
  130  interrupted by SIGINT (Ctrl-C)
  143  interrupted by SIGTERM
"""

_TUNE_CODES = """\b
Exit codes:
  0    two values were found
  1    nothing keeps the bounds, or rows failed with the best
  2    the job, its input or its use is wrong
  3    stopped early, with the reason
  130  interrupted by SIGINT (Ctrl-C)
  143  interrupted by SIGTERM
"""

_count = click.IntRange(1)
_above_0 = click.FloatRange(0, min_open=True)
_file = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="fanout")
def cli() -> None:
    """Send a lot of data through a remote machine-learning API.

    Row i of the output belongs to row i of the input, whatever fails, is retried or comes late on the way.

    \b
    Try it, without a network:
      fanout check config.example.toml
      fanout run config.example.toml
    """


@cli.command(short_help="Run a job.", epilog=_EXIT_CODES)
@JOB
@SET
@click.option("--rows", metavar="START:STOP", type=RowRange(), help="Send only these rows of the input: a pilot run.")
@click.option("--fresh", is_flag=True, help="Discard an earlier run, and send all rows.")
@click.option("--only-failed", is_flag=True, help="Send only the failed rows again, which may be corrected.")
@click.option("--carry", is_flag=True, help="After an edit of the input: send only new, changed and failed rows.")
@click.option("--record", metavar="FILE", type=_file, help="Record all exchanges in a new file, bodies included.")
@click.option("--replay", metavar="FILE", type=_file, help="Answer from a recording, without a network.")
@click.option("--mock", is_flag=True, help="Answer with made-up values of the right shape, without a network.")
@click.option("--real-time", is_flag=True, help="With --replay and --mock: wait as long as the answers took.")
@click.option("--on", metavar="ENGINE", help="Run in several processes: processes, ray[://ADDRESS], dask[://ADDRESS].")
@click.option("--workers", metavar="N", type=_count, help="With --on: processes; one for each processor if not given.")
@click.option(
    "--metrics-port", metavar="PORT", type=click.IntRange(1, 65535), help="Serve metrics for Prometheus on 127.0.0.1."
)
@AS_JSON
# Errors stay, because a job under cron must not fail in silence.
@click.option("--quiet", is_flag=True, help="Print errors only, no progress and no summary.")
def run(
    job: str,
    settings: tuple[str, ...],
    real_time: bool,
    on: str | None,
    workers: int | None,
    metrics_port: int | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run a job: send all rows of its input and write the answers.

    A journal beside the output (probabilities.npy.journal) records the finished rows. After a stop, a kill or a crash
    the same command resumes the run, and sends no finished row again. Until the run is complete, its output is called
    probabilities.npy.partial. Running a complete job again sends nothing, as long as its input, its codec and the path
    of its URL are the same.

    Press Ctrl-C once to stop sending and finish the requests in flight, twice to stop now.

    After a complete run, --only-failed sends its failed rows alone (fanout failures lists them), also if they were
    corrected in the input; the output is then whole. Other rows must not have changed.

    If the input was edited under an unfinished run, the run is refused, and the rows that differ are shown. --carry
    keeps the answers to rows with the same id and content, whatever their position is now, also of a complete run.

    A pilot run (--rows) needs an output of its own: --set output.path=pilot.npy.

    A rehearsal (--mock) and a replay open no connection, and take no longer than their computation, since latencies and
    backoffs pass in virtual time. They write beside the job's output (probabilities.mock.npy,
    probabilities.replay.npy), and start over once they are complete.

    With --on the rows are divided among processes of this machine, or of a Ray or Dask cluster. Together they keep the
    limits of the job, and the output is the same. Input and output have to be on a disk that all of them share.

    \b
    Examples:
      fanout run job.toml
      fanout run job.toml --only-failed
      fanout run job.toml --mock
      fanout run job.toml --record monday.cassette
      fanout run job.toml --replay monday.cassette
      fanout run job.toml --rows 0:100 --set output.path=pilot.npy
      fanout run job.toml --set limits.concurrency=8 --json > summary.json
      fanout run job.toml --metrics-port 9464    # curl http://127.0.0.1:9464/metrics
      fanout run job.toml --on processes --workers 4
      fanout run job.toml --on ray://head:10001 --workers 32
    """
    # Imported here: aiohttp and numpy would delay --help by half a second.
    from fanout.cli.running import run_command

    # The names of the other options are those of `run_job`, so that each of them is listed once.
    given = {name for name, value in options.items() if value not in (None, False)}
    # These combinations contradict each other; a silent choice would cost money or answers.
    if given >= {"fresh", "only_failed"}:
        raise click.UsageError("--fresh sends all rows, --only-failed those that failed: give one of them")
    if "carry" in given and given & {"fresh", "only_failed"}:
        raise click.UsageError("--carry keeps what an earlier run has: give it without --fresh and --only-failed")
    if len(given & {"record", "replay", "mock"}) > 1:
        raise click.UsageError("a run is either recorded, or replayed, or a rehearsal: give one of these options")
    if real_time and not given & {"replay", "mock"}:
        raise click.UsageError("--real-time is for --replay and --mock: other runs know no other time")
    if workers is not None and on is None:
        raise click.UsageError("--workers is for --on: without it, one process runs the job")
    if on is not None and (given & {"record", "replay"} or real_time or metrics_port is not None):
        raise click.UsageError("--record, --replay, --real-time and --metrics-port are for one process: leave --on out")
    if metrics_port is not None:
        # The option is a key of the job, so that it is checked and reported as any other.
        settings = (*settings, f"telemetry.metrics_port={metrics_port}")
    options["rows"] = options["rows"] or slice(None)
    exit_code = run_command(
        job, settings, options, on=on, workers=workers, real_time=real_time, as_json=as_json, quiet=quiet
    )
    leave(exit_code)


@cli.command(short_help="Check a job before it runs.", epilog=_EXIT_CODES)
@JOB
@SET
@click.option("--show", is_flag=True, help="Print the first request and its answer too, without credentials.")
@click.option("--dry-run", is_flag=True, help="Send nothing: count rows, requests and bytes, and estimate the time.")
@click.option(
    "--latency",
    metavar="SECONDS",
    type=click.FloatRange(0),
    help="With --dry-run: time of an answer; mock.latency of the job if not given.",
)
@AS_JSON
def check(job: str, settings: tuple[str, ...], show: bool, dry_run: bool, latency: float | None, as_json: bool) -> None:
    """Check a job before it runs: read its input, request the model's metadata, send the first chunk, write nothing.

    \b
    Examples:
      fanout check job.toml
      fanout check job.toml --show
      fanout check job.toml --dry-run --latency 0.25
      fanout check job.toml --set endpoint.url=local://echo --json
    """
    from fanout.cli.running import check_command, dry_run_command

    # An option without effect would mislead the user about the number that a check prints.
    if latency is not None and not dry_run:
        raise click.UsageError("--latency is for --dry-run: a check measures it")
    if show and dry_run:
        raise click.UsageError("--dry-run sends nothing that --show could print: give one of them")
    if dry_run:
        leave(dry_run_command(job, settings, latency, as_json=as_json))
    leave(check_command(job, settings, show=show, as_json=as_json))


@cli.command(short_help="Find the best chunk size and concurrency.", epilog=_TUNE_CODES)
@JOB
@SET
@click.option(
    "--rows",
    metavar="START:STOP",
    default="0:2000",
    show_default=True,
    type=RowRange(),
    help="Part of the input to send.",
)
@click.option(
    "--max-p95",
    metavar="SECONDS",
    type=_above_0,
    help="Maximum 95th percentile of latencies; half of timeouts.attempt if not given.",
)
@click.option(
    "--max-errors",
    metavar="SHARE",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Maximum share of retried requests, and of failed rows.",
)
@click.option("--chunk-rows", metavar="N,N,...", type=Counts(), help="Chunk sizes to try.")
@click.option("--concurrency", metavar="N,N,...", type=Counts(), help="Concurrencies to try.")
@click.option(
    "--seconds", metavar="SECONDS", default=2.0, show_default=True, type=_above_0, help="Counted duration of a trial."
)
@click.option("--max-requests", metavar="N", default=2000, show_default=True, type=_count, help="Maximum in all.")
@click.option("--max-rows", metavar="N", default=500_000, show_default=True, type=_count, help="Maximum in all.")
@click.option(
    "--max-seconds", metavar="SECONDS", default=60.0, show_default=True, type=_above_0, help="Maximum duration."
)
@click.option("--mock", is_flag=True, help="Answer with made-up values, without a network: a rehearsal of the search.")
@click.option("--write", is_flag=True, help="Write the two values into the job file, and keep its comments and layout.")
@AS_JSON
def tune(
    job: str,
    settings: tuple[str, ...],
    rows: slice,
    max_p95: float | None,
    max_errors: float,
    chunk_rows: tuple[int, ...] | None,
    concurrency: tuple[int, ...] | None,
    seconds: float,
    max_requests: int,
    max_rows: int,
    max_seconds: float,
    mock: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Find the chunks.rows and limits.concurrency with the most answered rows per second.

    This sends real requests, which may be billed: a part of the input, again and again, until the search or its budget
    ends. A server that caches its answers therefore looks faster than it is. The job's output and journal stay
    untouched.

    The search starts with one request in flight and doubles the concurrency while that pays, then tries larger and
    smaller chunks, then the concurrency again. Among equally fast settings (within 5 %) it chooses the lowest
    concurrency. Retries, rates and timeouts are those of the job.

    Press Ctrl-C to end the search; the measurements so far are reported.

    \b
    Examples:
      fanout tune job.toml
      fanout tune job.toml --write
      fanout tune job.toml --max-p95 0.5 --max-requests 500
      fanout tune job.toml --chunk-rows 16,32,64 --concurrency 4,8,16 --json > tuning.json
    """
    from fanout.cli.tuning import tune_command
    from fanout.tune import Budget, TuneOptions

    # Values of a mock in the job file would look like those of the endpoint, and be used in a paid run.
    if write and mock:
        raise click.UsageError("--write is for what an endpoint gave, not for the made-up answers of --mock")
    options = TuneOptions(
        rows=rows,
        max_p95=max_p95,
        max_errors=max_errors,
        seconds=seconds,
        budget=Budget(requests=max_requests, rows=max_rows, seconds=max_seconds),
        chunk_rows=chunk_rows or (),
        concurrency=concurrency or (),
    )
    leave(tune_command(job, settings, options, mock=mock, write=write, as_json=as_json))


for _command in (cache, compare, failures, init, presets, report, schema, serve, show, status):
    cli.add_command(_command)
