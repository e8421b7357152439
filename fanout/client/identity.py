"""The identity of a run, and the digests of its rows: they decide whether a journal belongs to this input.

A run is resumed if its identity is that of the journal. If only the input's differs, the digests of single rows show
which answers can be kept.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import orjson

from fanout._redact import Redactor
from fanout._url import LOCAL, is_credential, split_socket
from fanout.client.functions import option_identity
from fanout.engine import as_rows
from fanout.errors import ConfigError
from fanout.io.fingerprint import of_rows
from fanout.io.readers.base import Source
from fanout.io.readers.tables import as_source
from fanout.io.row_digests import DIGEST_BYTES, METHOD, row_digests
from fanout.io.writers.base import Move
from fanout.rows import RowSet, count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.codecs.base import Codec
    from fanout.io.journal.comparison import SentDigests
    from fanout.types import Array, Block, Rows

_BLOCK_ROWS = 4096


def identity_of(rows: object, codec: Codec, urls: Sequence[str], redactor: Redactor | None = None) -> dict[str, Any]:
    """Return the identity of a run: rows, codec with its options, path and query of the URLs; JSON without secrets.

    Neither the host nor limits nor the size of chunks is a part of it, since they do not change the answers.

    Raises `ConfigError` for the rows of an iterator, which have no identity.
    """
    return {
        "input": _input_identity(rows),
        "codec": codec_identity(codec),
        **_url_identity(urls, redactor or Redactor()),
    }


def _input_identity(rows: object) -> Any:
    content = content_of(rows)
    if content is not None:
        return content.fingerprint()
    source = rows if isinstance(rows, Source) else as_source(rows)
    if source is not None:
        return source.fingerprint()
    problem = f"rows of a {type(rows).__name__} have no identity"
    raise ConfigError(f"{problem}: give the journal an identity of your own", key="journal")


def codec_identity(codec: Codec) -> dict[str, Any]:
    """Return the facts by which a codec makes requests and reads answers, as JSON without secrets."""
    options = orjson.dumps(
        codec.options, default=option_identity, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    )
    # An option may hold a secret, so only the digest of the options is written.
    return {"name": codec_name(codec), "format": codec.format_version, "options": _digest(options)}


def codec_name(codec: Codec) -> str:
    """Return the name that its class declares, or that of the class.

    A name counts for the class that declares it: a subclass may give other answers. The module is left out, so that a
    codec can move to another one.
    """
    kind = type(codec)
    return kind.name if "name" in vars(kind) else kind.__qualname__


def _url_identity(urls: Sequence[str], redactor: Redactor) -> dict[str, Any]:
    parts = sorted({(_path(url, redactor), query_of(url)) for url in urls})
    paths = list(dict.fromkeys(path for path, _ in parts))
    identity: dict[str, Any] = {"path": paths[0] if len(paths) == 1 else paths}
    if any(query for _, query in parts):
        # A query may hold a secret.
        identity["query"] = [query and _digest(query.encode()) for _, query in parts]
    return identity


def _path(url: str, redactor: Redactor) -> str:
    """Return the path of a URL; a secret in it is replaced by the digest of the whole path."""
    # A socket is a place like a host, which may change.
    urls = (split_socket(one)[1] for one in (url, redactor.hide(url)))
    path, redacted = (one if one.startswith(LOCAL) else urlsplit(one).path for one in urls)
    return path if redacted == path else f"{redacted} {_digest(path.encode())}"


def query_of(url: str) -> str:
    """Return the query of a URL, sorted and without credentials."""
    # Credentials name the caller. They do not change the answers, and an expired one has to be replaced.
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return urlencode(sorted(pair for pair in pairs if not is_credential(pair[0])))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class Matches(NamedTuple):
    """Rows of an input that an earlier run has answered, under the same numbers or others.

    Attributes:
        digests: of all rows of the input; shape (rows, 2), uint64.
    """

    moves: list[Move]
    digests: Array


class Content:
    """Rows that can be read more than once, and their digests.

    Args:
        rows: a source, which is read block by block, or rows in memory, whose digests are kept: 16 bytes a row.
    """

    def __init__(self, rows: Source | Rows) -> None:
        self.rows = rows
        self._in_memory: dict[str, Array] = {}

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None if only reading to the end shows it."""
        return self.rows.n_rows if isinstance(self.rows, Source) else count_rows(self.rows)

    def fingerprint(self, method: str = METHOD) -> dict[str, Any] | None:
        """Return JSON that identifies the rows; see `Source.fingerprint`. All rows in memory count.

        ``method`` is that of the digests of rows in memory.
        """
        if isinstance(self.rows, Source):
            return self.rows.fingerprint()
        digest = blake2b(self._digests_in_memory(method).data, digest_size=DIGEST_BYTES)
        # The digests of an empty input show neither its dtype nor its shape.
        digest.update(of_rows([take_rows(self.rows, slice(0, 0))]).encode())
        return {"rows": self.n_rows, "digest": digest.hexdigest()}

    def digests(self, method: str = METHOD, *, with_ids: bool = True) -> Iterator[Array]:
        """Yield the digests of all rows in order, a block at a time. Raises `InputError` for unreadable input."""
        if not isinstance(self.rows, Source):
            yield self._digests_in_memory(method)
            return
        for block in self.rows.blocks():
            yield row_digests(block.rows, block.ids if with_ids else None, method)

    def digests_of(self, start: int, stop: int, method: str = METHOD) -> bytes:
        """Return the digests of some rows in memory."""
        return self._digests_in_memory(method)[start:stop].tobytes()

    def _digests_in_memory(self, method: str) -> Array:
        assert not isinstance(self.rows, Source)
        if (digests := self._in_memory.get(method)) is None:
            rows, n_rows = self.rows, count_rows(self.rows)
            # Without a row there is still a part, whose digests have the shape of all others.
            starts = range(0, max(1, n_rows), _BLOCK_ROWS)
            parts = [row_digests(take_rows(rows, slice(at, at + _BLOCK_ROWS)), method=method) for at in starts]
            self._in_memory[method] = digests = np.concatenate(parts)
        return digests

    def differing(self, known: RowSet, sent: SentDigests, n_rows: int | None = None) -> RowSet:
        """Return the rows in ``known`` that do not have the digest in ``sent``, or do not exist.

        With ``n_rows``, rows from that number on differ too: the input has grown.
        """
        differing, row, digests = RowSet(), 0, sent.digests
        mask, end = known.mask(len(digests)), max((stop for _, stop in known), default=0)
        for block in self.digests(sent.method):
            stop = min(row + len(block), len(digests))
            changed = mask[row:stop] & (digests[row:stop] != block[: stop - row]).any(axis=1)
            for place in np.flatnonzero(changed).tolist():
                differing.add(row + place, row + place + 1)
            row += len(block)
            if n_rows is not None and row > n_rows:
                differing.add(n_rows, row)
            if row >= end if n_rows is None else row > n_rows:
                break
        for start, stop in known:
            differing.add(max(start, row), stop)
        return differing

    def match(self, answered: RowSet, sent: SentDigests) -> Matches:
        """Find the rows that are equal to those in ``answered``, whose digests are in ``sent``.

        Takes 64 bytes of memory a row, of this input and of the other.
        """
        digests = sent.digests
        now = np.concatenate([np.empty((0, 2), np.uint64), *self.digests(sent.method)])
        is_answered = answered.mask(len(digests))
        old = np.flatnonzero(is_answered)
        if not len(old):
            return Matches([], now)
        # Find each row's first word among the sorted ones; the comparison of both words follows below.
        old = old[np.lexsort((digests[old, 1], digests[old, 0]))]
        candidates = np.append(old, 0)[np.searchsorted(digests[old, 0], now[:, 0])]
        # Among equal rows, the one with the same number comes first: an unchanged input keeps every answer in place.
        same = np.arange(min(len(now), len(digests)))
        same = same[is_answered[same] & (digests[same] == now[same]).all(axis=1)]
        candidates[same] = same
        new = np.flatnonzero((digests[candidates] == now).all(axis=1) & is_answered[candidates])
        return Matches(sorted(_moves(candidates[new], new)), now)


