"""The transport: the only client use of aiohttp."""

from fanout.transport.bodies import ERROR_BODY_CAP
from fanout.transport.connector import Withheld
from fanout.transport.headers import HeaderSource
from fanout.transport.session import Transport

__all__ = ["ERROR_BODY_CAP", "HeaderSource", "Transport", "Withheld"]
