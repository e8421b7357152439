"""Shared parts of the model server's tests: one exchange with the pure handlers, and the packaged digits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from fanout.serving.models import Model, load_model
from fanout.serving.protocol import ServerRequest, ServerResponse, answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Array


@dataclass
class Peer:
    """A client of one model, with nothing in between."""

    model: Model

    def send(
        self, method: str, path: str, body: object = b"", headers: Mapping[str, str] | None = None
    ) -> ServerResponse:
        """One exchange; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return answer(self.model, ServerRequest(method=method, path=path, headers=headers or {}, body=raw))

    def post(self, path: str, body: object) -> Any:
        """The parsed JSON of an answer that must be a success."""
        done = self.send("POST", path, body)
        assert done.status == 200, done.body
        return orjson.loads(done.body)

    def get(self, path: str) -> Any:
        """The parsed JSON of an answer that must be a success."""
        done = self.send("GET", path)
        assert done.status == 200, done.body
        return orjson.loads(done.body)

    def error(self, path: str, body: object, status: int = 400, headers: Mapping[str, str] | None = None) -> Any:
        """The ``error`` of an answer that must have this status."""
        done = self.send("POST", path, body, headers)
        assert done.status == status, done.body
        assert done.rows == 0
        return orjson.loads(done.body)["error"]


@dataclass
class Recorder:
    """A model function that keeps its arguments."""

    result: Any = None
    calls: list[Any] = field(default_factory=list)

    def __call__(self, rows: Any) -> Any:
        """The result, called with the rows if it is callable; the rows themselves if there is none."""
        self.calls.append(rows)
        if callable(self.result):
            return self.result(rows)
        return rows if self.result is None else self.result


def serving(function: Any, **known: Any) -> Peer:
    """A peer of a user's function, named ``m``."""
    return Peer(Model(name="m", function=function, embed=function, **known))


@pytest.fixture(scope="session")
def digits() -> Peer:
    """A peer of the packaged classifier."""
    return Peer(load_model("digits"))


@pytest.fixture(scope="session")
def echo() -> Peer:
    """A peer of the model that returns its input."""
    return Peer(load_model("echo"))


@pytest.fixture(scope="session")
def examples() -> tuple[Array, Array]:
    """Images, shape (1797, 64), float32, and labels, shape (1797,), int64."""
    with np.load(Path(__file__).parents[2] / "examples" / "digits.npz") as archive:
        return archive["images"], archive["labels"]
