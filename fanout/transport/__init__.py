"""The transports, which send requests to endpoints. No other part of the client uses aiohttp."""

from fanout.transport.base import (
    Cooldown,
    CredentialsDue,
    NoDescriptor,
    Request,
    RowsSent,
    SendAborted,
    Transport,
    TransportWrapper,
)
from fanout.transport.bodies import ERROR_BODY_CAP, decoded, looks_like_json
from fanout.transport.endpoint import EndpointClient
from fanout.transport.headers import CallHeaders, HeaderSource, credentials_refused

__all__ = [
    "ERROR_BODY_CAP",
    "CallHeaders",
    "Cooldown",
    "CredentialsDue",
    "EndpointClient",
    "HeaderSource",
    "NoDescriptor",
    "Request",
    "RowsSent",
    "SendAborted",
    "Transport",
    "TransportWrapper",
    "credentials_refused",
    "decoded",
    "looks_like_json",
]
