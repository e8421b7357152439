"""The recording of a run: JSON lines beside its journal, from which the report is made at any time.

Each process that works on the run adds one session: a `Session`, then `Sample`, `Note` and `Totals` lines in order of
time. Lines are only appended, so that a killed process leaves all but its last moments. A recording is no part of the
results: a line that cannot be read is skipped, and nothing is synced to the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from fanout._escape import safe_json
from fanout.files import PRIVATE, open_at_once

if TYPE_CHECKING:
    from pathlib import Path

BYTES_AT_FIRST = 24 * 2**10
BYTES_PER_HOUR = 64 * 2**10
"""Size to which samples and notes may let a recording grow: the first number at once, the second in an hour."""

# Sessions that stay when a recording is made smaller: a supervisor may restart a failing job every minute.
_KEPT_SESSIONS = 20


class Session(msgspec.Struct, tag="session", array_like=True, frozen=True):
    """The beginning of one process's work on the run."""

    began: float
    """Seconds since 1970."""

    rows: int | None
    """Rows of the input; None if unknown."""

    earlier: int
    """Rows that earlier sessions have finished."""

    facts: dict[str, dict[str, str]]
    """Heading to name to text: the job, the versions, the machine."""


class Sample(msgspec.Struct, tag="sample", array_like=True, frozen=True):
    """The counters at one time. All but ``in_flight``, ``limit`` and ``latency`` count from the session's beginning."""

    seconds: float
    ok: int
    failed: int
    retries: int
    splits: int
    hedges: int
    in_flight: int
    limit: int
    latency: tuple[float, float, float] | None
    """Percentiles 50, 95 and 99 of the exchanges since the last sample, in seconds; None if there was none."""

    requests: tuple[int, ...]
    """Requests to each endpoint."""

    usage: dict[str, int]
    cost: float = 0.0
    currency: str = ""
    """Empty if the cost is unknown."""


class Note(msgspec.Struct, tag="note", array_like=True, frozen=True):
    """An event that a reader of the report should see."""

    seconds: float
    kind: str
    lasts: float
    """Length of a pause in seconds."""

    reason: str


class EndpointTotals(msgspec.Struct, array_like=True, frozen=True):
    """One endpoint at the end of a session, or of the part that was recorded."""

    url: str
    requests: int
    latency: float | None
    state: str
    reason: str


class OutputSample(msgspec.Struct, array_like=True, frozen=True):
    """Values of one output in a random sample of the answered rows."""

    name: str
    form: str
    """``"number"``, ``"vector"`` (Euclidean norms), ``"top"`` (positions of the largest element), ``"label"`` or
    ``"text"`` (lengths in characters)."""

    seen: int
    """Rows from which the sample was drawn."""

    numbers: list[float]
    labels: dict[str, int]
    """Label to number of rows in the sample, the most frequent ones."""


class Example(msgspec.Struct, tag="example", array_like=True, frozen=True):
    """A row of the input; recorded only if the job wants input rows in its report."""

    row: int
    input: str
    outcome: str
    """The answer, or the reason of the failure."""


class Totals(msgspec.Struct, tag="totals", array_like=True, frozen=True):
    """Sums and distributions since the session's beginning. The last one of a session counts."""

    seconds: float
    ok: int
    failed: int
    pending: int | None
    """Rows without an answer; None while the session runs."""

    latencies: list[tuple[int, int]]
    """Index and count of each bucket of `fanout.statistics.Latencies` that holds an exchange."""

    max_in_flight: int
    bytes_sent: int
    bytes_received: int
    endpoints: list[EndpointTotals]
    outputs: list[OutputSample]
    limit_changes: dict[str, int]
    """Reason to number of changes of the adaptive limit."""

    left_out: int
    """Notes for which there was no room."""

    stop_kind: str = ""
    stop_reason: str = ""


Line: TypeAlias = Session | Sample | Note | Example | Totals


@dataclass(slots=True)
class RecordedSession:
    """One session, as it was read."""

    session: Session
    samples: list[Sample] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    totals: Totals | None = None


class RecordingFile:
    """The file while a session appends to it. Every method may raise `OSError`.

    Args:
        fresh: begin a new recording, because the run begins anew.
        now: seconds since 1970.
    """

    def __init__(self, path: Path, *, fresh: bool, now: float) -> None:
        self.path = path
        # A link under this name could point at any file of the user.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags | (os.O_TRUNC if fresh else 0), PRIVATE)
        earlier = [] if fresh else read_recording(path)
        # The age of the run, not of this process, decides how large the recording may be.
        self._since = min([one.session.began for one in earlier], default=now)
        self._size = os.fstat(self._fd).st_size
        # The first and last lines of a session are always written, and a run may be restarted again and again.
        if self._size > BYTES_PER_HOUR * max(1.0, self._hours(now)):
            self._compact(earlier)

    def has_room(self, now: float) -> bool:
        """Return whether the recording is smaller than it may be at the time ``now``."""
        hours = self._hours(now)
        return self._size < max(BYTES_AT_FIRST + (BYTES_PER_HOUR - BYTES_AT_FIRST) * hours, BYTES_PER_HOUR * hours)

    def _hours(self, now: float) -> float:
        return max(0.0, now - self._since) / 3600

    def append(self, *lines: Line) -> None:
        # A session that was killed may have left half a line: this one begins on a line of its own.
        data = b"".join(b"\n" + _encoded(line) for line in lines) + b"\n"
        # All lines in one call, so that a kill tears at most the last one that reached the file.
        os.write(self._fd, data)
        self._size += len(data)

    def close(self) -> None:
        os.close(self._fd)

    def _compact(self, earlier: list[RecordedSession]) -> None:
        """Keep the beginning and the end of the newest sessions."""
        os.ftruncate(self._fd, 0)
        self._size = 0
        for one in earlier[-_KEPT_SESSIONS:]:
            # The report shows the facts of the newest session alone, and that one is about to begin.
            head = msgspec.structs.replace(one.session, facts={})
            totals = [] if one.totals is None else [msgspec.structs.replace(one.totals, outputs=[])]
            self.append(head, *one.samples[-1:], *totals)


def read_recording(path: Path) -> list[RecordedSession]:
    """Return the sessions of a recording, in order; none if there is no recording.

    Raises `OSError` if it exists and cannot be read.
    """
    decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
    sessions: list[RecordedSession] = []
    try:
        with open_at_once(path) as file:
            data = file.readall()
    except FileNotFoundError:
        return []
    for text in data.split(b"\n"):
        try:
            line = decoder.decode(text)
        # An empty or a torn line; one that was damaged may be nested too deep for the decoder.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(line, Session):
            sessions.append(RecordedSession(line))
        elif sessions:
            _add(sessions[-1], line)
    return sessions


def _add(session: RecordedSession, line: Line) -> None:
    if isinstance(line, Sample):
        session.samples.append(line)
    elif isinstance(line, Note):
        session.notes.append(line)
    elif isinstance(line, Example):
        session.examples.append(line)
    elif isinstance(line, Totals):
        session.totals = line


def _encoded(line: Line) -> bytes:
    try:
        return msgspec.json.encode(line)
    except UnicodeEncodeError:  # the path of a file has bytes that are no UTF-8
        return safe_json(msgspec.to_builtins(line))
