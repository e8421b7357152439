"""``fanout init``: writes a job file from flags and, in a terminal, from answers to its questions."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fanout._escape import escaped
from fanout._redact import Redactor
from fanout.cli.output import OUTPUT, print_error, print_message, print_text
from fanout.cli.show import probe_text, values_text
from fanout.errors import ConfigError
from fanout.job import Outline, load_job_or_outline
from fanout.job.begin import (
    absent_columns,
    fill_template,
    guessed_codec,
    missing_options,
    output_suffix,
    probe,
    published_operations,
    require_new,
    set_rows,
)
from fanout.job.custom_codec import is_custom
from fanout.job.draft import Draft, toml
from fanout.job.edit import override, parse_value
from fanout.job.input_fields import read_fields
from fanout.presets import load_preset
from fanout.settings import Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.job.begin import Probed
    from fanout.job.input_fields import InputFields
    from fanout.job.openapi import Operation

_HEAD = "# A fanout job, begun by fanout init. docs/job-files.md describes all keys; times are in seconds.\n"
_MOST_NAMES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """The flags of ``fanout init``; None for those that are not given."""

    input: str | None = None
    format: str | None = None
    url: str | None = None
    preset: str | None = None
    codec: str | None = None
    column: str | None = None
    columns: tuple[str, ...] = ()
    vector: bool = False
    id: tuple[str, ...] = ()
    token: str | None = None
    output: str | None = None
    settings: tuple[str, ...] = ()
    probes: bool = True
    force: bool = False


def init_command(file: str, options: InitOptions) -> int:
    """Write a job file, probe its endpoint, and print what to run next."""
    OUTPUT.redactor = Redactor()
    try:
        return asyncio.run(Beginner(Path(file), options).run())
    except ConfigError as error:
        return print_error(str(error), 2)


def has_terminal() -> bool:
    """Return True if a question can be answered. Without a terminal it would wait for ever."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Beginner:
    """Collects the parts of a job, asks for those that no flag gives, and writes the file.

    Args:
        file: the job file to write.
        options: the flags.
    """

    def __init__(self, file: Path, options: InitOptions) -> None:
        self._file = file
        self._options = options
        self._draft = Draft()
        self._may_ask = has_terminal()

    async def run(self) -> int:
        """Write the job file; return the exit code of the probe. Raises `ConfigError` for a flag that is missing."""
        require_new(self._file, force=self._options.force)
        fields = self._set_input()
        await self._set_endpoint_and_codec(fields)
        self._set_options()
        self._set_rows(fields)
        self._set_auth()
        self._set_output()
        for setting in self._options.settings:
            override(self._draft.tables, setting)
        self._write(replaces=self._options.force)
        print_text(f"wrote {self._file}")
        code = await self._probe() if self._options.probes else 0
        print_text(self._next_steps())
        return code

    def _set_input(self) -> InputFields:
        path = self._options.input or self._ask("--input", "Input file, folder or pattern")
        format = self._options.format  # noqa: A001
        if path == "-":
            raise ConfigError("--input: init reads the first rows, so give it a file of the same form, not stdin")
        fields = read_fields(Path(path), format)
        # The job may be in another folder, and its paths are relative to that.
        stored = path if Path(path).is_absolute() else os.path.relpath(path, self._file.parent)
        rows = "" if fields.n_rows is None else f"{fields.n_rows:,} rows"
        self._draft.set("input", "path", stored, rows)
        if format is not None:
            self._draft.set("input", "format", format)
        if self._options.column is not None:
            self._draft.set("input", "column", self._options.column)
        if self._options.columns:
            self._draft.set("input", "columns", list(self._options.columns))
        if self._options.vector:
            self._draft.set("input", "as", "vector", "a row is the list of these numbers")
        if self._options.id:
            self._draft.set(
                "input", "id", self._options.id[0] if len(self._options.id) == 1 else list(self._options.id)
            )
        elif fields.columns:
            self._draft.hints["input"] = (
                'id = "NAME"                     # a column that labels the rows in the output',
            )
        named = [f"{escaped(name)} ({kind})" for name, kind in fields.columns.items()]
        more = f", and {len(named) - _MOST_NAMES} more" if len(named) > _MOST_NAMES else ""
        print_message(f"input: {rows or 'rows'}; {', '.join(named[:_MOST_NAMES]) + more or f'each is: {fields.row}'}")
        return fields

    async def _set_endpoint_and_codec(self, fields: InputFields) -> None:
        url = self._options.url or self._ask("--url", "Endpoint's URL (http://host/path, or local://digits)")
        Endpoint(url=url)  # raises a ConfigError for an invalid URL
        codec, preset = self._options.codec, self._options.preset
        operation: Operation | None = None
        if preset is not None:
            load_preset(preset, self._file.parent)
        elif codec is None and (codec := guessed_codec(url)) is None:
            found = await published_operations(url) if self._options.probes else []
            operation = self._chosen(found, urlsplit(url).path)
            if operation is not None and urlsplit(url).path.strip("/") == "":
                url = url.rstrip("/") + operation.path
        self._draft.set("endpoint", "url", url)
        if preset is not None:
            self._draft.set("codec", "preset", preset, "fanout presets show describes it")
        elif codec is not None:
            self._draft.set("codec", "name", codec, "the wire format")
        if preset is None and codec in (None, "json"):
            self._draft.set("codec", "name", "json")
            if not any(setting.startswith("codec.request=") for setting in self._options.settings):
                self._use_template(operation, fields)

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
                text = self._ask(
                    f"--set {key}=VALUE", f"Value of {escaped(name.partition('.')[2])}, which the endpoint requires"
                )
                override(self._draft.tables, f"{key}={text}")

    def _set_rows(self, fields: InputFields) -> None:
        """Choose the columns for a codec of whole rows, or names for those that a template takes."""
        table = self._codec_table()
        if is_custom(table.get("name")):
            return
        absent = absent_columns(table, self._file.parent, fields)
        preset = self._options.preset
        if absent is None and (preset is not None or table.get("name") != "json"):
            if choices := set_rows(self._draft, fields, None if preset else table["name"]):
                self._choose_column(choices)
        elif absent and fields.columns and not any("input.rename" in one for one in self._options.settings):
            self._rename(absent, fields)

    def _rename(self, absent: Sequence[str], fields: InputFields) -> None:
        names = ", ".join(f'"{escaped(name)}"' for name in absent)
        if not self._may_ask:
            flag = f"--set 'input.rename={{ YOURS = {toml(absent[0])} }}'"
            raise ConfigError(f"the request takes the columns {names}, which the input lacks: name yours by {flag}")
        choices = click.Choice(list(fields.columns))
        chosen = {click.prompt(f"Column for {escaped(name)}", type=choices, err=True): name for name in absent}
        self._draft.set("input", "rename", chosen, "column = its name in the request")

    def _codec_table(self) -> dict[str, Any]:
        tables: dict[str, Any] = {"codec": dict(self._draft.tables["codec"])}
        for setting in self._options.settings:
            override(tables, setting)
        table: dict[str, Any] = tables["codec"]
        return table

    def _choose_column(self, choices: Sequence[str]) -> None:
        if not self._may_ask:
            names = ", ".join(f'"{escaped(name)}"' for name in choices[:_MOST_NAMES])
            raise ConfigError(f"--column is missing: the column to send, one of {names}")
        self._draft.set("input", "column", click.prompt("Column to send", type=click.Choice(list(choices)), err=True))

    def _chosen(self, found: Sequence[Operation], path: str) -> Operation | None:
        same = [one for one in found if one.path.rstrip("/") == path.rstrip("/")]
        if same or path.strip("/"):
            if found and not same:
                known = ", ".join(escaped(one.path) for one in found[:_MOST_NAMES])
                print_message(f"the server's OpenAPI document has no POST {escaped(path)}; it has {known}")
            return same[0] if same else None
        if len(found) < 2:
            return found[0] if found else None
        paths = [one.path for one in found]
        if not self._may_ask:
            raise ConfigError(f"--url needs a path, one of {', '.join(map(escaped, paths))}")
        chosen = click.prompt("Path of the endpoint", type=click.Choice(paths), err=True)
        return found[paths.index(chosen)]

    def _set_options(self) -> None:
        """Set the options that the codec or the preset requires."""
        for name, meaning in missing_options(self._codec_table(), self._file.parent).items():
            text = self._ask(f"--set codec.{name}=VALUE", f"{name} ({escaped(meaning)})")
            self._draft.set("codec", name, parse_value(text))

    def _set_auth(self) -> None:
        preset = self._options.preset
        loaded = None if preset is None else load_preset(preset, self._file.parent)
        needs = loaded is not None and loaded.tables.get("auth")
        variable = self._options.token
        if variable is None and loaded is not None and loaded.credentials_type:
            hint = "credentials come from where the tools of the cloud look for them"
            self._draft.set("auth", "type", loaded.credentials_type, hint)
            return
        if variable is None and self._may_ask and not self._draft.tables["endpoint"]["url"].startswith("local://"):
            variable = click.prompt(
                "Environment variable with the API key or token (empty: none is needed)",
                "",
                show_default=False,
                err=True,
            )
        if variable is None and needs:
            assert preset is not None
            variable = f"{Path(preset).stem.partition('-')[0].upper()}_API_KEY"
        if variable:
            token = f"${{{variable.removeprefix('${').removesuffix('}')}}}"
            self._draft.set("auth", "token", token, "from the environment, so that no file holds it")

    def _set_output(self) -> None:
        path = self._options.output or f"{self._file.stem}-answers.npy"
        hints = ("rows = 64                       # most rows in one request",)
        self._draft.hints["chunks"] = hints
        self._draft.tables["chunks"] = {}
        self._draft.tables["limits"] = {}
        self._draft.set("limits", "concurrency", 16, "most requests in flight; fanout tune finds the best value")
        self._draft.hints["limits"] = ("requests_per_second = 10.0      # no limit if left out",)
        stored = (
            path
            if self._options.output is None or Path(path).is_absolute()
            else os.path.relpath(path, self._file.parent)
        )
        self._draft.set("output", "path", stored, ".npy holds numbers; .jsonl and .parquet numbers and texts")

    async def _probe(self) -> int:
        job = load_job_or_outline(self._file)
        if isinstance(job, Outline):
            print_message(f"not probed: {job.missing}")
            return 0
        OUTPUT.redactor = job.redactor
        probed = await probe(self._file, self._draft)
        report = probed.report
        if probed.answers is None:
            self._report_failure(probed)
            return report.exit_code or 1
        suffix = output_suffix(probed.answers)
        path = Path(self._draft.tables["output"]["path"])
        if self._options.output is None and suffix != path.suffix:
            self._draft.tables["output"]["path"] = str(path.with_suffix(suffix))
        for setting in self._options.settings:
            override(self._draft.tables, setting)
        self._write(replaces=True)
        print_text("probed: the endpoint answered\n" + values_text(probed.answers))
        return 0

    def _report_failure(self, probed: Probed) -> None:
        print_text(probe_text(probed.report))
        stop = probed.report.stop
        reason = probed.problem or (stop.reason if stop else "the rows of the probe failed")
        print_error(f"the probe failed: {reason}", 1)

    def _write(self, *, replaces: bool) -> None:
        try:
            with self._file.open("w" if replaces else "x", encoding="utf-8") as file:
                file.write(_HEAD + self._draft.text())
        except FileExistsError:
            raise ConfigError(f"{self._file} exists already: give another name, or --force to replace it") from None
        except OSError as error:
            raise ConfigError(f"{self._file} cannot be written: {error.strerror}") from None

    def _next_steps(self) -> str:
        file = self._file
        pilot = f"{file.stem}-pilot{Path(self._draft.tables['output']['path']).suffix}"
        return (
            "next:\n"
            f"  fanout check {file} --show    # the first request and its answer\n"
            f"  fanout run {file} --rows 0:100 --set output.path={pilot}\n"
            f"  fanout run {file}"
        )

    def _ask(self, flag: str, question: str) -> str:
        if not self._may_ask:
            raise ConfigError(f"{flag} is missing: {question[:1].lower() + question[1:]}")
        return str(click.prompt(question, err=True))
