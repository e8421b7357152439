"""The command line: ``fanout run``, ``check``, ``tune``, ``status``, ``serve`` and others.

Heavy modules are imported inside the commands, so that ``--help`` is fast.
"""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fanout._escape import escaped_lines
from fanout.cli.commands import cli
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["cli", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``fanout``. Ends the process with the exit code."""
    # A usage error needs to know about --json before click has parsed it.
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_guarded(lambda: cli.main(arguments, prog_name="fanout", standalone_mode=False), "--json" in arguments))


def _guarded(command: Callable[[], Any], as_json: bool) -> int:
    """Return the command's exit code. Click's own codes are replaced by those of the table."""
    try:
        return int(command() or 0)
    except click.Abort:  # Ctrl-C before or after the run, with nothing in flight
        return 130
    except click.ClickException as error:
        # Click would print user input without escaping its control characters.
        shown = StringIO()
        error.show(shown)
        click.echo(escaped_lines(shown.getvalue()), nl=False, err=True)
        if as_json:
            from fanout.cli.output import print_error_json

            print_error_json(escaped_lines(error.format_message()), error.exit_code)
        return error.exit_code
    except ConfigError as error:
        message = str(error)
    except Exception:  # noqa: BLE001 - a bug of fanout or of a codec, whose text has to be redacted
        message = _unexpected()
    from fanout.cli.output import print_error

    return print_error(message, 2, as_json=as_json)


def _unexpected() -> str:
    """Return the traceback of the exception that is being handled, or the cause that explains it."""
    try:
        Path.cwd()
    except OSError:  # every path that is relative to the working directory fails somewhere
        return "the folder that this command was started in is gone: change to another one"
    import traceback

    return traceback.format_exc().rstrip()
