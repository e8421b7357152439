"""Define the groups of entries that run side by side and are compared with each other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from benchmarks.servers import Served
from benchmarks.studies.journal import lacking as journal_lacking
from benchmarks.workloads import JOB, NAMES, Workload, workload_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LENGTHS = (1_000, 10_000, 100_000)
"""Chunks per run in the study of long runs."""

FANOUT, FLOOR = "fanout", "aiohttp + orjson, bare"
RUST, BY_HAND, TENACITY = "baseten-performance-client", "gather + json", "gather + json + tenacity"
OPENAI, TRITON, HTTPX, REQUESTS = "openai", "tritonclient aio", "httpx", "requests + threads"
LITELLM, REQSTORM, BATCH_LLM, HTTPX2 = "litellm", "reqstorm", "async-batch-llm", "httpx2"
TEMPLATE = f"{FANOUT}, a template of the prompts"
INTO_FILE, WITH_JOURNAL = "into a file", "into a file, with a journal"

IMPORTS, FIRST_MAP = "import numpy, aiohttp, orjson, tenacity", "import fanout, and the first map"
_FIRST_MAP = """import sys, fanout, numpy
assert fanout.map(numpy.zeros((1, 64)), sys.argv[1], codec="v1").shape == (1, 10)"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a table."""

    name: str
    target: str = ""
    """``module:function`` that opens the contender's session; empty if ``command`` is measured."""

    command: tuple[str, ...] = ()
    """A process to measure from its start to its end; ``{origin}`` in it is the server's."""

    workload: str = ""
    requests: int = 1
    needs: tuple[str, ...] = ()
    """Modules that it needs; it is skipped without them."""

    uvloop: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    served: Served = field(default_factory=Served)
    lacking: Callable[[], str | None] = lambda: None
    """Returns another reason to skip it, or None."""

    @property
    def ours(self) -> bool:
        """True if fanout runs the workload."""
        return any("fanout" in word or "studies" in word for word in (self.target, *self.command))

    def unavailable(self) -> str | None:
        """Return the reason that it cannot run here, or None."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            extra = "bench,ray" if "ray" in missing else "bench"
            return f"{' and '.join(missing)} not installed (pip install -e '.[{extra}]')"
        return self.lacking()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Entries that run side by side; the others are compared with the first."""

    name: str
    title: str
    unit: str
    entries: tuple[Entry, ...]

    @property
    def base(self) -> str:
        """Name of the entry that the ratios refer to."""
        return self.entries[0].name


def groups(*, lengths: Sequence[int] = LENGTHS, scale: float = 1.0) -> list[Group]:
    """Return all groups in the order of the report.

    Args:
        lengths: chunks per run in the group "chunks".
        scale: factor on the requests of each other timed part; at least one remains.
    """
    scaled = [*map(_work, NAMES), _whole_job(), _failures(), _journal(), _single_rows()]
    every = [replace(group, entries=tuple(_scaled(entry, scale) for entry in group.entries)) for group in scaled]
    return [*every, _chunks(lengths), _start_up()]


def _scaled(entry: Entry, scale: float) -> Entry:
    return replace(entry, requests=max(1, round(entry.requests * scale)))


def _work(name: str) -> Group:
    workload = workload_named(name)
    return Group(name=name, title=workload.title, unit="request", entries=tuple(_contenders(workload)))


def _contenders(workload: Workload) -> list[Entry]:
    """Return the entries of a workload, the floor first."""
    floor, ours = _module("floor"), _module("fanout_client")
    by_hand, peers = _module("handwritten"), _PEERS[workload.name]
    entries = [
        Entry(name=FLOOR, target=floor),
        Entry(name=FANOUT, target=ours),
    ]
    if workload.name == "W1":
        entries += [
            Entry(name=f"{FLOOR}, uvloop", target=floor, needs=("uvloop",), uvloop=True),
            Entry(name=f"{FANOUT}, uvloop", target=ours, needs=("uvloop",), uvloop=True),
        ]
    if workload.wire == "chat":
        entries.append(Entry(name=TEMPLATE, target=ours, options={"template": True}))
    if BY_HAND in peers:
        entries.append(Entry(name=BY_HAND, target=by_hand))
    if TENACITY in peers:
        entries.append(Entry(name=TENACITY, target=by_hand, options={"tenacity": True}))
    entries += [
        Entry(name=peer, target=_module(module), needs=needs, options=_OPTIONS.get(peer, {}))
        for peer, (module, needs) in _CLIENTS.items()
        if peer in peers
    ]
    return [replace(entry, workload=workload.name, requests=workload.requests) for entry in entries]


_CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    RUST: ("rust_client", ("baseten_performance_client",)),
    OPENAI: ("openai_sdk", ("openai",)),
    TRITON: ("triton_client", ("tritonclient", "geventhttpclient")),  # tritonclient imports the latter in any case
    HTTPX: ("httpx_client", ("httpx",)),
    HTTPX2: ("httpx_client", ("httpx2",)),
    LITELLM: ("litellm_client", ("litellm",)),
    REQSTORM: ("reqstorm_client", ("reqstorm",)),
    BATCH_LLM: ("async_batch_llm_client", ("async_batch_llm", "openai")),
    REQUESTS: ("requests_threads", ("requests",)),
}
_OPTIONS: dict[str, Mapping[str, Any]] = {HTTPX2: {"package": "httpx2"}}
_PEERS: dict[str, Sequence[str]] = {
    "W1": (BY_HAND, TENACITY, RUST, HTTPX, REQUESTS),
    "W2": (BY_HAND, TENACITY, OPENAI),
    "W2f": (RUST,),
    "W3": (BY_HAND, RUST),
    "W4": (TRITON,),
    "W5": (BY_HAND, TENACITY, OPENAI, HTTPX2, LITELLM, REQSTORM, BATCH_LLM),
    "W6": (BY_HAND, TENACITY, RUST),
}


