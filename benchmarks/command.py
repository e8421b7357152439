"""Parse the command line, run the groups and write the report."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import charts, report
from benchmarks.groups import LENGTHS, Group, groups
from benchmarks.machine import Cores, cores, described, packages
from benchmarks.rounds import Measured, measure, servers
from benchmarks.servers import NotStarted, has_nginx

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUICK_SCALE, _QUICK_ROUNDS, _ROUNDS = 0.2, 3, 5
_LONG = 1_000_000

_DESCRIPTION = """\
Compare fanout with its peers and with the least that aiohttp costs, side by side in one run.

Each contender runs each workload in its own process, in turn (A B C A B C ...), on one core, while the server has
another. The main figure is the CPU time per request, as a ratio to the bare floor, because it is steadier than elapsed
time. A contender with wrong answers has no figures.
"""

_EPILOG = """\
examples:
  python -m benchmarks --quick                       a first look, two or three minutes; read its figures with care
  python -m benchmarks                               all of it
  python -m benchmarks --only W1,W4 --rounds 9       two workloads, better medians
  python -m benchmarks --only W1 --entries fanout,aiohttp
  python -m benchmarks --only chunks --long          up to a million chunks: a quarter of an hour a round

Peers come with the extra: pip install -e '.[bench]'. A peer that is not installed is skipped, and the report says so.
The server is nginx (apt-get install nginx-light) if it is installed, else the project's own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Returns:
        0: success; 1: a contender failed or gave wrong answers; 2: the arguments are wrong, or no server
        starts; 130: interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        chosen = _chosen(options)
        nginx = _wants_nginx(options.server)
    except ValueError as error:
        parser.error(str(error))
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    where = cores()
    circumstances = _circumstances(where, nginx=nginx, rounds=rounds)
    try:
        with servers(nginx=nginx, core=where.server) as running:
            every = measure(chosen, rounds, running, where, _log)
    except NotStarted as error:
        _log(f"{error}; --server {'own does without nginx' if nginx else 'nginx is another one'}")
        return 2
    except KeyboardInterrupt:
        _log("interrupted: nothing is written")
        return 130
    _write(circumstances, every, options.out)
    return 1 if any(one.failed for one in every) else 0


def _parser() -> argparse.ArgumentParser:
    names = [f"{group.name} ({group.title})" for group in groups()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=_DESCRIPTION, epilog=f"{_EPILOG}\ngroups:\n  " + "\n  ".join(names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", metavar="W1,W2", help="groups to run, of those below")
    parser.add_argument("--entries", metavar="A,B", help="of these, only lines whose name begins so (and the first)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests, three rounds")
    parser.add_argument("--long", action="store_true", help="with the run of 1,000,000 chunks")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds of each group (default {_ROUNDS})")
    parser.add_argument("--server", choices=["auto", "nginx", "own"], default="auto", help="the server of the answers")
    parser.add_argument(
        "--out", type=Path, default=Path("out/benchmarks"), metavar="FOLDER",
        help="folder for latest.md, latest.json and the pictures (default %(default)s)",
    )  # fmt: skip
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def _chosen(options: argparse.Namespace) -> list[Group]:
    lengths = [*LENGTHS[: 2 if options.quick else None], *([_LONG] if options.long else [])]
    every = groups(lengths=lengths, scale=_QUICK_SCALE if options.quick else 1.0)
    if options.only:
        wanted, known = options.only.split(","), [group.name for group in every]
        if unknown := sorted(set(wanted) - set(known)):
            raise ValueError(f"--only: there is no group {', '.join(unknown)}; there are {', '.join(known)}")
        every = [group for group in every if group.name in wanted]
    if options.entries:
        starts = options.entries.split(",")
        names = [entry.name for group in every for entry in group.entries]
        if unknown := [start for start in starts if not any(name.startswith(start) for name in names)]:
            raise ValueError(f"--entries: no line begins with {', '.join(unknown)}; there are {', '.join(names)}")
        every = [_narrowed(group, tuple(starts)) for group in every]
    return every


def _narrowed(group: Group, starts: tuple[str, ...]) -> Group:
    kept = [entry for entry in group.entries if entry.name == group.base or entry.name.startswith(starts)]
    return replace(group, entries=tuple(kept))


def _wants_nginx(choice: str) -> bool:
    if choice == "nginx" and not has_nginx():
        raise ValueError("--server nginx: it is not installed (Debian: apt-get install nginx-light)")
    return choice != "own" and has_nginx()


def _circumstances(where: Cores, *, nginx: bool, rounds: int) -> report.Circumstances:
    return report.Circumstances(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=described(),
        packages=packages(),
        server="nginx" if nginx else "the project's own static server",
        pinned=where.client is not None,
        rounds=rounds,
    )


def _write(circumstances: report.Circumstances, every: Sequence[Measured], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = report.as_markdown(circumstances, every)
    files = {
        "latest.md": text,
        "latest.json": json.dumps(report.as_json(circumstances, every), indent=1) + "\n",
        **charts.pictures(every),
    }
    for name, content in files.items():
        (folder / name).write_text(content, "utf-8")
    print(text)
    _log(f"written to {folder}: {', '.join(files)}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
