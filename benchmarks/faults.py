"""Compare how clients come through faults: ``python -m benchmarks.faults``.

One table: rows per second, and the rows that are lost or wrong, against a server that gives 5 % of the requests a
fault. A client that raises loses all rows of its run, whatever it has had by then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

import fanout
from benchmarks.contenders.fanout_client import client_of
from benchmarks.groups import FANOUT, cluster_entries, cluster_targets, fault_entries, fault_targets
from benchmarks.place import ROOT, environment
from benchmarks.servers.vectors import FAULTS, running
from benchmarks.workloads import Workload, workload_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.workloads import Array

_REQUESTS, _SHARE = 400, 0.05
_SHORT = fanout.RetryPolicy(initial_backoff=0.05)
_DESCRIPTION = f"""\
Send the same rows with each client to a server that gives a share of the requests a fault: {", ".join(FAULTS)}.

Each client runs in a process of its own, one after the other. A peer that is not installed is left out. With
--clusters, they are jobs on two workers of Ray and of Dask; the time to start these is not counted.
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The rows of one client's run.

    Attributes:
        rows: all rows.
        lost: rows without an answer.
        wrong: rows with an answer that is not theirs.
        seconds: of the run.
        error: the exception with which it ended; empty without one.
    """

    rows: int
    lost: int
    wrong: int
    seconds: float
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if fanout has lost rows or given wrong ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=_DESCRIPTION)
    parser.add_argument("--requests", type=int, default=_REQUESTS, help=f"requests of each run ({_REQUESTS})")
    parser.add_argument("--share", type=float, default=_SHARE, help=f"share of them with a fault ({_SHARE})")
    parser.add_argument("--clusters", action="store_true", help="compare jobs on two workers of Ray and Dask")
    options = parser.parse_args(arguments)
    outcomes: dict[str, Outcome] = {}
    entries = cluster_entries() if options.clusters else fault_entries()
    for name, reason in entries.items():
        if reason is not None:
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            continue
        # Each client meets the same faults at the same requests, as long as it sends no more of them.
        with running(options.share) as origin:
            outcomes[name] = _in_a_process(name, origin, options.requests)
    print(table(outcomes, options.share))
    return int(any(one.lost + one.wrong > 0 for name, one in outcomes.items() if name.startswith(FANOUT)))


def table(outcomes: dict[str, Outcome], share: float) -> str:
    """Return the table in Markdown."""
    head = [f"| at {share:.0%} faults | rows/s | lost | wrong | |", "|---|---:|---:|---:|---|"]
    rows = [
        f"| {name} | {(one.rows - one.lost - one.wrong) / one.seconds:,.0f} | {one.lost:,} of {one.rows:,} "
        f"| {one.wrong:,} | {one.error} |"
        for name, one in outcomes.items()
    ]
    return "\n".join([*head, *rows])


async def outcome(name: str, module: str, origin: str, requests: int) -> Outcome:
    """Send the rows with one client."""
    workload = workload_named("J1")
    rows = workload.rows(requests)
    began = time.perf_counter()
    try:
        values, ok, seconds = await (_fanout if name == FANOUT else _other)(workload, module, origin, rows)
    except Exception as error:  # noqa: BLE001 - whatever a client raises ends its run
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:80].replace("|", "/")
        return Outcome(rows=len(rows), lost=len(rows), wrong=0, seconds=time.perf_counter() - began, error=reason)
    if len(values) != len(rows):
        return Outcome(rows=len(rows), lost=len(rows), wrong=0, seconds=seconds, error=f"{len(values):,} answers")
    assert workload.right is not None
    is_right = (values == workload.right(len(rows))).all(axis=1)
    return Outcome(
        rows=len(rows), lost=int((~ok).sum()), wrong=int((ok & ~is_right).sum()), seconds=seconds,
    )  # fmt: skip


async def _fanout(workload: Workload, module: str, origin: str, rows: Any) -> tuple[Array, Array, float]:
    async with client_of(workload, origin, retry=_SHORT) as client:
        began = time.perf_counter()
        result = await client.map(rows, on_error="keep")
    return result.values, result.ok, time.perf_counter() - began


async def _other(workload: Workload, module: str, origin: str, rows: Any) -> tuple[Array, Array, float]:
    name, _, options = module.partition("?")
    opener = getattr(import_module(name.partition(":")[0]), name.partition(":")[2])
    async with opener(workload, origin, **json.loads(options or "{}")) as session:
        began = time.perf_counter()
        values: Any = await session.send(rows)
        seconds = time.perf_counter() - began
    values, ok = values if isinstance(values, tuple) else (values, np.ones(len(values), bool))
    return values, ok, seconds


def _in_a_process(name: str, origin: str, requests: int) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.faults", "--child", name, origin, str(requests)]
    # A client may crash as its process ends, after its outcome.
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"{name} ended with the exit code {done.returncode}, without an outcome")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _child(name: str, origin: str, requests: str) -> None:
    target = {**fault_targets(), **cluster_targets()}[name]
    print(json.dumps(asdict(asyncio.run(outcome(name, target, origin, int(requests))))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
