"""The commands and their options. What is heavy to import is imported inside them, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fanout._version import __version__
from fanout.cli.parameters import CommandWithFaults, RowRange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXIT_CODES = """\b
Exit codes:
  0    every row is done
  1    ran to the end, but some rows failed; they are listed
  2    the job, its input or its use is wrong
  3    stopped early, with the reason
  130  interrupted by SIGINT (Ctrl-C)
  143  interrupted by SIGTERM
"""

_job = click.argument("job", metavar="JOB.toml", type=click.Path())
_set = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the job file, for instance limits.concurrency=8. May be given several times.",
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end, and nothing else there."
)


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
@_job
@_set
@click.option("--rows", metavar="START:STOP", type=RowRange(), help="Send only these rows of the input: a pilot.")
@_json
@click.option("--quiet", is_flag=True, help="Show neither progress nor a summary; errors are still shown.")
def run(job: str, settings: tuple[str, ...], rows: slice | None, as_json: bool, quiet: bool) -> None:
    """Run a job: send all rows of its input and write the answers.

    Press Ctrl-C once to stop sending and finish what is in flight, twice to stop now. What has succeeded is written
    either way.

    A pilot writes to the same output, which then has only the rows of the pilot.

    \b
    Examples:
      fanout run job.toml
      fanout run job.toml --rows 0:100 --set output.path=pilot.npy
      fanout run job.toml --set limits.concurrency=8 --json > summary.json
    """
    from fanout.cli.running import run_command

    _exit(run_command(job, settings, rows or slice(None), as_json=as_json, quiet=quiet))


@cli.command(short_help="Look at a job before it runs.", epilog=_EXIT_CODES)
@_job
@_set
@_json
def check(job: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Look at a job before it runs: read its input, send the first chunk, write nothing.

    \b
    Examples:
      fanout check job.toml
      fanout check job.toml --set endpoint.url=local://echo --json
    """
    from fanout.cli.running import check_command

    _exit(check_command(job, settings, as_json=as_json))


@cli.command(cls=CommandWithFaults, short_help="Serve a model on this machine.")
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option(
    "--latency",
    metavar="SECONDS",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Added to each answer.",
)
@click.option(
    "--faults", metavar="NAME=PROBABILITY,...", help="Misbehave on purpose, to rehearse a job; the names are below."
)
@click.option("--seed", metavar="N", default=0, show_default=True, type=int, help="Another one brings other faults.")
def serve(name: str, host: str, port: int, latency: float, faults: str | None, seed: int) -> None:
    """Serve a model on this machine, to try things out: what local://NAME does, for as long as you like.

    NAME is digits (a classifier of handwritten digits), echo, or package.module:function for a function of your own
    that takes and returns a numpy array. Its base URL is printed on stdout.

    \b
    Examples:
      fanout serve digits
      fanout serve mymodels.scoring:predict --port 8080 --latency 0.05
      fanout serve echo --faults 503=0.1,drip:0.01=0.02,reset-mid-body=0.05
    """
    from fanout.cli.serving import serve_command

    _exit(serve_command(name, host, port, latency, faults, seed))


@cli.command(short_help="Print the JSON Schema of job files.")
def schema() -> None:
    """Print the JSON Schema of job files, with which editors complete and check them.

    \b
    Example:
      fanout schema > fanout.schema.json
      # and as the first line of job.toml:   #:schema ./fanout.schema.json
    """
    from fanout.cli.output import schema_text

    click.echo(schema_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``fanout``. Ends the process with the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_guarded(lambda: cli.main(arguments, prog_name="fanout", standalone_mode=False), "--json" in arguments))


def _guarded(command: Callable[[], Any], as_json: bool) -> int:
    """The command's exit code. Ways to end that click would give codes of its own get those of the table."""
    try:
        code = command()
    except click.ClickException as error:
        error.show()
        if as_json:
            from fanout.cli.output import print_error_json

            print_error_json(error.format_message(), error.exit_code)
        return error.exit_code
    except click.Abort:  # Ctrl-C before or after the run, where nothing is in flight
        return 130
    return int(code or 0)


def _exit(code: int) -> None:
    click.get_current_context().exit(code)