def _moves(old: Array, new: Array) -> Iterator[Move]:
    """Yield the unbroken ranges of rows in which row ``old[i]`` has become row ``new[i]``."""
    if len(new):
        breaks = np.flatnonzero((np.diff(old) != 1) | (np.diff(new) != 1)) + 1
        for begin, end in pairwise([0, *breaks.tolist(), len(new)]):
            yield Move(int(old[begin]), int(old[end - 1]) + 1, int(new[begin]))


def content_of(rows: object) -> Content | None:
    """Return the content of a user's rows; None for an iterator or a stream, which can be read only once."""
    if isinstance(rows, Content):
        return rows
    source = rows if isinstance(rows, Source) else as_source(rows)
    if source is not None:
        return Content(source) if source.repeatable else None
    sized = as_rows(rows)
    return None if sized is None else Content(sized)


class DigestRecorder:
    """Keeps the digests of rows as they are sent, for their record in the journal.

    For a source, it keeps the digests of rows that are read and not yet committed.

    Args:
        content: the rows.
        done: rows that are not sent.
        method: name of the digests' method.

    Attributes:
        rows: the rows to send.
    """

    def __init__(self, content: Content, done: RowSet, method: str) -> None:
        self._content = content
        self._done = RowSet(done)
        self._method = method
        # First row of each block: its end, its digests, and how many of them are not yet taken.
        self._blocks: dict[int, tuple[int, Array, int]] = {}
        # Blocks are read on one helper thread, and their digests taken on another.
        self._lock = Lock()
        rows = content.rows
        self.rows: Source | Rows = _ObservedSource(rows, self._add) if isinstance(rows, Source) else rows

    def take(self, start: int, stop: int) -> bytes:
        """Return the digests of some rows, once."""
        if not isinstance(self.rows, Source):
            return self._content.digests_of(start, stop, self._method)
        with self._lock:
            return b"".join(self._taken(start, stop))

    def _add(self, row: int, block: Block) -> None:
        end = row + count_rows(block.rows)
        if n_left := sum(stop - start for start, stop in self._done.gaps(row, end)):
            digests = row_digests(block.rows, block.ids, self._method)
            with self._lock:
                self._blocks[row] = (end, digests, n_left)

    def _taken(self, start: int, stop: int) -> Iterator[bytes]:
        # Only the few blocks that the run's window spans are open at a time.
        for first, (end, digests, n_left) in sorted(self._blocks.items()):
            a, b = max(first, start), min(end, stop)
            if a < b:
                yield digests[a - first : b - first].tobytes()
                if n_left == b - a:
                    del self._blocks[first]
                else:
                    self._blocks[first] = (end, digests, n_left - (b - a))


class _ObservedSource(Source):
    """A source that calls ``observe`` with the first row's number and the block, for every block that is read."""

    def __init__(self, source: Source, observe: Callable[[int, Block], None]) -> None:
        self._source, self._observe = source, observe
        self.n_rows, self.uniform, self.files = source.n_rows, source.uniform, source.files

    def blocks(self) -> Iterator[Block]:
        return self.blocks_from(0)

    def blocks_from(self, row: int) -> Iterator[Block]:
        for block in self._source.blocks_from(row):
            self._observe(row, block)
            row += count_rows(block.rows)
            yield block

    def fingerprint(self) -> dict[str, Any] | None:
        return self._source.fingerprint()
