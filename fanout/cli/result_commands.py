"""The commands on what runs have left: progress, report, failed rows, exchanges, two outputs side by side, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fanout.cli.parameters import AS_JSON, JOB, SET, Age, leave


@click.command(short_help="Show the progress of a job's run.")
@JOB
@SET
@AS_JSON
def status(job: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show the progress of a job's run from its journal, also while it runs.

    It sends nothing and runs no code that the job file names. Variables of the job need not be set.
    """
    from fanout.cli.running import status_command

    leave(status_command(job, settings, as_json=as_json))


@click.command(short_help="Write the report of a job's run again.")
@JOB
@SET
@AS_JSON
def report(job: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Write the report of a job's newest run again, and print its path.

    Each run writes it beside its output (probabilities.npy.report.html). This command makes it from the recording
    (probabilities.npy.report.jsonl) and the journal, also while the run is under way and after a kill. It sends
    nothing and runs no code that the job file names. Variables of the job need not be set.

    \b
    Examples:
      fanout report job.toml
      fanout report job.toml --set output.path=probabilities.mock.npy
    """
    from fanout.cli.running import report_command

    leave(report_command(job, settings, as_json=as_json))


@click.command(short_help="List the failed rows of a job's run by reason.")
@JOB
@SET
@click.option("--reason", metavar="TEXT", default="", help="Only rows whose reason holds this text, in any case.")
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write these rows with all columns of the input to a new .csv, .jsonl or .parquet file.",
)
@AS_JSON
def failures(job: str, settings: tuple[str, ...], reason: str, to: Path | None, as_json: bool) -> None:
    """List the failed rows of a job's newest run by their reasons, most frequent first.

    Numbers in the reasons are ignored, so that failures of one cause are one group. Rows are numbered from 0.

    Correct the rows in the input, at their places, and run the job with --only-failed: it sends these rows alone, and
    puts their answers into the whole output. The table that --to writes helps to find and correct them: it has the
    number of each row in the input (row), the input's columns, and the reason (error).

    It sends nothing and runs no code that the job file names.

    \b
    Examples:
      fanout failures job.toml
      fanout failures job.toml --reason "too long" --to failed.csv
      fanout run job.toml --only-failed
    """
    from fanout.cli.results import failures_command

    leave(failures_command(job, settings, reason=reason, to=to, as_json=as_json))


@click.command(short_help="Show the request and the response of a row in a recording.")
@click.argument("recording", metavar="RECORDING", type=click.Path(path_type=Path))
@click.option("--row", metavar="N", required=True, type=click.IntRange(0), help="Number of the row, from 0 on.")
@AS_JSON
def show(recording: Path, row: int, as_json: bool) -> None:
    """Show each exchange of a RECORDING (fanout run --record FILE) that holds a row: request, response, times.

    A row is in several exchanges if it was retried, or if its chunk was split. Of lists with a value for each row of
    the request, the value of this row is shown. Secrets are not in a recording; rows and answers are.

    \b
    Examples:
      fanout run job.toml --record monday.cassette
      fanout show monday.cassette --row 501
    """
    from fanout.cli.show import show_command

    leave(show_command(recording, row, as_json=as_json))


@click.command(short_help="Compare two outputs: rows, values and labels that differ.")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--rtol", metavar="NUMBER", default=1e-5, show_default=True, type=click.FloatRange(0), help="Relative tolerance."
)
@click.option(
    "--atol", metavar="NUMBER", default=1e-8, show_default=True, type=click.FloatRange(0), help="Absolute tolerance."
)
@click.option("--columns", metavar="NAME,...", help="Columns to compare, A=B if their names differ; all if not given.")
@click.option("--id", metavar="NAME", help="Column with the rows' ids; id if not given.")
@click.option(
    "--show", metavar="N", default=10, show_default=True, type=click.IntRange(0), help="Number of differing rows shown."
)
@AS_JSON
def compare(a: Path, b: Path, columns: str | None, as_json: bool, **options: Any) -> None:
    """Compare two outputs, of one model before and after a change, or of two servers.

    Both may be .npy, .npz, .jsonl, .csv, .parquet or .arrow files. Rows are matched by their ids if both have a column
    of them, else by their positions. Floats agree within ATOL + RTOL times the larger one; integers and texts agree if
    they are equal. Rows without an answer on both sides agree.

    A label is a text, an integer, or the position of the largest number of a vector (2 to 64 numbers).

    \b
    Exit codes:
      0  the outputs agree
      1  they differ
      2  they cannot be compared

    \b
    Examples:
      fanout compare monday.npy tuesday.npy
      fanout compare v1/scores.parquet v2/scores.csv --rtol 1e-3 --columns score
      fanout compare old.jsonl new.jsonl --id key --columns label=class --json
    """
    from fanout.cli.results import compare_command

    # A comma at the end, which a shell script may leave there, names no column.
    options["columns"] = None if columns is None else [name for name in columns.split(",") if name]
    leave(compare_command(a, b, options, as_json=as_json))


@click.group(short_help="Inspect and prune a cache of answers.")
def cache() -> None:
    """Inspect and prune the file of answers that [cache] path names in a job file."""


_cache_file = click.argument("file", metavar="FILE", type=click.Path())


@cache.command(short_help="Count the answers.")
@_cache_file
@AS_JSON
def stats(file: str, as_json: bool) -> None:
    """Count the answers in a cache, by namespace, codec and endpoint. FILE is the cache, or a job file that names it.

    \b
    Example:
      fanout cache stats job.toml
    """
    from fanout.cli.results import stats_command

    leave(stats_command(file, as_json=as_json))


@cache.command(short_help="Delete answers.")
@_cache_file
@click.option("--older-than", metavar="AGE", type=Age(), help="Delete answers of this age, for instance 30d or 12h.")
@click.option("--namespace", metavar="NAME", help="Delete the answers of this namespace; '' is the one without a name.")
@click.option("--all", "everything", is_flag=True, help="Delete all answers.")
@AS_JSON
def prune(file: str, older_than: float | None, namespace: str | None, everything: bool, as_json: bool) -> None:
    """Delete answers from a cache, and make the file smaller. FILE is the cache, or a job file that names it.

    \b
    Examples:
      fanout cache prune job.toml --older-than 30d
      fanout cache prune answers.sqlite --namespace v1 --older-than 12h
      fanout cache prune answers.sqlite --all
    """
    from fanout.cli.results import prune_command

    # Deleting is final: without a condition the user has to say that all answers are meant.
    if everything == (older_than is not None or namespace is not None):
        raise click.UsageError("give --older-than or --namespace, or both, or else --all")
    leave(prune_command(file, older_than=older_than, namespace=namespace, as_json=as_json))
