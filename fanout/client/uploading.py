"""The end of a run into a remote output: its local files are complete, and are uploaded."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import TYPE_CHECKING

from fanout.engine import Stop
from fanout.io.remote.destination import Abandoned
from fanout.threads import ended, on_thread

if TYPE_CHECKING:
    from fanout.io.writers import FileSink


async def upload(sink: FileSink) -> Stop | None:
    """Upload what the sink has published and its destination lacks. Return a stop if that fails.

    The local files stay, so that the same run uploads them when it is called again. A cancellation ends the upload
    within the piece of a file that is under way.
    """
    destination = sink.destination
    if destination is None:
        return None
    abandoned = Event()
    uploading = asyncio.ensure_future(on_thread(destination.upload, sink.published_files, abandoned.is_set))
    try:
        await asyncio.shield(uploading)
    except asyncio.CancelledError:
        abandoned.set()
        with_errors = asyncio.gather(uploading, return_exceptions=True)
        await ended(with_errors)
        raise
    except Abandoned:
        raise asyncio.CancelledError from None
    except OSError as error:
        where = f"the output is complete in {sink.path.parent}, and could not be uploaded to {destination.url}"
        return Stop("output", f"{where}: {error.strerror or error}; the same run uploads it, and sends nothing again")
    return None
