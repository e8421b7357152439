"""Output of the commands: text for people and JSON for programs on stdout, errors on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
import orjson

from fanout._escape import escaped, safe_json
from fanout._redact import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.job.report import StopCause


class Output:
    """Redacts everything that a command prints: the job's secrets are removed, control characters are escaped."""

    def __init__(self) -> None:
        self.redactor = Redactor()
        """The job's redactor, once its file is loaded."""


OUTPUT = Output()


class Unprintable(click.ClickException):
    """Nothing can be written to stdout."""

    exit_code = 2


def print_text(text: str) -> None:
    if text:
        _echo(OUTPUT.redactor.lines(text))


def print_json(value: dict[str, Any]) -> None:
    """Print a result as one JSON object."""
    _echo(safe_json(OUTPUT.redactor.value(value)))


def print_result(value: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result: as one JSON object, or as text for people."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def print_message(message: str) -> None:
    """Print a message on stderr that is no result and no error. Raises `OSError` if stderr is closed."""
    click.echo(OUTPUT.redactor.lines(message), err=True)


def print_error(message: str, exit_code: int, *, as_json: bool = False) -> int:
    """Print one line on stderr for each line of ``message``; returns the exit code."""
    # A message may list several problems; each line is an error of its own for a log reader.
    for line in OUTPUT.redactor.lines(message).split("\n"):
        click.echo(f"error: {line}", err=True)
    if as_json:
        print_error_json(message, exit_code)
    return exit_code


def print_stop(stop: StopCause, exit_code: int, note: str = "") -> None:
    """Print the reason of an early stop, with its kind, which docs/troubleshooting.md explains."""
    # "interrupted by SIGINT" names its kind.
    kind = "" if stop.kind == "interrupted" else f" ({stop.kind})"
    print_error(f"stopped early{kind}: {stop.reason}{note}", exit_code)


# A script that reads --json gets an object from every run, whatever happens.
def print_error_json(message: str, exit_code: int) -> None:
    """Print an error as a JSON object, in place of a result."""
    # Imported here, because text output needs no part of the job package.
    from fanout.job import SCHEMA_VERSION

    print_json({"schema_version": SCHEMA_VERSION, "exit_code": exit_code, "error": message})


def schema_text() -> str:
    """Return the JSON Schema of job files, in its committed form."""
    from fanout.job import job_schema

    return orjson.dumps(job_schema(), option=orjson.OPT_INDENT_2).decode()


def joined(lines: Iterable[str]) -> str:
    """Return lines as one text, with control characters escaped."""
    # Line by line, since a name may hold a line break.
    return "\n".join(map(escaped, lines))


def _echo(result: str | bytes) -> None:
    """Print on stdout. A closed pipe is ignored, as the work is done; other errors raise `Unprintable`."""
    try:
        click.echo(result)
    # A pager that was left, or `head`, closes the pipe before all is written.
    except OSError as error:
        # The interpreter flushes the rest of the buffer at its exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Unprintable(f"the result cannot be printed on stdout: {error.strerror}") from None
