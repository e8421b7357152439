"""Mistakes of users: one clear message, from the library and from ``fanout run``, that quotes the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import fanout
from tests.real.conftest import python

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]
JOB = """
input = {{ path = "rows.npy" }}
endpoint = {{ url = "{url}" }}
codec = {{ name = "oip" }}
output = {{ path = "y.npy" }}
"""


def mistaken(url: str, rows: np.ndarray, folder: Path) -> str:
    """Return the library's message; the command prints the same on one line, exits with 2 and writes nothing."""
    with fanout.SyncClient(url, codec="oip") as client:
        with pytest.raises(fanout.ConfigError) as caught:
            client.map(rows)
        assert client.statistics().ok == 0
        assert client.statistics().requests <= 3, "metadata alone"
    np.save(folder / "rows.npy", rows)
    (folder / "job.toml").write_text(JOB.format(url=url), "utf-8")
    done = python("-m", "fanout", "run", "job.toml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(caught.value) in done.stderr
    assert not (folder / "y.npy").exists()
    return str(caught.value)


def test_a_mistyped_model_of_triton(triton: Real, images: np.ndarray, tmp_path: Path) -> None:
    message = mistaken(triton.infer("digit"), images, tmp_path)
    assert "HTTP 404" in message
    assert "Request for unknown model: 'digit' is not found" in message
    assert "mistyped" in message


def test_a_mistyped_model_of_mlserver(mlserver: Real, images: np.ndarray, tmp_path: Path) -> None:
    message = mistaken(mlserver.infer("digit"), images, tmp_path)
    assert "HTTP 404" in message
    assert "Model digit not found" in message


@pytest.mark.parametrize("server", ["triton", "mlserver"])
def test_a_wrong_width(server: str, images: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    real: Real = request.getfixturevalue(server)
    message = mistaken(real.infer("digits"), images[:, :63], tmp_path)
    assert "input 'features' of the model wants FP32 rows of shape [64]" in message
    assert "rows of shape [63]" in message


@pytest.mark.parametrize("server", ["triton", "mlserver"])
def test_a_wrong_dtype(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    real: Real = request.getfixturevalue(server)
    message = mistaken(real.infer("digits"), np.array(["a", "b"]), tmp_path)
    assert "input 'features' of the model wants FP32 rows of shape [64], but was given texts" in message


class Blind(fanout.codecs.Oip):
    """Requests no metadata, so that only the server can report the mistake."""

    def metadata_requests(self, url: str, responses: Sequence[fanout.Response] = ()) -> Sequence[str]:
        return ()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:, :63], r"HTTP 400: .*unexpected shape for input 'features'.*Expected \[-1,64\]"),
        (lambda rows: rows.astype("f8"), r"HTTP 400: .*data-type is 'FP64'.* expects 'FP32'"),
    ],
)
def test_without_metadata_the_servers_own_word_is_quoted_after_few_requests(
    triton: Real, images: np.ndarray, spoil: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    with fanout.SyncClient(triton.infer("digits"), codec=Blind(input="features")) as client:
        with pytest.raises(fanout.RunStopped, match=message) as caught:
            client.map(spoil(images))
        assert client.statistics().requests < 45
    assert caught.value.kind == "rejected"


def test_rows_that_are_no_texts_are_not_sent_for_embedding(embeddings: Real) -> None:
    """infinity answers 422 to token ids."""
    with fanout.SyncClient(embeddings.url, codec="openai-embeddings") as client:
        with pytest.raises(fanout.InputError, match="made of texts"):
            client.map(np.arange(6).reshape(2, 3))
        assert client.statistics().requests == 0
