"""The fixtures of `tests.stores`."""

from tests.stores import s3, s3_server

__all__ = ["s3", "s3_server"]
