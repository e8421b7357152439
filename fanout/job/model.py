"""The tables of a job file, and the job that they describe.

Tables that the library has as settings (`Endpoint`, `Limits`, ...) are those settings, so that names, defaults and
descriptions exist once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, with_config

from fanout._redact import Redactor
from fanout.addresses import Endpoint, Storage
from fanout.auth import Auth
from fanout.errors import ConfigError
from fanout.io.remote.file import shown_path, staged_path, url_of
from fanout.prices import Prices
from fanout.settings import Cache, Chunks, Dedupe, Hedge, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from fanout.codecs.base import Codec

# The settings know nothing of pydantic, so that the library does not import it.
for _settings in (Auth, Cache, Chunks, Dedupe, Endpoint, Hedge, Limits, Prices, RetryPolicy, Storage, Timeouts):
    with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))(_settings)


# Pydantic checks every key and reports all problems of a file at once, and its models give the JSON Schema.
class Table(BaseModel):
    """The common configuration of all tables."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Input(Table):
    """The rows to send."""

    path: str
    """A file (.npy, .npz, .parquet, .arrow, .jsonl, .csv, .tsv, .txt), or a folder or pattern (data/*.parquet) of files
    of one format, relative to the job file's folder; or a URL of them (s3://, gs://, az://, https://); or - for stdin.
    Images, audio and PDFs (photos/*.png) are rows themselves, with the columns file (the bytes) and name (also the id).
    """

    column: str | None = None
    """Name of the array, column or field whose values are the rows; not needed if there is only one. In JSON lines also
    a JSON pointer (/a/b/0); without it a row is the whole value."""

    columns: list[str] | None = None
    """Names of several columns, or patterns such as f*: a row has their values by name. "*" stands for all columns but
    those of the ids."""

    as_: Literal["vector"] | None = Field(default=None, alias="as")
    """With "vector" a row is a list of numbers, one for each of the columns."""

    rename: dict[str, str] = {}
    """Column to its name in the rows; in JSON lines without columns, field to its name in the object."""

    id: str | list[str] | None = None
    """Name of the column with the rows' ids, which are texts or integers; or names of several that are an id together.
    """

    format: Literal["npy", "npz", "parquet", "arrow", "jsonl", "csv", "tsv", "txt", "files"] | None = None
    """Format of the input, if its suffix does not show it. With "files" each file of a folder is a row."""

    files: str | list[str] | None = None
    """Name of the column, or of several, with paths or URLs of files: the rows have the bytes of the files. A row whose
    file cannot be read fails alone."""

    files_root: str | None = None
    """Folder in which these paths begin, and below which the files have to be once links are resolved; the job file's
    folder if not given (for files as rows, the folder of the input)."""

    fetch_hosts: list[str] = []
    """Hosts from which URLs in these columns are fetched: images.example.com, *.example.com, 10.0.0.7:8080. Other URLs
    of public hosts are passed on to the model as texts."""

    fetch_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Seconds for one URL."""

    # 32 MiB: the bytes of each file in flight are in memory, and base64 makes them a third larger.
    file_max_bytes: int = Field(default=33_554_432, ge=1)
    """Largest file in bytes. A row with a larger one fails."""

    @property
    def shown_path(self) -> str:
        """The path, or the URL without its secrets."""
        return shown_path(self.path)


# The keys depend on the type, which may be of another package: its class checks them.
class AuthTable(Table):
    """Credentials of every request. All keys except type are options of that type; ${NAME} keeps secrets out of the
    file. They are not part of the journal, of recordings or of messages, and may change between runs."""

    model_config = ConfigDict(extra="allow")

    type: str | None = None
    """Type of the credentials; bearer if not given."""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # All other keys may be secrets, and pydantic shows them in the messages of its errors.
        return [("type", self.type)]


class CodecTable(Table):
    """The wire format of the endpoint. All keys except name are options of that codec."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Name of the codec; or a class of your own, "my_codecs.py:Class" in a file relative to the job file's folder, or
    "package.module:Class"."""

    preset: str | None = None
    """Name of a preset (fanout presets lists them), or path of a TOML file relative to the job file's folder. It gives
    defaults for this and other tables."""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [("name", self.name)]  # an option may hold a secret

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Mock(Table):
    """A mock that answers in place of the endpoint: fanout run JOB --mock, fanout check JOB --dry-run."""

    shape: list[int] | dict[str, list[int]] | None = None
    """Shape of one row's answer, or output name to shape; the codec's if not given."""

    dtype: str | dict[str, str] | None = None
    """Dtype of the answers, or output name to dtype; the codec's if not given, else float32."""

    latency: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Duration of an answer in seconds. It passes in virtual time."""

    faults: dict[str, float] = {}
    """Fault to probability, such as 503 = 0.05; fanout serve --help lists the faults."""

    seed: int = 0
    """Seed of the values, faults and backoffs."""


class Output(Table):
    """The file for the answers."""

    path: str
    """The output file, relative to the job file's folder, or a URL (s3://, gs://, az://) to upload it to once it is
    complete. Its suffix is the format, for instance .npy or .parquet.
    Several outputs are separate files in .npy (probabilities.npy.NAME.npy), else fields or columns of one file."""

    keep: list[str] | Literal["*"] | None = None
    """Columns of the input, names or patterns, to write beside the answers; "*" for all but those of the ids. Not in
    .npy, and not from stdin. It is no part of the run's identity."""

    rename: dict[str, str] = {}
    """Output to its column or field, such as { value = "score" }; value stands for the only output of a model."""

    @field_validator("path")
    @classmethod
    def _require_uploadable(cls, path: str) -> str:
        try:
            output_path(Path(), path)
        except ConfigError as error:
            # Pydantic adds the key.
            raise ConfigError(str(error)) from None
        return path

    csv_safe: bool = False
    """In .csv, put an apostrophe before texts that a spreadsheet would compute: those that begin with = + - or @."""

    keep_usage: bool = False
    """Write the tokens of each row beside its answer: usage.input_tokens, usage.cached_tokens, usage.output_tokens and
    usage.reasoning_tokens, its share of those of its request; NaN where they are unknown."""


