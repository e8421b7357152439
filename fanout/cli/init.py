"""``fanout init``: writes a job file from flags and, in a terminal, from answers to its questions."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout._escape import escaped
from fanout._headers import is_secret_option, literal_fields
from fanout._redact import Redactor
from fanout._url import LOCAL
from fanout._variables import resolved
from fanout.cli.init_codec import MOST_NAMES, REMEDY, CodecSetup, Questions, require_reference
from fanout.cli.output import OUTPUT, print_error, print_message, print_text
from fanout.cli.show import probe_text, values_text
from fanout.errors import ConfigError
from fanout.io.remote.file import url_of
from fanout.job import Outline, load_job_or_outline
from fanout.job.begin import output_suffix, probe, require_new
from fanout.job.edit import Draft, override, replace_file
from fanout.job.fields import read_fields
from fanout.presets import load_preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.job.begin import Probed
    from fanout.job.fields import InputFields

# Names of variables that are not set yet: tokens of most vendors have small letters.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEAD = "# A fanout job, begun by fanout init. docs/job-files.md describes all keys; times are in seconds.\n"


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
    no_probe: bool = False
    force: bool = False


def init_command(file: str, options: InitOptions) -> int:
    """Write a job file, probe its endpoint, and print what to run next."""
    OUTPUT.redactor = Redactor()
    return asyncio.run(Beginner(Path(file), options).run())


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
        self._questions = Questions()

    async def run(self) -> int:
        """Write the job file; return the exit code of the probe. Raises `ConfigError` for a flag that is missing."""
        # First: a user who answered all questions must not learn at the end that the file exists.
        require_new(self._file, force=self._options.force)
        # The kinds of the columns decide on much of what follows, so the input comes before the endpoint.
        fields = self._set_input()
        codec = CodecSetup(self._draft, self._options, self._questions, self._file.parent)
        await codec.set_endpoint(fields)
        codec.set_options()
        codec.set_rows(fields)
        self._set_auth()
        self._set_output()
        for setting in self._options.settings:
            override(self._draft.tables, setting)
        _require_references(self._draft.tables)
        self._write(replaces=self._options.force)
        print_text(f"wrote {self._file}")
        code = 0 if self._options.no_probe else await self._probe()
        print_text(self._next_steps())
        return code

    def _set_input(self) -> InputFields:
        path = self._options.input or self._questions.ask("--input", "Input file, folder or pattern")
        format = self._options.format  # noqa: A001
        if path == "-":
            raise ConfigError("--input: init reads the first rows, so give it a file of the same form, not stdin")
        require_reference("--input", path)
        fields = read_fields(resolved(path, "--input"), format)
        rows = "" if fields.n_rows is None else f"{fields.n_rows:,} rows"
        self._draft.set("input", "path", self._from_job(path), rows)
        if format is not None:
            self._draft.set("input", "format", format)
        if self._options.column is not None:
            self._draft.set("input", "column", self._options.column)
        if self._options.columns:
            self._draft.set("input", "columns", list(self._options.columns))
        if self._options.vector:
            self._draft.set("input", "as", "vector", "a row is the list of these numbers")
        if self._options.id:
            ids = list(self._options.id)
            self._draft.set("input", "id", ids[0] if len(ids) == 1 else ids)
        # A hint, because no name tells with certainty which column holds ids.
        elif fields.columns:
            self._draft.hints["input"] = (
                'id = "NAME"                     # a column that labels the rows in the output',
            )
        named = [f"{escaped(name)} ({kind})" for name, kind in fields.columns.items()]
        more = f", and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
        print_message(f"input: {rows or 'rows'}; {', '.join(named[:MOST_NAMES]) + more or f'each is: {fields.row}'}")
        return fields

    def _set_auth(self) -> None:
        preset = self._options.preset
        loaded = None if preset is None else load_preset(preset, self._file.parent)
        needs = loaded is not None and loaded.tables.get("auth")
        variable = self._options.token
        if variable is None and loaded is not None and loaded.credentials_type:
            hint = "credentials come from where the tools of the cloud look for them"
            self._draft.set("auth", "type", loaded.credentials_type, hint)
            return
        if variable is None and not self._draft.tables["endpoint"]["url"].startswith(LOCAL):
            variable = self._questions.ask_if_allowed("Environment variable with the API key or token (empty: none)")
        if variable is None and needs:
            assert preset is not None
            # The name that the vendor's own tools read, as far as the preset is called after the vendor.
            vendor = re.sub(r"[^A-Z0-9]", "_", Path(preset).stem.partition("-")[0].upper()).lstrip("0123456789")
            variable = f"{vendor}_API_KEY"
        if variable:
            name = variable.removeprefix("${").removesuffix("}")
            _require_variable(name)
            self._draft.set("auth", "token", f"${{{name}}}", "from the environment, so that no file holds it")

    def _set_output(self) -> None:
        # An empty table with a hint shows where the key goes, and leaves the default to fanout.
        self._draft.tables["chunks"] = {}
        self._draft.hints["chunks"] = ("rows = 64                       # most rows in one request",)
        self._draft.set("limits", "concurrency", 16, "most requests in flight; fanout tune finds the best value")
        self._draft.hints["limits"] = ("requests_per_second = 10.0      # no limit if left out",)
        output = self._options.output
        stored = self._from_job(output) if output else f"{self._file.stem}-answers.npy"
        self._draft.set("output", "path", stored, ".npy holds numbers; .jsonl, .csv and .parquet numbers and texts")

    def _from_job(self, path: str) -> str:
        """Return a path relative to the folder of the job file, as paths in it are."""
        is_fixed = url_of(path) is not None or Path(path).is_absolute()
        return path if is_fixed else os.path.relpath(path, self._file.parent)

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
        # Only the answer shows whether numbers or texts have to be stored.
        if self._options.output is None and suffix != path.suffix:
            self._draft.tables["output"]["path"] = str(path.with_suffix(suffix))
        for setting in self._options.settings:
            override(self._draft.tables, setting)
        self._write(replaces=True)
        print_text("probed: the endpoint answered\n" + values_text(probed.answers))
        return 0

    def _report_failure(self, probed: Probed) -> None:
        print_text(probe_text(probed.report))
        stop, failures = probed.report.stop, probed.report.probe.result.failures
        reason = probed.problem or (
            stop.reason if stop else next((one.reason for one in failures), "there are no rows")
        )
        print_error(f"the probe failed: {reason}", 1)

    def _write(self, *, replaces: bool) -> None:
        content = (_HEAD + self._draft.text()).encode()
        try:
            # A file of the user's own stays whole until the new one is.
            if replaces and self._file.exists():
                replace_file(self._file.resolve(), content)
            else:
                with self._file.open("xb") as file:
                    file.write(content)
        except FileExistsError:
            raise ConfigError(f"{self._file} exists already: give another name, or --force to replace it") from None
        except OSError as error:
            raise ConfigError(f"{self._file} cannot be written: {error.strerror}") from None

    def _next_steps(self) -> str:
        file = self._file
        # A run of some rows needs an output of its own, which the whole run would otherwise replace.
        pilot = f"{file.stem}-pilot{Path(self._draft.tables['output']['path']).suffix}"
        return (
            "next:\n"
            f"  fanout check {file} --show    # the first request and its answer\n"
            f"  fanout run {file} --rows 0:100 --set output.path={pilot}\n"
            f"  fanout run {file}"
        )


def _require_references(tables: Mapping[str, Any], at: str = "") -> None:
    """Raise `ConfigError`, without its value, for a credential in the tables that connect to other machines."""
    for name, value in tables.items():
        place = f"{at}{name}"
        # The request of a template may have a field of any name.
        if isinstance(value, dict) and place != "codec":
            for field in literal_fields(value) if place == "endpoint.headers" else ():
                raise ConfigError(f"--set {place}.{field}: {REMEDY}")
            _require_references(value, f"{place}.")
        elif isinstance(value, str):
            require_reference(f"--set {place}", value, is_credential=bool(at) and is_secret_option(name))


def _require_variable(name: str) -> None:
    """Raise `ConfigError`, without the name, if it may be a token: a shell replaces $NAME by its value."""
    if name not in os.environ and not _VARIABLE.fullmatch(name):
        raise ConfigError(
            "--token is the name of an environment variable, such as COHERE_API_KEY (without $), not the token itself; "
            "no variable has this name"
        )
