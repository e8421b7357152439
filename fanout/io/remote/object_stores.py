"""Objects of S3, Google Cloud Storage and Azure Blob Storage, through obstore (the extra ``cloud``)."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from fanout._escape import escaped, shortened
from fanout._redact import Redactor
from fanout._url import redact_url
from fanout.errors import ConfigError, needs_extra
from fanout.io.remote.file import RemoteFile, StoreUrl, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.addresses import Storage

_CLASSES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}

# The user names the endpoint, which may be a server inside the network without TLS. A part of an upload shares a slow
# line with others, and would never end within the default of 30 s.
_DEFAULTS = {"timeout": "300s", "allow_http": True}

# A part has at least these bytes; an object has at most 10,000 parts (S3's limit).
_PART_BYTES = 8 * 2**20
_MOST_PARTS = 9_000
_PARTS_AT_ONCE = 4

_ERROR_BODY = re.compile(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?.*", re.DOTALL)
_XML_START = re.compile(r"(<\?xml|<Error>).*", re.DOTALL)
_ANY_URL = re.compile(r"https?://[^\s<>\"']+")
_LONGEST_REASON = 400
# A bucket that does not show its listing reports a missing object as forbidden too, but without these codes.
_BAD_CREDENTIALS = re.compile(
    "InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|InvalidClientTokenId|AuthenticationFailed"
)
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound")
# Prefix of a store's variables, and the options that say which store of its kind it is.
_PLACES = {
    "s3": ("aws", ("endpoint", "endpoint_url", "endpoint_url_s3")),
    "gs": ("google", ("base_url", "storage_base_url")),
    "az": ("azure", ("account_name", "storage_account_name", "endpoint", "storage_endpoint")),
}
# Variables with which S3 clients find keys by themselves; without any, botocore looks into the profiles.
_KEYS_OF_AWS = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
# Beginning of the tag of an object without an ETag, which no request can ask for.
_MODIFIED = "modified "
# Keys of a profile may be short-lived, and are looked up again after this time.
_RENEWED_AFTER = timedelta(minutes=5)


class Bucket:
    """A bucket, or a container of Azure. All calls block.

    Args:
        scheme: ``s3``, ``gs`` or ``az``.
        name: of the bucket.
        storage: options of the stores; the environment gives the others.
        key: of the job file, for errors about the package or an option.

    Raises:
        ConfigError: obstore is missing; with the first request, an option cannot be used.
    """

    def __init__(self, scheme: str, name: str, storage: Storage, key: str) -> None:
        self._scheme, self._name = scheme, name
        self._options: Mapping[str, Any] = getattr(storage, scheme)
        self._redactor = Redactor(storage.secrets)
        try:
            import obstore
        except ImportError:
            raise needs_extra(f"{scheme}://", "cloud", key=key) from None
        self._obstore: Any = obstore

    def url_of(self, key: str) -> str:
        return str(StoreUrl(self._scheme, self._name, key))

    @property
    def identity(self) -> str:
        """A digest of the endpoint and the account, which distinguish buckets of one name."""
        prefix, names = _PLACES[self._scheme]
        places = [
            str(self._options.get(name) or self._options.get(f"{prefix}_{name}"))
            + os.environ.get(f"{prefix}_{name}".upper(), "")
            for name in names
        ]
        return blake2b("\0".join(places).encode(), digest_size=8).hexdigest()

    def version_of(self, key: str) -> Version | None:
        """Return the version that an object has now; None if there is none. Raises `OSError`."""
        try:
            with self._asking(key):
                return _version(self._obstore.head(self._store, key))
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[tuple[str, Version]]:
        """Yield the keys that begin with ``prefix``, which ends with a slash, and their versions. Raises `OSError`."""
        with self._asking(prefix):
            for objects in self._obstore.list(self._store, prefix or None):
                for one in objects:
                    yield one["path"], _version(one)

    def read(self, key: str, start: int, stop: int, version: Version) -> bytes | None:
        """Return the bytes ``start <= i < stop`` of an object; None if it has another version. Raises `OSError`."""
        try:
            with self._asking(key):
                options: dict[str, Any] = {"range": (start, stop)}
                if not version.tag.startswith(_MODIFIED):
                    options["if_match"] = version.tag
                result = self._obstore.get(self._store, key, options=options)
                # A server may ignore the condition.
                return bytes(result.bytes()) if _version(result.meta) == version else None
        except (_PreconditionFailed, FileNotFoundError):
            return None

    def put(self, key: str, pieces: Iterator[bytes], size: int) -> str:
        """Upload an object, which appears once it is whole; return its tag.

        Raises `OSError`, and any exception of ``pieces`` unchanged.
        """
        with self._asking(key):
            part = max(_PART_BYTES, -(-size // _MOST_PARTS))
            stored = self._obstore.put(
                self._store, key, pieces, use_multipart=size > part, chunk_size=part, max_concurrency=_PARTS_AT_ONCE
            )
            return str(stored["e_tag"] or stored["version"])

    def remove(self, key: str) -> None:
        """Remove an object. Raises `OSError`."""
        with self._asking(key):
            self._obstore.delete(self._store, key)

    def require_writable(self, key: str) -> None:
        """Raise `OSError` if an upload would fail as far as that can be seen without writing."""
        try:
            with self._asking(key):
                # Unlike that to a HEAD, the response to a GET has a body, which shows whether the bucket exists.
                self._obstore.get(self._store, key)
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error.strerror)):
                raise
        except PermissionError as error:
            if _BAD_CREDENTIALS.search(str(error.strerror)):
                raise

    @cached_property
    def _store(self) -> Any:
        from obstore import store as stores

        config: dict[str, Any] = {**_DEFAULTS, **self._options}
        more: dict[str, Any] = {}
        if self._scheme == "s3" and (session := self._profile()) is not None:
            more["credential_provider"] = _keys_of_profile
            region = session.get_config_variable("region")
            if region and not {"region", "aws_region"} & config.keys():
                config["region"] = region
        try:
            return getattr(stores, _CLASSES[self._scheme])(self._name, config=config, **more)
        # obstore raises errors of several kinds for a value that it cannot read.
        except Exception as error:  # noqa: BLE001
            unknown = next((name for name in self._options if f"'{name}'" in str(error)), None)
            place = f"storage.{self._scheme}" + (f".{unknown}" if unknown else "")
            raise ConfigError(self._reason(error), key=place) from None

    def _profile(self) -> Any:
        """Return botocore's session if neither the options nor the variables have keys, and a profile has."""
        own = {name.lower().removeprefix("aws_") for name in self._options}
        if own & {"access_key_id", "skip_signature"} or any(map(os.environ.get, _KEYS_OF_AWS)):
            return None
        return _session_of_profile()

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Raise the errors of obstore as `OSError`, with a text that people can read."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, self._reason(error), self.url_of(key)) from None
        except Exception as error:
            kind = type(error).__name__
            if kind == "PreconditionError":
                raise _PreconditionFailed(self._reason(error)) from None
            if kind == "PermissionDeniedError":
                raise PermissionError(errno.EACCES, self._reason(error), self.url_of(key)) from None
            if not type(error).__module__.startswith("obstore"):
                raise
            raise OSError(errno.EIO, self._reason(error), self.url_of(key)) from None

    def _reason(self, error: Exception) -> str:
        """Return the text of an error without its debug output, and without secrets."""
        text = str(error).partition("\n\nDebug source")[0]
        # The body may repeat the key and the signed text.
        body = _ERROR_BODY.search(text)
        text = _XML_START.sub("", text).rstrip(" :\n")
        if body is not None:
            text = f"{body[1]}: {body[2]}" if body[2] else body[1]
        text = _ANY_URL.sub(lambda match: redact_url(match[0]), self._redactor.hide(text))
        return escaped(shortened(" ".join(text.split()), _LONGEST_REASON))

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials are never pickled: another process takes those of its own environment.
        from fanout.addresses import Storage

        return Bucket, (self._scheme, self._name, Storage(), "input.path")


