"""The command line: ``fanout run``, ``check``, ``tune``, ``status``, ``serve`` and ``schema``."""

from fanout.cli.commands import cli, main

__all__ = ["cli", "main"]
