"""A run that would write over its own input, its journal or its recording is refused before the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanout import Client, ConfigError, Journal, open_sink, open_source
from fanout.testing import MockEndpoint
from tests.client.scene import double
from tests.support import Plain

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_time
NAMES = pytest.mark.parametrize("name", ["y.npy", "y.npy.partial", "y.npy.ok.npy", "y.npy.scores.npy"])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@NAMES
@pytest.mark.parametrize("kind", ["source", "memory map", "mapping of maps"])
async def test_the_input_is_never_written_over(tmp_path: Path, name: str, kind: str) -> None:
    array = np.arange(12.0).reshape(4, 3)
    with (tmp_path / name).open("wb") as file:
        np.save(file, array)
    mapped = np.memmap(tmp_path / name, "<f8", "r", offset=128, shape=(4, 3))
    rows = {
        "source": lambda: open_source(tmp_path / name, format="npy"),
        "memory map": lambda: mapped,
        "mapping of maps": lambda: {"a": mapped},
    }[kind]()
    before = (tmp_path / name).read_bytes()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            with pytest.raises(ConfigError, match=rf"would overwrite the input .*{name}") as caught:
                await client.run(rows, open_sink(tmp_path / "y.npy"))
        assert not mock.requests
    assert caught.value.key == "output.path"
    assert content(tmp_path) == {name: before}


@NAMES
@pytest.mark.parametrize("opened", [False, True])
async def test_the_journal_is_never_written_over(tmp_path: Path, name: str, opened: bool) -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            sink = open_sink(tmp_path / "y.npy")
            journal = Journal(tmp_path / name, {"rows": "mine"}) if opened else tmp_path / name
            with pytest.raises(ConfigError, match="would overwrite the journal"):
                await client.run(np.ones((4, 3)), sink, journal=journal)
            if isinstance(journal, Journal):
                journal.close()
        assert not mock.requests


@pytest.mark.parametrize("name", ["y.npy.journal", "y.journal", "elsewhere/y.npy"])
async def test_a_journal_of_another_name_may_be_anywhere_else(tmp_path: Path, name: str) -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            await client.run(np.ones((4, 3)), open_sink(tmp_path / "y.npy"), journal=tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "y.npy"), np.full((4, 3), 2.0))