class StoredFile(RemoteFile):
    """An object as an input."""

    def __init__(self, bucket: Bucket, key: str, version: Version, below: str = "") -> None:
        super().__init__(bucket.url_of(key), key, version, below)
        self._bucket, self._key = bucket, key

    def _look_up(self) -> Version:
        raise NotImplementedError

    def _read(self, start: int, stop: int) -> bytes:
        data = self._bucket.read(self._key, start, stop, self.version)
        if data is None:
            raise self._changed()
        return data


class _PreconditionFailed(Exception):  # noqa: N818 - the caller turns it into a result
    """An object has another version than the request names."""


def _version(meta: Mapping[str, Any]) -> Version:
    # Some servers that speak S3 have no ETags.
    return Version(meta["size"], str(meta["e_tag"] or f"{_MODIFIED}{meta['last_modified'].isoformat()}"))


def _session_of_profile() -> Any:
    """Return botocore's session if it finds keys; None without botocore."""
    try:
        import botocore.session
    except ImportError:
        return None
    session = botocore.session.Session()
    return session if session.get_credentials() is not None else None


def _keys_of_profile() -> dict[str, Any]:
    session = _session_of_profile()
    keys = session.get_credentials().get_frozen_credentials()
    return {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.token,
        "expires_at": datetime.now(UTC) + _RENEWED_AFTER,
    }
