"""The tables of a job file. `Endpoint`, `Limits`, `RetryPolicy` and `Timeouts` are the library's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fanout.settings import Endpoint, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from fanout.codecs.base import Codec


class Table(BaseModel):
    """What all tables of a job file have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Input(Table):
    """Which rows to send."""

    path: str
    """A .npy or .npz file; relative to the job file's folder."""

    column: str | list[str] | None = None
    """Name of the array in a .npz file, or a list of them for several inputs a row; not needed if it holds just one."""


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


class Chunks(Table):
    """How the input is cut into requests."""

    rows: int = Field(default=64, ge=1)
    """Rows in one request."""


class Output(Table):
    """Where the answers go."""

    path: str
    """A .npy or .jsonl file; relative to the job file's folder. Several outputs: probabilities.NAME.npy each."""


class JobFile(Table):
    """A fanout job: rows from a file, through a remote model, into a file."""

    input: Input
    endpoint: Endpoint
    codec: CodecTable
    chunks: Chunks = Chunks()
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    output: Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job file that has been read and found valid."""

    file: Path
    tables: JobFile = field(repr=False)
    codec: Codec

    @property
    def input_path(self) -> Path:
        """The input file."""
        return self._beside(self.tables.input.path)

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

    def _beside(self, path: str) -> Path:
        # A job file is run from anywhere, by cron for instance, so its own folder is the one fixed point.
        return self.file.parent / Path(path).expanduser()
