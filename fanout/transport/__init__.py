"""The transport: the only client use of aiohttp."""

from fanout.transport.bodies import ERROR_BODY_CAP, decoded, looks_like_json
from fanout.transport.connector import NoDescriptor, RowsSent, SendAborted
from fanout.transport.headers import HeaderSource, credentials_refused
from fanout.transport.session import Transport
from fanout.transport.taped import TapedTransport

__all__ = [
    "ERROR_BODY_CAP",
    "HeaderSource",
    "NoDescriptor",
    "RowsSent",
    "SendAborted",
    "TapedTransport",
    "Transport",
    "credentials_refused",
    "decoded",
    "looks_like_json",
]
