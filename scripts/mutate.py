"""Break the code in one place at a time, and print each mutant that no test notices.

``python scripts/mutate.py`` tries a sample of the code that decides what is sent, merged and written. A mutant stays in
the sample as long as its text and ``--seed`` stay, whatever changes around it. ``python scripts/mutate.py FILE`` tries
all mutants of a file, and ``FILE:LINE`` those of one line.

The tests run in a copy of the tree, one mutant at a time. scripts/survivors.toml lists the known survivors: those that
change no behaviour (``equivalent``) and those for which a test is wanted (``open``). The exit status is 1 if another
one survives, or if one that is listed does not.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SURVIVORS = ROOT / "scripts/survivors.toml"

_ENGINE = (
    "tests/engine/test_run.py tests/engine/test_retries_and_new_chunks.py tests/engine/test_control_requests.py"
    " tests/engine/test_endings.py tests/engine/test_accounting.py tests/engine/test_reasons.py"
    " tests/engine/test_refusals.py tests/engine/test_overload.py tests/engine/test_sharing.py"
    " tests/engine/test_typed_answers.py tests/engine/test_decoding.py tests/engine/test_hedging.py"
    " tests/engine/test_auto.py tests/client/test_predict.py tests/upstream/test_several_endpoints.py"
    " tests/faults/test_matrix_answers.py tests/faults/test_matrix_refusals.py tests/simulator/test_troubles.py"
)
TESTS = {  # modules, and the tests that follow those of the mirrored path; the first pattern counts
    "fanout/limits/shared_redis.py": "-m slow tests/limits/test_shared_redis.py",  # with a server; marked slow
    "fanout/limits/*.py": (
        "tests/limits tests/upstream tests/engine/test_auto.py tests/engine/test_rates.py tests/engine/test_packing.py"
        " tests/engine/test_chunker.py tests/client/test_spending.py tests/simulator/test_controllers.py"
    ),
    "fanout/classify/*.py": (
        "tests/classify tests/upstream/test_reporting.py tests/engine/test_server_text.py tests/engine/test_refusals.py"
        " tests/faults/test_matrix_refusals.py tests/faults/test_matrix_vendors.py"
    ),
    "fanout/engine/validator.py": _ENGINE,
    "fanout/engine/scheduler.py": _ENGINE,
    "fanout/engine/recovery.py": _ENGINE,
    "fanout/engine/bisection.py": _ENGINE,
    "fanout/engine/bisection_budget.py": _ENGINE,
    "fanout/engine/blame.py": _ENGINE,
    "fanout/engine/task_queue.py": _ENGINE,
    "fanout/io/journal/*.py": (
        "tests/io/journal tests/client/test_golden_journal.py tests/client/test_journalled.py"
        " tests/client/test_own_files.py tests/client/test_other_input.py tests/job/test_run.py"
        " tests/job/test_polling.py tests/durability/test_journal_damage.py tests/durability/test_failing_disk.py"
        " tests/client/test_spending.py tests/cli/test_failures.py"
    ),
    "fanout/io/writers/*.py": (
        "tests/io/writers tests/client/test_golden_journal.py tests/client/test_own_files.py"
        " tests/client/test_journalled.py tests/job/test_kept.py tests/job/test_typed_answers.py"
    ),
}

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip
_EXTREMES = {"min": "max", "max": "min", "any": "all", "all": "any"}

_MEMORY = 6 << 30  # bytes: a mutant may allocate without end
_FILE = 1 << 30


class Mutant(NamedTuple):
    """One change of one place. All but the line and the offsets identify it in scripts/survivors.toml."""

    file: str
    function: str
    before: str
    after: str
    nth: int
    """Number of equal changes before it in the function."""
    line: int
    start: int
    stop: int
    """Offsets of the text in bytes."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self[:5]

    def __str__(self) -> str:
        line = (ROOT / self.file).read_text("utf-8").splitlines()[self.line - 1]
        return f"{self.file}:{self.line} {self.function}\n      {line.strip()}\n    - {self.before}\n    + {self.after}"


