"""The failed rows of a job's newest run: by reason, and as a table of the input's columns for a person to correct."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.arrow import arrow_column, import_pyarrow, missing_pyarrow, python_values
from fanout.errors import ConfigError, InputError
from fanout.files import PRIVATE, whole_file
from fanout.frames import free_name
from fanout.io.readers.opening import open_columns
from fanout.io.writers.text import csv_cell, value_cell
from fanout.job.journal import read_journal
from fanout.job.model import Outline, input_path
from fanout.job.problems import locate_errors
from fanout.job.report import SCHEMA_VERSION
from fanout.report import FailureGroup, group_failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.arrow import Arrow, Piece
    from fanout.files import PartialFile
    from fanout.io.journal.state import JournalState
    from fanout.io.kept import KeptColumns, KeptReader
    from fanout.job.model import Job, JobFile
    from fanout.results import Failure

# Failed rows may be millions, and their columns any size.
_GROUP_ROWS = 8192
_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Errors name this option in place of a key of the job file, since that is where the user has to change something.
_KEY = "--to"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """The failed rows of a job's newest run.

    Attributes:
        rows: rows of the input; None if unknown before its end.
        failed: failed rows, of all reasons.
        selected: those of them that are in ``groups``.
        complete: the run has come to its end.
        groups: rows by reason, the most frequent first.
        file: the table of them that was written; None if none was.
        input: path of the input, as the job file has it, or its URL without secrets; None if it cannot be read from
            there.
    """

    rows: int | None
    failed: int
    selected: int
    complete: bool
    groups: tuple[FailureGroup, ...]
    file: str | None = None
    input: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def job_failures(job: Job | Outline, *, reason: str = "", to: Path | None = None) -> FailureReport:
    """Group the failed rows of a job's newest run by their reasons.

    Args:
        reason: only rows whose reason holds this text, in any case of letters.
        to: new file (``.csv``, ``.jsonl`` or ``.parquet``) for a table of these rows: their number in the input
            (``row``), all columns of the input, and ``error``, the reason.

    Raises:
        ConfigError: there is no run, no reason holds ``reason``, or the table cannot be written; the input has changed
            since the run, so that its rows may not be those that failed.
    """
    with locate_errors(job.file, redactor=job.redactor):
        state = read_journal(job)
        if state is None:
            raise ConfigError("no row is done yet: run the job first", key="output.path")
        state = state.in_place
        # The journal has them in the order in which they failed.
        ordered = sorted(state.failures, key=lambda failure: failure.start)
        selected = [failure for failure in ordered if reason.casefold() in failure.reason.casefold()]
        if state.failures and not selected:
            reasons = "; ".join(group.reason for group in group_failures(state.failures))
            raise ConfigError(f"no row failed for a reason with {reason!r} in it; the reasons are: {reasons}", key="")
        if to is not None:
            _write_table(job, state, selected, to)
        tables = job.tables
        return FailureReport(
            rows=state.n_rows,
            failed=state.failed,
            selected=sum(failure.n_rows for failure in selected),
            complete=state.complete,
            groups=tuple(group_failures(selected, most=None)),
            file=None if to is None else str(to),
            input=None if tables is None else tables.input.shown_path,
        )


class _Group(NamedTuple):
    """Some failed rows: their numbers, the pieces of their columns, and the reasons."""

    rows: list[int]
    pieces: dict[str, list[Piece]]
    reasons: list[str]


def _write_table(job: Job | Outline, state: JournalState, failures: Sequence[Failure], to: Path) -> None:
    if to.suffix not in _SUFFIXES:
        raise ConfigError(f"{to.name}: the suffix is the format: {', '.join(_SUFFIXES)}", key=_KEY)
    # A person may have begun to correct the rows in it.
    if to.exists():
        raise ConfigError(f"{to} exists already: give another name, or remove it", key=_KEY)
    if not failures:
        raise ConfigError("no row failed, so there is nothing to write", key=_KEY)
    if job.tables is None:
        assert isinstance(job, Outline)
        raise ConfigError(job.missing, key=job.key)
    if to.suffix == ".parquet" and (missing := missing_pyarrow()) is not None:
        raise ConfigError(f"{to.name}: Parquet needs {missing}", key=_KEY)
    kept = _input_columns(job.file, job.tables, state)
    groups = _groups(kept.reader(verbatim=to.suffix == ".csv"), failures)
    try:
        # Reasons quote the server, and rows are the input's, so the file is for its owner alone.
        with whole_file(to, mode=PRIVATE) as file:
            if to.suffix == ".parquet":
                _write_parquet(file.path, kept, groups)
            else:
                _write_texts(file, kept, groups, csv_safe=job.tables.output.csv_safe)
    except OSError as error:
        raise ConfigError(f"{to} cannot be written: {error.strerror or error}", key=_KEY) from None


def _input_columns(file: Path, tables: JobFile, state: JournalState) -> KeptColumns:
    """Return the columns of the rows that the run has read. Raises `InputError` if the input has changed since."""
    table, known = tables.input, state.identity.get("input") or {}
    path = input_path(file, table.path)
    source, columns = open_columns(path, table.column, format=table.format, storage=tables.storage)
    if not source.repeatable:
        raise InputError("rows from stdin can be read only once", key="input.path")
    if _samples(known) != _samples(source.fingerprint()):
        problem = "it has changed since the run, so that its rows may not be those that failed"
        raise InputError(f"{problem}: send the corrected rows with fanout run --only-failed first", key="input.path")
    # A run of some rows counts from the first of them.
    return columns.sliced(*known["rows"]) if isinstance(known.get("rows"), list) else columns


def _samples(value: Any) -> list[tuple[int, str]]:
    """Return the size and the sampled bytes of each file in a fingerprint; of a remote file, its tag."""
    if isinstance(value, dict):
        if (content := value.get("sample", value.get("etag"))) is not None:
            return [(value["size"], content)]
        return [sample for part in value.values() for sample in _samples(part)]
    return [sample for part in value for sample in _samples(part)] if isinstance(value, list) else []


def _groups(reader: KeptReader, failures: Sequence[Failure]) -> Iterator[_Group]:
    """Yield the failed rows with their columns, in groups of a bounded size."""
    group, position = _Group([], {}, []), 0
    for failure in failures:
        while position < failure.start:
            # The rows between are read in steps, because a reader keeps all that it takes at once.
            skipped = min(_GROUP_ROWS, failure.start - position)
            reader.take(skipped)
            position += skipped
        while position < failure.stop:
            taken = min(_GROUP_ROWS - len(group.rows), failure.stop - position)
            for name, pieces in reader.take(taken).items():
                group.pieces.setdefault(name, []).extend(pieces)
            group.rows.extend(range(position, position + taken))
            group.reasons.extend([failure.reason] * taken)
            position += taken
            if len(group.rows) == _GROUP_ROWS:
                yield group
                group = _Group([], {}, [])
    if group.rows:
        yield group


def _names(kept: KeptColumns) -> list[str]:
    """Return the names of all columns of the table, none of them twice."""
    return [free_name("row", kept.names), *kept.names, free_name("error", kept.names)]


def _write_texts(file: PartialFile, kept: KeptColumns, groups: Iterator[_Group], *, csv_safe: bool) -> None:
    """Write the rows as CSV with a header, or as JSON lines."""
    is_csv, names = file.final.suffix == ".csv", _names(kept)
    if is_csv:
        file.append((",".join(csv_cell(name, safe=csv_safe) for name in names) + "\n").encode())
    for group in groups:
        # A group at a time: the columns of all failed rows may be larger than the memory.
        columns = [group.rows, *map(python_values, group.pieces.values()), group.reasons]
        for row in zip(*columns, strict=True):
            if is_csv:
                line = ",".join(csv_cell(value, safe=csv_safe) for value in row).encode()
            else:
                line = value_cell(dict(zip(names, row, strict=True)))
            file.append(line + b"\n")


def _write_parquet(path: Path, kept: KeptColumns, groups: Iterator[_Group]) -> None:
    pa = import_pyarrow()
    from pyarrow import parquet

    types: Mapping[str, Arrow] = kept.arrow_types()
    row, *_, error = _names(kept)
    fields = [pa.field(name, kind) for name, kind in types.items()]
    schema = pa.schema([pa.field(row, pa.int64()), *fields, pa.field(error, pa.string())])
    try:
        with parquet.ParquetWriter(path, schema) as writer:
            for group in groups:
                columns = [arrow_column(pieces, types[name]) for name, pieces in group.pieces.items()]
                columns = [pa.array(group.rows, pa.int64()), *columns, pa.array(group.reasons, pa.string())]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    except pa.ArrowException as problem:
        raise OSError(" ".join(str(problem).split())) from problem
