"""A recording made against the real Triton replays to the same bytes with the server gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fanout
from fanout import Client
from fanout.testing import NoNetwork, Recorder, Replayer
from tests.real.conftest import running

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

pytestmark = [pytest.mark.real, pytest.mark.timeout(300, func_only=True)]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
async def test_a_recording_of_triton_replays_to_the_same_bytes_with_the_server_gone(
    binary: bool, images: np.ndarray, tmp_path: Path
) -> None:
    codec = fanout.codec("oip", binary=binary)
    with running("triton", tmp_path / "log") as real, Recorder(tmp_path / "triton.recording") as recorder:
        url = real.infer("digits")
        async with Client(url, codec=codec, transport=recorder) as client:
            first = await client.map(images)
    async with Client(url, codec=codec) as client:
        with pytest.raises(fanout.RunStopped, match="Connection refused"):
            await client.map(images)
    replayer = Replayer(tmp_path / "triton.recording")
    with NoNetwork():
        async with Client(url, codec=codec, transport=replayer) as client:
            again = await client.map(images)
    assert (first.dtype, first.shape, first.tobytes()) == (again.dtype, again.shape, again.tobytes())
    assert (recorder.recorded > 28, replayer.remaining) == (True, 0)
