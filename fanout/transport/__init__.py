"""The transports: what sends a request to an endpoint. The only use of aiohttp by the client."""

from fanout.transport.base import NoDescriptor, Request, RowsSent, SendAborted, Transport, TransportWrapper
from fanout.transport.bodies import ERROR_BODY_CAP, decoded, looks_like_json
from fanout.transport.endpoint import EndpointClient
from fanout.transport.headers import HeaderSource, credentials_refused

__all__ = [
    "ERROR_BODY_CAP",
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
