"""fanout: send a lot of data through a remote machine-learning API and get one correct numpy array back.

::

    import fanout

    y = fanout.map(X, "http://host:8000/v2/models/digits/infer", codec="oip")
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fanout._lazy import lazy
from fanout._version import __version__

if sys.platform == "win32":  # files are locked, written and synced with POSIX calls
    raise ImportError("fanout runs on Linux and macOS; on Windows, install it in WSL (Windows Subsystem for Linux)")

if TYPE_CHECKING:
    from fanout.addresses import Endpoint, Storage
    from fanout.auth import (
        ApiKeyAuth,
        Auth,
        AzureAuth,
        BasicAuth,
        BearerAuth,
        CommandAuth,
        Credentials,
        GoogleAuth,
        OAuth2Auth,
        SigV4Auth,
        StaticAuth,
    )
    from fanout.client import Client, Preview, Sink, Stream
    from fanout.client.sync import SyncClient, map  # noqa: A004 - the verb of the field; it is not meant for star imports
    from fanout.codecs import codec
    from fanout.codecs.base import Codec
    from fanout.engine import RunControl
    from fanout.errors import (
        CallbackError,
        ClientStateError,
        ConfigError,
        CredentialsError,
        EncodeError,
        FanoutError,
        InputError,
        Interrupted,
        InvalidResponse,
        QueueFull,
        RowsFailed,
        RunStopped,
        TransportError,
        UnknownOptionError,
    )
    from fanout.io.journal.journal import Journal
    from fanout.io.readers.base import Source
    from fanout.io.readers.opening import open_source
    from fanout.io.writers.base import FileSink
    from fanout.io.writers.opening import open_sink
    from fanout.limits import RateLimiter
    from fanout.limits.shared import LimitsBackend
    from fanout.presets import Preset, preset
    from fanout.prices import Prices
    from fanout.results import ChunkResult, EndpointStatistics, Event, Failure, Result, Statistics
    from fanout.settings import Cache, Hedge, Limits, RetryPolicy, Timeouts
    from fanout.telemetry import OpenTelemetry, Prometheus, Telemetry
    from fanout.types import (
        Action,
        Answers,
        Array,
        Chunk,
        DecodedResponse,
        ModelInfo,
        Payload,
        Response,
        Rows,
        Tensor,
        TensorSpec,
        Verdict,
    )

# Module -> public names: importing aiohttp, numpy and the rest takes half a second.
_HOMES = {
    "fanout.auth": (
        "ApiKeyAuth", "Auth", "AzureAuth", "BasicAuth", "BearerAuth", "CommandAuth", "Credentials", "GoogleAuth",
        "OAuth2Auth", "SigV4Auth", "StaticAuth",
    ),
    "fanout.client": ("Client", "Preview", "Sink", "Stream"),
    "fanout.codecs": ("codec",),
    "fanout.codecs.base": ("Codec",),
    "fanout.engine": ("RunControl",),
    "fanout.errors": (
        "CallbackError", "ClientStateError", "ConfigError", "CredentialsError", "EncodeError", "FanoutError",
        "InputError", "Interrupted", "InvalidResponse", "QueueFull", "RowsFailed", "RunStopped", "TransportError",
        "UnknownOptionError",
    ),
    "fanout.io.journal.journal": ("Journal",),
    "fanout.limits": ("RateLimiter",),
    "fanout.limits.shared": ("LimitsBackend",),
    "fanout.presets": ("Preset", "preset"),
    "fanout.addresses": ("Endpoint", "Storage"),
    "fanout.prices": ("Prices",),
    "fanout.settings": ("Cache", "Hedge", "Limits", "RetryPolicy", "Timeouts"),
    "fanout.io.writers.base": ("FileSink",),
    "fanout.io.writers.opening": ("open_sink",),
    "fanout.io.readers.base": ("Source",),
    "fanout.io.readers.opening": ("open_source",),
    "fanout.client.sync": ("SyncClient", "map"),
    "fanout.telemetry": ("OpenTelemetry", "Prometheus", "Telemetry"),
    "fanout.results": ("ChunkResult", "EndpointStatistics", "Event", "Failure", "Result", "Statistics"),
    "fanout.types": (
        "Action", "Answers", "Array", "Chunk", "DecodedResponse", "ModelInfo", "Payload", "Response", "Rows", "Tensor",
        "TensorSpec", "Verdict",
    ),
}  # fmt: skip
__all__ = [
    "Action", "Answers", "ApiKeyAuth", "Array", "Auth", "AzureAuth", "BasicAuth", "BearerAuth", "Cache",
    "CallbackError", "Chunk", "ChunkResult", "Client", "ClientStateError", "Codec", "CommandAuth", "ConfigError",
    "Credentials", "CredentialsError", "DecodedResponse", "EncodeError", "Endpoint", "EndpointStatistics", "Event",
    "Failure", "FanoutError", "FileSink", "GoogleAuth", "Hedge", "InputError", "Interrupted", "InvalidResponse",
    "Journal", "Limits", "LimitsBackend", "ModelInfo", "OAuth2Auth", "OpenTelemetry", "Payload", "Preset", "Preview",
    "Prices", "Prometheus", "QueueFull", "RateLimiter", "Response", "Result", "RetryPolicy", "Rows", "RowsFailed",
    "RunControl", "RunStopped", "SigV4Auth", "Sink", "Source", "StaticAuth", "Statistics", "Storage", "Stream",
    "SyncClient", "Telemetry", "Tensor", "TensorSpec", "Timeouts", "TransportError", "UnknownOptionError", "Verdict",
    "__version__", "codec", "map", "open_sink", "open_source", "preset",
]  # fmt: skip


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