class _Places(ast.NodeVisitor):
    """Collects (function, node, replacement) of all mutants of a module.

    Annotations, decorators, assertions, log calls, reprs and the texts of messages are left out.
    """

    def __init__(self) -> None:
        self.places: list[tuple[str, ast.expr | ast.stmt, str]] = []
        self._names: list[str] = []

    def _add(self, node: ast.expr | ast.stmt, replacement: ast.AST | str) -> None:
        text = replacement if isinstance(replacement, str) else ast.unparse(ast.fix_missing_locations(replacement))
        if not isinstance(replacement, str) and isinstance(replacement, ast.expr):
            text = f"({text})" if not isinstance(replacement, ast.Constant) else text
        self.places.append((".".join(self._names), node, text))

    def _inside(self, name: str, nodes: list[ast.stmt]) -> None:
        self._names.append(name)
        for node in nodes:
            self.visit(node)
        self._names.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._inside(node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast looks for

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and not ast.unparse(call.func).startswith(("log.", "_log.")):
            self._add(node, "pass")
            self.visit(call)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not isinstance(node.targets[0], ast.Name | ast.Tuple) and self._names[-1:] != ["__init__"]:
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if operator := _ARITHMETIC.get(type(node.op)):
            self._add(node, ast.AugAssign(node.target, operator(), node.value))
        self._add(node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(node.value, "None")
            self.visit(node.value)
        elif node.value is not None and isinstance(node.value.value, bool | int | float):
            self.visit(node.value)

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node.test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
            self._add(node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    visit_While = visit_If  # noqa: N815
    visit_IfExp = visit_If  # noqa: N815

    def visit_Compare(self, node: ast.Compare) -> None:
        for i, operator in enumerate(node.ops):
            ops = [*node.ops[:i], _COMPARISONS[type(operator)](), *node.ops[i + 1 :]]
            self._add(node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._add(node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (isinstance(side, ast.JoinedStr) or ast.unparse(side)[:1] in "'\"" for side in (node.left, node.right))
        if (operator := _ARITHMETIC.get(type(node.op))) and not any(texts):
            self._add(node, ast.BinOp(node.left, operator(), node.right))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _EXTREMES:
            self._add(node, ast.Call(ast.Name(_EXTREMES[node.func.id]), node.args, node.keywords))
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of `zip`: an assertion
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, ast.Constant(not node.value))
        elif isinstance(node.value, int):
            # One more line in a block of thousands changes nothing; one more than a status does.
            self._add(node, ast.Constant(node.value + 1 if node.value < 1000 else node.value * 2))
        elif isinstance(node.value, float):
            self._add(node, ast.Constant(node.value * 2 or 1.0))


def mutants(file: str, source: bytes) -> Iterator[Mutant]:
    """All mutants of a module."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    visitor = _Places()
    visitor.visit(ast.parse(source))
    numbers: Counter[tuple[str, str, str, str]] = Counter()
    for function, node, after in visitor.places:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        key = (file, function, " ".join(source[start:stop].decode().split()), after)
        yield Mutant(*key, numbers[key], node.lineno, start, stop)
        numbers[key] += 1


def sample(candidates: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """Draw mutants by their own texts, so that a change of one function leaves those of the others in the sample."""
    drawn = sorted(candidates, key=lambda m: hashlib.sha256(repr((seed, m.key)).encode()).digest())[:size]
    return sorted(drawn, key=lambda m: (m.file, m.start))


def tests_of(file: str) -> list[str]:
    """The tests that a mutant of the module has to pass: those of the mirrored path first, since they fail soonest."""
    path = Path(file)
    mirrored = Path("tests", *path.parts[1:-1], f"test_{path.name}")
    others = next(tests.split() for pattern, tests in TESTS.items() if path.match(pattern))
    return [str(mirrored), *others] if (ROOT / mirrored).exists() else others


class Copy:
    """A copy of the working tree in which mutants are tried."""

    def __init__(self, folder: Path) -> None:
        self._tree, self._temporary = folder / "tree", folder / "tmp"
        self._changes = 0
        self._seconds: dict[str, float] = {}
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (self._tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self._tree / name)

    def outcome(self, mutant: Mutant) -> str:
        """``killed``, ``timed out`` or ``survived``."""
        limit = 60 + 3 * self._unchanged(mutant.file)
        source = (self._tree / mutant.file).read_bytes()
        self._write(mutant.file, source[: mutant.start] + mutant.after.encode() + source[mutant.stop :])
        try:
            return self._test(tests_of(mutant.file), limit)
        finally:
            self._write(mutant.file, source)

    def _unchanged(self, file: str) -> float:
        """Seconds that the tests of a module take without a change. Ends the program if they fail."""
        tests = tests_of(file)
        others = " ".join(tests[-2:])  # the same for all modules of a folder
        if others not in self._seconds:
            started = time.monotonic()
            if self._test(tests, None) != "survived":
                sys.exit(f"the tests of {file} fail without a mutant: python -m pytest {' '.join(tests)}")
            self._seconds[others] = time.monotonic() - started
        return self._seconds[others]

    def _write(self, file: str, source: bytes) -> None:
        """Replace a module, with a time of change of its own: compiled modules are known by it, in whole seconds."""
        self._changes += 1
        (self._tree / file).write_bytes(source)
        seconds = 1_000_000_000 + self._changes
        os.utime(self._tree / file, (seconds, seconds))

    def _test(self, tests: list[str], limit: float | None) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        process = subprocess.Popen(
            [*command, "--timeout=40", f"--basetemp={self._temporary / 'pytest'}", *tests],
            cwd=self._tree,
            env={**os.environ, "PYTHONPATH": str(self._tree), "TMPDIR": str(self._temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_restrict,  # noqa: PLW1509 - this program has no threads
        )
        try:
            return "killed" if process.wait(limit) else "survived"
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the servers that the tests started
            process.wait()


def _restrict() -> None:
    os.nice(int(os.environ.get("MUTNICE", "10")))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))


def _chosen(places: list[str], size: int, seed: int) -> list[Mutant]:
    if not places:
        files = sorted({str(f.relative_to(ROOT)) for pattern in TESTS for f in ROOT.glob(pattern)})
        return sample([m for file in files for m in mutants(file, (ROOT / file).read_bytes())], size, seed)
    split = [place.partition(":") for place in places]
    return [
        m for file, _, line in split for m in mutants(file, (ROOT / file).read_bytes()) if line in ("", str(m.line))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", metavar="FILE[:LINE]", help="instead of a sample")
    parser.add_argument("--sample", type=int, default=400, metavar="N", help="number of mutants (400)")
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--list", action="store_true", help="print the mutants, and try none")
    options = parser.parse_args()
    chosen = _chosen(options.places, options.sample, options.seed)
    if options.list:
        print(*chosen, sep="\n")
        return 0
    listed = {
        (m["file"], m["function"], m["before"], m["after"], m.get("nth", 0)): kind
        for kind, entries in tomllib.loads(SURVIVORS.read_text("utf-8")).items()
        for m in entries
    }
    outcomes: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        for number, mutant in enumerate(chosen, 1):
            outcome = copy.outcome(mutant)
            known = listed.get(mutant.key)
            outcomes[known if known and outcome == "survived" else outcome] += 1
            if (outcome == "survived") != (known is not None):
                wrong += 1
                print(
                    f"{number}/{len(chosen)} {outcome}{f', but listed as {known}' if known else ''}: {mutant}",
                    flush=True,
                )
    print(f"{len(chosen)} mutants:", ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
