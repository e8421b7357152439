"""``fanout init``: the endpoint, the codec and its request, the columns that it takes, and the questions about them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fanout._escape import escaped
from fanout._headers import has_literal
from fanout._variables import has_reference, resolved
from fanout.addresses import Endpoint
from fanout.cli.output import print_message
from fanout.errors import ConfigError
from fanout.job.begin import (
    absent_columns,
    fill_template,
    guessed_codec,
    missing_options,
    published_operations,
    set_rows,
)
from fanout.job.custom_codec import is_custom
from fanout.job.edit import override, parse_value, toml
from fanout.presets import load_preset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.cli.init import InitOptions
    from fanout.job.edit import Draft
    from fanout.job.fields import InputFields
    from fanout.job.openapi import Operation

# Names in one message; an input may have thousands of columns.
MOST_NAMES = 12

REMEDY = "a credential stays out of files: write '${NAME}' in its place, and set the environment variable NAME to it"


class CodecSetup:
    """Sets the tables ``endpoint`` and ``codec`` of a draft, and the columns of its input that the codec takes.

    Args:
        draft: the draft, with its input.
        options: the flags.
        questions: for what they leave open.
        folder: folder of the job file.
    """

    def __init__(self, draft: Draft, options: InitOptions, questions: Questions, folder: Path) -> None:
        self._draft = draft
        self._options = options
        self._questions = questions
        self._folder = folder

    async def set_endpoint(self, fields: InputFields) -> None:
        """Set the URL and the codec, and for the codec json the request, of which the server may publish a schema."""
        url = self._options.url or self._questions.ask("--url", "Endpoint's URL (http://host/path, or local://digits)")
        Endpoint(url=url)  # raises a ConfigError for an invalid URL
        require_reference("--url", url)
        codec, preset = self._options.codec, self._options.preset
        operation: Operation | None = None
        if preset is not None:
            # Loaded only to find a misspelt name now, before the user answers the questions that follow.
            load_preset(preset, self._folder)
        elif codec is None and (codec := guessed_codec(url)) is None:
            published = [] if self._options.no_probe else await published_operations(resolved(url, "--url"))
            operation = self._chosen(published, urlsplit(url).path)
            # The document names the page for rows, which a URL without a path leaves open.
            if operation is not None and urlsplit(url).path.strip("/") == "":
                url = url.rstrip("/") + operation.path
        self._draft.set("endpoint", "url", url)
        if preset is not None:
            self._draft.set("codec", "preset", preset, "fanout presets show describes it")
        elif codec is not None:
            self._draft.set("codec", "name", codec, "the wire format")
        if preset is None and codec in (None, "json"):
            self._draft.set("codec", "name", "json")
            # A request of the user's own needs no template.
            if not any(setting.startswith("codec.request=") for setting in self._options.settings):
                self._use_template(operation, fields)

    def set_options(self) -> None:
        """Set the options that the codec or the preset requires."""
        for name, meaning in missing_options(self._codec_table(), self._folder).items():
            text = self._questions.ask(f"--set codec.{name}=VALUE", f"{name} ({escaped(meaning)})")
            self._draft.set("codec", name, parse_value(text))

    def set_rows(self, fields: InputFields) -> None:
        """Choose the columns for a codec of whole rows, or names for those that a template takes."""
        table = self._codec_table()
        # Only an import of the user's code would show its columns.
        if is_custom(table.get("name")):
            return
        absent = absent_columns(table, self._folder, fields)
        preset = self._options.preset
        if absent is None and (preset is not None or table.get("name") != "json"):
            if choices := set_rows(self._draft, fields, None if preset else table["name"]):
                self._choose_column(choices)
        elif absent and fields.columns and not any("input.rename" in one for one in self._options.settings):
            self._rename(absent, fields)

    def _use_template(self, operation: Operation | None, fields: InputFields) -> None:
        # The columns of the ids label the rows; the endpoint does not take them.
        sent = {name: kind for name, kind in fields.columns.items() if name not in self._options.id}
        template = fill_template(self._draft, operation, replace(fields, columns=sent))
        if operation is not None:
            print_message(f"request: as the server's OpenAPI document describes POST {escaped(operation.path)}")
        if template.left_out:
            left_out = ", ".join(map(escaped, template.left_out))
            self._draft.hints["codec"] = (f"optional fields that no column fills: {left_out}",)
        for name in template.missing:
            key = f"codec.{name}"
            if not any(setting.startswith(f"{key}=") for setting in self._options.settings):
                text = self._questions.ask(
                    f"--set {key}=VALUE", f"Value of {escaped(name.partition('.')[2])}, which the endpoint requires"
                )
                override(self._draft.tables, f"{key}={text}")

    def _rename(self, absent: Sequence[str], fields: InputFields) -> None:
        names = ", ".join(f'"{escaped(name)}"' for name in absent)
        flag = f"--set 'input.rename={{ YOURS = {toml(absent[0])} }}'"
        problem = f"the request takes the columns {names}, which the input lacks: name yours by {flag}"
        columns = list(fields.columns)
        chosen = {self._questions.choose(f"Column for {escaped(name)}", columns, problem): name for name in absent}
        self._draft.set("input", "rename", chosen, "column = its name in the request")

    def _choose_column(self, choices: Sequence[str]) -> None:
        names = ", ".join(f'"{escaped(name)}"' for name in choices[:MOST_NAMES])
        problem = f"--column is missing: the column to send, one of {names}"
        self._draft.set("input", "column", self._questions.choose("Column to send", choices, problem))

    def _chosen(self, published: Sequence[Operation], path: str) -> Operation | None:
        """Return the operation at the URL's path; if the URL has none, the only one, or that which the user chooses."""
        same = [one for one in published if one.path.rstrip("/") == path.rstrip("/")]
        if same:
            return same[0]
        if path.strip("/"):
            if published:
                known = ", ".join(escaped(one.path) for one in published[:MOST_NAMES])
                print_message(f"the server's OpenAPI document has no POST {escaped(path)}; it has {known}")
            return None
        if len(published) < 2:
            return published[0] if published else None
        paths = [one.path for one in published]
        problem = f"--url needs a path, one of {', '.join(map(escaped, paths))}"
        return published[paths.index(self._questions.choose("Path of the endpoint", paths, problem))]

    def _codec_table(self) -> dict[str, Any]:
        tables: dict[str, Any] = {"codec": dict(self._draft.tables["codec"])}
        for setting in self._options.settings:
            override(tables, setting)
        table: dict[str, Any] = tables["codec"]
        return table


def require_reference(place: str, text: str, *, is_credential: bool = False) -> None:
    """Raise `ConfigError`, without the text, if it holds a credential itself, and not the name of a variable."""
    if has_literal(text) or (is_credential and text and not has_reference(text)):
        raise ConfigError(f"{place}: {REMEDY}")


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
