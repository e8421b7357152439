"""The command line: ``fanout run``, ``check``, ``serve`` and ``schema``."""

from fanout.cli.commands import cli, main

__all__ = ["cli", "main"]
