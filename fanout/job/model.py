"""The tables of a job file. Those that the library has too (`Endpoint`, `Limits`, ...) are its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fanout._redact import Redactor
from fanout.settings import Chunks, Endpoint, Hedge, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from fanout.codecs.base import Codec


class Table(BaseModel):
    """What all tables of a job file have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Input(Table):
    """Which rows to send."""

    path: str
    """A file (.npy, .npz, .parquet, .arrow, .jsonl, .csv, .tsv, .txt), or a folder or pattern (data/*.parquet) of files
    of one format, relative to the job file's folder; or - for stdin."""

    column: str | list[str] | None = None
    """Name of the array, column or field that the rows are, or a list of them for several inputs a row; not needed
    where there is just one. In JSON lines also a JSON pointer (/a/b/0); without it a row is the whole value."""

    id: str | None = None
    """Name of the column whose texts or integers are the rows' ids."""

    format: Literal["npy", "npz", "parquet", "arrow", "jsonl", "csv", "tsv", "txt"] | None = None
    """The format, where the suffix does not tell it."""


class CodecTable(Table):
    """Which wire format the endpoint speaks; all keys beside name are that codec's own options."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Name of the codec."""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [("name", self.name)]  # an option may carry what is nobody else's business

    @property
    def options(self) -> dict[str, Any]:
        """The codec's own options."""
        return dict(self.model_extra or {})


class Mock(Table):
    """What answers in the endpoint's place in a rehearsal: fanout run JOB --mock, fanout check JOB --dry-run."""

    shape: list[int] | dict[str, list[int]] | None = None
    """Shape of one row's answer, or output name to shape; what the codec tells if left out."""

    dtype: str | dict[str, str] | None = None
    """Its dtype, or output name to dtype; what the codec tells if left out, else float32."""

    latency: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Seconds that an answer takes; they are computed, not waited for."""

    faults: dict[str, float] = {}
    """Probabilities by fault, such as 503 = 0.05; fanout serve --help lists them."""

    seed: int = 0
    """Another one brings other values, faults and waits."""


class Output(Table):
    """Where the answers go."""

    path: str
    """A .npy, .jsonl or .parquet file; relative to the job file's folder. Several outputs: a .npy file each,
    probabilities.npy.NAME.npy; fields of a line in .jsonl, columns in .parquet."""


class JobFile(Table):
    """A fanout job: rows from a file, through a remote model, into a file."""

    input: Input
    endpoint: Endpoint
    codec: CodecTable
    chunks: Chunks = Chunks()
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    hedge: Hedge = Hedge()
    timeouts: Timeouts = Timeouts()
    mock: Mock = Mock()
    output: Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job file that has been read and found valid."""

    file: Path
    tables: JobFile = field(repr=False)
    codec: Codec
    redactor: Redactor = field(default_factory=Redactor, repr=False)
    """Knows the job's secrets."""

    @property
    def input_path(self) -> Path:
        """The input: a file, a folder or a pattern; ``-`` for stdin."""
        path = self.tables.input.path
        return Path(path) if path == "-" else self._beside(path)

    @property
    def output_path(self) -> Path:
        """The output file."""
        return self._beside(self.tables.output.path)

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint, its certificate files found from the job file's folder."""
        endpoint = self.tables.endpoint

        def found(path: str | None) -> str | None:
            return None if path is None else str(self._beside(path))

        return replace(
            endpoint,
            ca_file=found(endpoint.ca_file),
            client_cert=found(endpoint.client_cert),
            client_key=found(endpoint.client_key),
        )

    @property
    def shown_endpoint(self) -> str:
        """The URLs, fit to be shown."""
        return ", ".join(self.redactor.url(endpoint.url) for endpoint, _ in self.tables.endpoint.each())

    def writing_beside(self, word: str) -> Job:
        """The same job with an output of its own: ``y.npy`` -> ``y.WORD.npy``."""
        path = Path(self.tables.output.path)
        output = Output(path=str(path.with_name(f"{path.stem}.{word}{path.suffix}")))
        return replace(self, tables=self.tables.model_copy(update={"output": output}))

    def _beside(self, path: str) -> Path:
        return beside(self.file, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A job file in which variables under endpoint and codec are not set: enough to look at its output."""

    file: Path
    output_path: Path
    redactor: Redactor = field(repr=False)
    missing: str
    """Why there is no `Job`."""

    key: str


def beside(file: Path, path: str) -> Path:
    """A path in a job file, as seen from here."""
    # A job file is run from anywhere, by cron for instance, so its own folder is the one fixed point.
    return file.parent / Path(path).expanduser()
