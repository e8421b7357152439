"""A virtual environment for each server, in a cache outside the checkout: made once, and whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = "FANOUT_SERVERS_CACHE"
_PATIENCE = 1500.0
"""Seconds: a wheel of PyTorch is large, and some networks are slow."""


class NotToBeHadError(Exception):
    """The server cannot be installed here: no network, or no wheel for this platform or Python."""


def installed(name: str) -> Path:
    """The interpreter of the server's own environment, made now if it is not there.

    The environment's folder carries a hash of the requirements and of this interpreter, so that a change of either
    makes a new one. A file beside them that is written last tells a whole one from one that was given up half-way.

    Raises:
        NotToBeHadError: pip could not install it; with pip's last word.
    """
    folder = cache() / f"{name}-{_key(HERE / name / 'requirements.txt')}"
    python, whole = folder / "bin" / "python", folder / "whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs must not make the same one at once
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(name, folder, python)
            whole.touch()
    return python


def cache() -> Path:
    """Where the environments are: ``$FANOUT_SERVERS_CACHE``, or a folder of the user's cache."""
    if given := os.environ.get(CACHE):
        return Path(given).expanduser().absolute()
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "fanout" / "servers"


def _key(requirements: Path) -> str:
    made_of = [requirements.read_text("utf-8"), sys.version, sys.base_prefix, platform.machine()]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]


def _install(name: str, folder: Path, python: Path) -> None:
    print(f"{name}: installing into {folder}", file=sys.stderr, flush=True)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--prefer-binary",
        "--disable-pip-version-check",
    ]
    environment: list[str | Path] = [sys.executable, "-m", "venv", folder]
    for command in (environment, [*pip, "-r", HERE / name / "requirements.txt"]):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            raise NotToBeHadError(f"{name} cannot be installed: pip was not done in {_PATIENCE:g} s") from None
        if done.returncode:
            raise NotToBeHadError(f"{name} cannot be installed: {_last_word(done.stderr or done.stdout)}")


def _last_word(output: str) -> str:
    lines = output.strip().splitlines() or ["no reason was given"]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines)[-1]
