"""Starts runs that are to be killed, each in a fork of a process that has everything imported.

Reads a line of JSON for each from stdin, and prints its process id, then how it ended (as `os.waitpid` returns it).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from time import sleep
from typing import Any

from tests.durability.work import Kind, send


def _await_tracer() -> None:
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        sleep(0.001)


def _become(order: dict[str, Any]) -> None:
    if order["traced"]:
        _await_tracer()
    asyncio.run(send(Path(order["folder"]), Kind(**order["kind"]), order["url"], run=order["run"]))


def main() -> None:
    url = sys.argv[1]
    for suffix in (".npy", ".parquet", ".jsonl"):  # whatever is imported late is imported now
        for keep in {False, suffix != ".npy"}:
            with tempfile.TemporaryDirectory() as outer:
                (folder := Path(outer, "run")).mkdir()
                asyncio.run(send(folder, Kind(suffix=suffix, refused="7", keep=keep), url, run="warm"))
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                _become({"url": url, **json.loads(line)})
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