class Report(Table):
    """The report of the run, beside the output: probabilities.npy.report.html."""

    write: bool = True
    """Record the run (probabilities.npy.report.jsonl) and write its report."""

    rows: bool = False
    """Show some input rows in the report, with their answers or the reasons of their failure. Else it has none."""


class Telemetry(Table):
    """Telemetry of the run, for programs that watch it."""

    opentelemetry: bool = False
    """Make spans and metrics with OpenTelemetry, for the SDK that the process has (opentelemetry-instrument fanout run
    job.toml); requires the extra otel."""

    propagate: bool = True
    """With opentelemetry, requests carry the context of their trace in their header (traceparent)."""

    baggage: bool = False
    """With propagate, they carry its baggage, too."""

    chunk_traces: bool = True
    """With opentelemetry, each chunk is a trace of its own that links to the run, so that no trace grows with the
    input."""

    gen_ai: str | None = None
    """With opentelemetry, name of the provider in the GenAI conventions, such as openai; the chunks of codecs for
    language models then follow these."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port on 127.0.0.1 at which Prometheus finds metrics while the job runs; requires the extra prometheus."""


class JobFile(Table):
    """A fanout job: rows from a file, through a remote model, into a file."""

    input: Input
    endpoint: Endpoint
    auth: AuthTable = AuthTable()
    codec: CodecTable
    chunks: Chunks = Chunks()
    limits: Limits = Limits()
    cost: Prices = Prices()
    retry: RetryPolicy = RetryPolicy()
    hedge: Hedge = Hedge()
    cache: Cache = Cache()
    dedupe: Dedupe = Dedupe()
    timeouts: Timeouts = Timeouts()
    mock: Mock = Mock()
    output: Output
    report: Report = Report()
    telemetry: Telemetry = Telemetry()
    storage: Storage = Storage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A valid job file."""

    file: Path
    tables: JobFile = field(repr=False)
    codec: Codec
    auth: Auth | None = None
    redactor: Redactor = field(default_factory=Redactor, repr=False)
    """Redacts the job's secrets."""

    @property
    def input_path(self) -> Path | str:
        """The input: a file, a folder or a pattern; ``-`` for stdin; or a URL."""
        return input_path(self.file, self.tables.input.path)

    @property
    def files_root(self) -> Path | None:
        """The folder of the files that rows name; None if the rows are files and the job names no folder."""
        table = self.tables.input
        if table.files_root is None and table.files is None:
            return None
        return self._beside(table.files_root or ".")

    @property
    def output_path(self) -> Path:
        """The output file; that which will be uploaded if the output is a URL."""
        return output_path(self.file, self.tables.output.path)

    @property
    def shown_output(self) -> str:
        """The output file, or its URL."""
        # The local file that stands for a URL has a name that no user has given.
        return url_of(self.tables.output.path) or str(self.output_path)

    @property
    def cache(self) -> Cache | None:
        """The cache of answers, its path resolved from the job file's folder; None without one."""
        cache = self.tables.cache
        return None if cache.path is None else replace(cache, path=str(self._beside(cache.path)))

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint. Paths of its certificates are resolved from the job file's folder."""
        endpoint = self.tables.endpoint

        # Certificates lie beside the job file, as inputs do, wherever the command is started.
        def resolve(path: str | None) -> str | None:
            return None if path is None else str(self._beside(path))

        return replace(
            endpoint,
            ca_file=resolve(endpoint.ca_file),
            client_cert=resolve(endpoint.client_cert),
            client_key=resolve(endpoint.client_key),
        )

    @property
    def shown_endpoint(self) -> str:
        return ", ".join(self.redactor.url(endpoint.url) for endpoint, _ in self.tables.endpoint.each())

    def with_output_suffix(self, suffix: str) -> Job:
        """Return the job with another output: ``y.npy`` -> ``y.SUFFIX.npy``."""
        path = self.tables.output.path
        # Answers that are not the endpoint's are never uploaded.
        local = Path(path) if url_of(path) is None else self.output_path.absolute()
        renamed = str(local.with_name(f"{local.stem}.{suffix}{local.suffix}"))
        output = self.tables.output.model_copy(update={"path": renamed})
        return replace(self, tables=self.tables.model_copy(update={"output": output}))

    def _beside(self, path: str) -> Path:
        return beside(self.file, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A job file without the codec, or without variables under endpoint, auth and codec.

    It is enough to examine the output.
    """

    file: Path
    output_path: Path
    redactor: Redactor = field(repr=False)
    missing: str
    """Reason why there is no `Job`."""

    key: str
    not_compared: str
    """The same for `Status`, in a few words."""

    tables: JobFile | None
    """The tables of the job file; None if they cannot be read without the variables."""


def input_path(file: Path, path: str) -> Path | str:
    """Return the input of a job file: a path relative to the working folder, ``-`` or a URL."""
    return path if path == "-" or url_of(path) is not None else beside(file, path)


def output_path(file: Path, path: str) -> Path:
    """Return the file of an output in a job file: the local one that stands for a URL."""
    url = url_of(path, "output.path")
    return beside(file, path) if url is None else staged_path(url, file.parent)


def beside(file: Path, path: str) -> Path:
    """Return a path in a job file relative to the working folder."""
    # A job may be run from any folder, by cron for instance, so only the job file's own folder is a fixed point.
    return file.parent / Path(path).expanduser()
