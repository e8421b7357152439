"""Check that pyarrow is installed and new enough, when a job is read and not when its first answer has come."""

from __future__ import annotations

OLDEST = 18
"""The oldest major version that reads and writes all that this package hands to it."""


def missing_pyarrow() -> str | None:
    """Why pyarrow cannot be used, with the remedy; None if it can."""
    try:
        import pyarrow as pa
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" (the installed one cannot be imported: {error})"
        return f"pyarrow{reason}: pip install 'fanout-ml[arrow]'"
    version = str(pa.__version__)
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST:
        return f"pyarrow {OLDEST} or later, and {version} is installed: pip install --upgrade 'fanout-ml[arrow]'"
    return None
