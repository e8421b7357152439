"""A virtual environment for each server, in a cache outside the checkout: created once, and complete or absent."""

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

# Seconds. A wheel of PyTorch is large, and some networks are slow.
_TIMEOUT = 1500.0


class InstallationError(Exception):
    """The server cannot be installed here: no network, or no wheel for this platform or Python."""


def installed(name: str) -> Path:
    """Return the interpreter of the server's own environment, which is created if it is missing.

    The environment's folder has a hash of the requirements and of this interpreter in its name, so that a change of
    either creates a new one. A file that is written last marks an environment as complete.

    Raises:
        InstallationError: pip could not install it; the text has pip's last error.
    """
    folder = cache() / f"{name}-{_key(HERE / name / 'requirements.txt')}"
    python, whole = folder / "bin" / "python", folder / "whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        # Two test runs must not create the same environment at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(name, folder, python)
            whole.touch()
    return python


def cache() -> Path:
    """Return the folder of the environments: ``$FANOUT_SERVERS_CACHE``, or a folder of the user's cache."""
    if folder := os.environ.get(CACHE):
        return Path(folder).expanduser().absolute()
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "fanout" / "servers"


def _key(requirements: Path) -> str:
    parts = [requirements.read_text("utf-8"), sys.version, sys.base_prefix, platform.machine()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


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
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise InstallationError(f"{name} cannot be installed: pip took longer than {_TIMEOUT:g} s") from None
        if done.returncode:
            raise InstallationError(f"{name} cannot be installed: {_last_error(done.stderr or done.stdout)}")


def _last_error(output: str) -> str:
    lines = output.strip().splitlines() or ["no reason was given"]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines)[-1]
