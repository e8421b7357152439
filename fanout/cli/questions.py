"""Questions of a command in a terminal, for what its flags leave open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fanout._escape import escaped
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def has_terminal() -> bool:
    """Return True if a question can be answered. Without a terminal it would wait for ever."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Questions:
    """Asks in a terminal; elsewhere each question is an error that names the flag."""

    def __init__(self) -> None:
        self.allowed = has_terminal()
        """There is a terminal."""

    def ask(self, flag: str, question: str) -> str:
        """Return the answer to a question. Raises `ConfigError` without a terminal."""
        if not self.allowed:
            raise ConfigError(f"{flag} is missing: {question[:1].lower() + question[1:]}")
        return str(click.prompt(question, err=True))

    def ask_if_allowed(self, question: str) -> str | None:
        """Return the answer to a question that may be left open, which may be empty; None without a terminal."""
        return str(click.prompt(question, "", show_default=False, err=True)) if self.allowed else None

    def choose(self, question: str, choices: Sequence[str], problem: str) -> str:
        """Return one of the choices. Raises `ConfigError` with ``problem`` without a terminal."""
        if not self.allowed:
            raise ConfigError(problem)
        # Names of columns and paths of a server are shown as they are typed in: without control characters.
        shown = [escaped(choice) for choice in choices]
        return choices[shown.index(click.prompt(question, type=click.Choice(shown), err=True))]
