"""Outputs behind URLs: local files that are uploaded once the run is complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fanout.errors import ConfigError
from fanout.files import whole_file
from fanout.io.remote.file import STAGING, parts_of, staged_path
from fanout.io.remote.object_stores import Bucket
from fanout.paths import KEY, report_paths, uploads_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.addresses import Storage

_PIECE = 2**20


class Abandoned(Exception):  # noqa: N818 - no error: the caller has ended the upload
    """An upload was ended on request."""


class Destination:
    """The place of an output in an object store. All methods block.

    Beside the local file, ``y.npy.uploads.json`` records each file that is uploaded, so that no run uploads it again.

    Args:
        url: of the output: ``s3://bucket/scores/y.npy``.
        storage: options of the store.
        folder: in which the local files are, under `STAGING`.

    Attributes:
        local: the local file of the output.
        progress: bytes that `upload` has sent so far, and those that it sends in all; None before it sends any.
    """

    def __init__(self, url: str, storage: Storage, folder: Path) -> None:
        self.url = url
        self.local = staged_path(url, folder)
        self.progress: tuple[int, int] | None = None
        self._folder = folder
        scheme, name, self._key = parts_of(url)
        self._bucket = Bucket(scheme, name, storage, KEY)

    def url_of(self, path: str | os.PathLike[str]) -> str:
        """Return the URL of a file beside the local output."""
        return self._bucket.url_of(self._key_of(Path(path).name))

    def staged(self, url: str) -> Path:
        """Return the local file that would stand for another URL, to compare their names."""
        return staged_path(url, self._folder)

    def with_urls(self, text: str) -> str:
        """Return ``text`` with URLs in place of the local files that stand for them."""
        scheme, text = parts_of(self.url).scheme, text.replace(str(self.local), self.url)
        return text.replace(f"{self._folder / STAGING / scheme}{os.sep}", f"{scheme}://")

    def require_writable(self) -> None:
        """Raise `ConfigError` if the store cannot be reached, or has no such bucket. Writes nothing."""
        try:
            self._bucket.require_writable(self._key)
        except OSError as error:
            raise ConfigError(f"{self.url} cannot be written: {error.strerror}", key=KEY) from None

    def is_uploaded(self, files: Sequence[Path]) -> bool:
        """Return True if all of these files were uploaded as they are now. Asks no server."""
        record = self._record()
        return all(record.get(path.name, {}).get("local") == _stamp(path) for path in files)

    def upload(self, files: Sequence[Path], abandoned: Callable[[], bool]) -> None:
        """Make the store hold these files of a complete output, and none of an earlier run beside them.

        Args:
            files: mask and failures first, so that a reader who sees new values can see which of them count.
            abandoned: asked before each piece whether the upload is to end.

        Raises:
            OSError: a file cannot be uploaded. Those before it need not be uploaded again.
            Abandoned: the upload was ended; the file that was under way is not in the store.
        """
        record = self._record()
        missing = [path for path in files if not self._is_in_store(path, record)]
        kept = {path.name for path in files}
        reports = [path.name for path in report_paths(self.local)]
        stale = [name for name in dict.fromkeys([*record, *reports]) if name not in kept and self._exists(name)]
        # Several objects cannot be replaced in one step, and the mask of one run must not be beside the values of
        # another. So outdated values go first, as those of local outputs do.
        if stale or len(files) > 1:
            for path in missing:
                if path.name not in reports and self._exists(path.name):
                    self._bucket.remove(self._key_of(path.name))
        for name in sorted(stale, key=reports.__contains__):
            self._bucket.remove(self._key_of(name))
        for name in [name for name in record if name not in kept]:
            del record[name]
        stamps = {path: _stamp(path) for path in missing}
        total = sum(size for size, *_ in stamps.values())
        self.progress = (0, total)
        for path, stamp in stamps.items():
            tag = self._bucket.put(self._key_of(path.name), self._pieces(path, total, abandoned), stamp[0])
            record[path.name] = {"local": stamp, "tag": tag}
            self._write(record)

    def _pieces(self, path: Path, total: int, abandoned: Callable[[], bool]) -> Iterator[bytes]:
        before = 0 if self.progress is None else self.progress[0]
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                if abandoned():
                    raise Abandoned
                yield piece
                self.progress = (before + file.tell(), total)

    def _is_in_store(self, path: Path, record: dict[str, Any]) -> bool:
        entry = record.get(path.name)
        if entry is None or entry["local"] != _stamp(path):
            return False
        try:
            version = self._bucket.version_of(self._key_of(path.name))
        # Some keys may write but not read. Then the record alone counts.
        except OSError:
            return True
        return version is not None and version.tag == entry["tag"]

    def _exists(self, name: str) -> bool:
        try:
            return self._bucket.version_of(self._key_of(name)) is not None
        except PermissionError:
            return False

    def _key_of(self, name: str) -> str:
        # A local name quotes characters that a key may have: only what follows the output's own name is taken from it.
        if name.startswith(self.local.name):
            return f"{self._key}{name.removeprefix(self.local.name)}"
        folder, slash, _ = self._key.rpartition("/")
        return f"{folder}{slash}{name}"

    def _record(self) -> dict[str, Any]:
        """Return the files that were uploaded to this store: name -> stamp and tag."""
        try:
            document = orjson.loads(uploads_path(self.local).read_bytes())
            if document["store"] == self._bucket.identity:
                return dict(document["files"])
        # Without a record, or with one that a crash has cut, all files are uploaded.
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def _write(self, record: dict[str, Any]) -> None:
        document = {"url": self.url, "store": self._bucket.identity, "files": record}
        with whole_file(uploads_path(self.local)) as file:
            file.append(orjson.dumps(document))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
