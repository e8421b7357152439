"""One server for all tests of this folder, and one nursery for those that kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.durability import processes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def model() -> Iterator[processes.Model]:
    with processes.model() as server:
        yield server


@pytest.fixture(scope="session")
def nursery(model: processes.Model) -> Iterator[processes.Nursery]:
    with processes.nursery(model) as started:
        yield started