def fault_targets() -> dict[str, str]:
    """Return the clients of the study of faults: name -> module and function, with options."""
    by_hand = _module("handwritten")
    return {
        FLOOR: _module("floor"),
        FANOUT: _module("fanout_client"),
        BY_HAND: by_hand,
        TENACITY: f'{by_hand}?{{"tenacity": true}}',
        OPENAI: _module("openai_sdk"),
        RUST: _module("rust_client"),
    }


def fault_entries() -> dict[str, str | None]:
    """Return the same clients: name -> the reason that it cannot run here, or None."""
    return {
        name: Entry(name=name, needs=_CLIENTS[name][1] if name in _CLIENTS else ()).unavailable()
        for name in fault_targets()
    }


def cluster_targets() -> dict[str, str]:
    """Return the runs on two workers of the study of faults: name -> module and function, with options."""
    module = "benchmarks.contenders.on_clusters"
    return {
        f"{FANOUT} --on ray": f'{module}:fanout_on?{{"engine": "ray"}}',
        "Ray Data, HTTP processor": f"{module}:ray_processor",
        f"{FANOUT} --on dask": f'{module}:fanout_on?{{"engine": "dask"}}',
        "Dask, aiohttp": f"{module}:dask_aiohttp",
        "Dask, aiohttp + tenacity": f'{module}:dask_aiohttp?{{"tenacity": true}}',
    }


def cluster_entries() -> dict[str, str | None]:
    """Return the same runs: name -> the reason that it cannot run here, or None."""
    return {
        name: Entry(name=name, needs=("ray",) if "ray" in name.lower() else ("distributed",)).unavailable()
        for name in cluster_targets()
    }


def _module(name: str) -> str:
    return f"benchmarks.contenders.{name}:opened"


def _study(name: str) -> str:
    return f"benchmarks.studies.{name}"


def _chunks(lengths: Sequence[int]) -> Group:
    def entries(face: str, target: str) -> list[Entry]:
        return [Entry(name=f"{face}, {n:,} chunks", target=target, workload="W1", requests=n) for n in lengths]

    both = entries("map", _module("fanout_client")) + entries("stream", _study("chunks:streamed"))
    return Group(name="chunks", title="the length of a run, chunks of one row (W1)", unit="chunk", entries=tuple(both))


def _failures() -> Group:
    entries = [
        Entry(
            name=f"{share:.0%} of the answers are a 503", target=_study("failures:opened"), workload="W1",
            requests=10_000, served=Served(fail_share=share, own=True),
        )
        for share in (0.0, 0.01, 0.1)
    ]  # fmt: skip
    return Group(name="failures", title="answers that fail (W1)", unit="attempt", entries=tuple(entries))


def _journal() -> Group:
    workload = workload_named("W2")
    entries = [
        Entry(
            name=name, target=_study("journal:opened"), workload=workload.name, requests=2 * workload.requests,
            options={"journal": on}, lacking=journal_lacking,
        )
        for name, on in {INTO_FILE: False, WITH_JOURNAL: True}.items()
    ]  # fmt: skip
    title = "a journal beside the output file, chunks of 64 rows (W2)"
    return Group(name="journal", title=title, unit="chunk", entries=tuple(entries))


def _whole_job() -> Group:
    workload = workload_named(JOB)
    ours, by_hand = "benchmarks.contenders.whole_job:opened", "benchmarks.contenders.whole_job:by_hand"
    entries = [
        Entry(name=BY_HAND, target=by_hand, needs=("pyarrow",)),
        Entry(name=FANOUT, target=ours, needs=("pyarrow",)),
        Entry(name="daft", target=_module("daft_job"), needs=("pyarrow", "daft", "openai")),
        Entry(name="ray data, one row a request", target=_module("ray_job"), needs=("pyarrow", "ray")),
    ]
    placed = [
        replace(entry, workload=JOB, requests=workload.requests, served=Served(vectors=True)) for entry in entries
    ]
    title = f"{workload.title}; the CPU of Ray's own processes is not counted"
    return Group(name=JOB, title=title, unit="chunk", entries=tuple(placed))


def _single_rows() -> Group:
    counted, predicted = Served(by_rows=True, own=True), _study("single_rows:predicted")
    entries = (
        Entry(name="predict, one request a row", target=predicted, options={"chunk_rows": 1}, served=counted),
        Entry(name="predict, at most 64 rows share one", target=predicted, options={"chunk_rows": 64}, served=counted),
        Entry(name="map, one request a row", target=_module("fanout_client"), served=counted),
    )
    rows = tuple(replace(entry, workload="W1", requests=4000) for entry in entries)
    return Group(name="predict", title="rows that come one by one, 256 callers (W1)", unit="row", entries=rows)


def _start_up() -> Group:
    entries = (
        Entry(name="python -c pass", command=("python", "-c", "pass")),
        Entry(name="import fanout", command=("python", "-c", "import fanout")),
        Entry(name=IMPORTS, command=("python", "-c", "import numpy, aiohttp, orjson, tenacity")),
        Entry(name=FIRST_MAP, command=("python", "-c", _FIRST_MAP, f"{{origin}}{workload_named('W1').url_path}")),
        Entry(name="fanout --version", command=("fanout", "--version")),
        Entry(name="fanout --help", command=("fanout", "--help")),
    )
    return Group(name="startup", title="start-up of a process", unit="start", entries=entries)
