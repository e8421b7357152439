"""The commands that examine what runs have left: failed rows, recorded exchanges, and two outputs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from fanout.cli.parameters import AS_JSON, JOB, SET, leave


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
    from fanout.cli.failures import failures_command

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
