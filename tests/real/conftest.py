"""Real servers, each started once for all tests, and the answers of their own clients."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).absolute().parents[2]
SERVERS = ROOT / "scripts" / "servers"
SKIPPED = 77
PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Real:
    """A server that takes requests."""

    url: str
    python: str
    """The interpreter of its own environment."""

    def infer(self, model: str) -> str:
        """Return the URL of a model of the Open Inference Protocol."""
        return f"{self.url}/v2/models/{model}/infer"

    def ask_peer(self, program: str, *arguments: str, **arrays: Any) -> Mapping[str, np.ndarray]:
        """Return the output of a program in ``peers/`` for some arrays; it runs without fanout, beside the server."""
        with tempfile.TemporaryDirectory() as folder:
            given, written = Path(folder, "given.npz"), Path(folder, "made.npz")
            np.savez(given, **arrays)
            command = [self.python, PEERS / program, given, written, self.url, *arguments]
            # PyTorch's threads wait for each other by spinning: on a busy machine, for minutes.
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            with np.load(written) as archive:
                return dict(archive)


@contextmanager
def running(name: str, log: Path) -> Iterator[Real]:
    """A server for as long as the context lasts; the test is skipped where it cannot be installed."""
    command = [sys.executable, str(SERVERS), name]
    installed = subprocess.run([*command, "--install"], capture_output=True, text=True)
    if installed.returncode == SKIPPED:
        pytest.skip(installed.stderr.strip().splitlines()[-1])
    assert installed.returncode == 0, installed.stderr
    with (
        log.open("w") as stderr,
        # It ends when its stdin closes, also where these tests are killed.
        subprocess.Popen(
            [*command, "--stdin-guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"{name} did not start:\n{log.read_text('utf-8')[-3000:]}"
        yield Real(url, installed.stdout.strip())
        process.stdin.close()
        assert process.wait(60) == 0


def _server(name: str) -> Any:
    @pytest.fixture(scope="session", name=name)
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
        with running(name, tmp_path_factory.mktemp(name) / "log") as real:
            yield real

    return server


triton, mlserver, embeddings, mlflow, litellm = map(_server, ("triton", "mlserver", "embeddings", "mlflow", "litellm"))


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """1,797 handwritten digits of 64 pixels from 0 to 1."""
    with np.load(ROOT / "examples" / "digits.npz") as archive:
        return archive["images"]


def python(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python program that finds this fanout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=50)
