"""The end of a run into a remote output: its local files are complete, and are uploaded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.engine import Stop
from fanout.io.remote.destination import Abandoned
from fanout.threads import ended, on_thread

if TYPE_CHECKING:
    from fanout.engine import RunControl
    from fanout.io.writers.base import FileSink


async def upload(sink: FileSink, control: RunControl | None = None) -> Stop | None:
    """Upload the published files that the destination lacks. Return a stop if that fails or is ended.

    The local files stay, so that the same run uploads them when it is called again. A cancellation, or a stop by
    ``control``, ends the upload with the piece of a file that is under way.
    """
    destination = sink.destination
    if destination is None:
        return None
    uploading = _Uploading()
    if control is not None:
        control.attach(uploading)
    work = asyncio.ensure_future(on_thread(destination.upload, sink.published_files, uploading.is_stopped))
    left = f"the output is complete in {sink.path.parent}"
    try:
        # The thread cannot be cancelled, so it is asked to end, and waited for below.
        await asyncio.shield(work)
    except asyncio.CancelledError:
        uploading.stop(Stop("interrupted", "cancelled"))
        await ended(asyncio.gather(work, return_exceptions=True))
        raise
    except Abandoned:
        assert uploading.stopped is not None
        stop = uploading.stopped
        return Stop(stop.kind, f"{stop.reason}; {left}, and the same run uploads it to {destination.url}", stop.cause)
    except OSError as error:
        problem = f"{left}, and could not be uploaded to {destination.url}: {error.strerror or error}"
        return Stop("output", f"{problem}; the same run uploads it, and sends nothing again")
    return None


class _Uploading:
    """An upload, as a `RunControl` ends it."""

    def __init__(self) -> None:
        self.stopped: Stop | None = None

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        self.stopped = self.stopped or stop

    def is_stopped(self) -> bool:
        return self.stopped is not None
