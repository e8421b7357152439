"""Compare a test run with ``expected.toml``: too few tests, or a skip that is not listed, fails the run.

A missing server, tool or extra turns tests into skips, and a wrong marker removes them. Both look like success.
``pytest --expected=NAME`` holds the run to the section ``[NAME]``.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

EXPECTED = Path(__file__).with_name("expected.toml")


class ExpectedTests:
    """A plugin that counts the tests that ran and those that were skipped.

    Args:
        section: the table of ``expected.toml`` that the run is held to.
    """

    def __init__(self, section: str) -> None:
        tables = tomllib.loads(EXPECTED.read_text("utf-8"))
        self._section = section
        self._least: int = tables[section]["tests"]
        skips = [*tables["every"]["skips"], *tables[section].get("skips", [])]
        self._skips = [re.compile(pattern) for pattern in skips]
        self._passed = 0
        self._skipped: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed += 1
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._skipped[report.nodeid.partition("[")[0], reason.removeprefix("Skipped: ")] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid, report.longrepr[2].removeprefix("Skipped: ")] += 1

    def problems(self) -> list[str]:
        """Every difference from the expected numbers."""
        differences = [
            f"skipped, but not listed: {test}: {reason}"
            for (test, reason) in self._skipped
            if not any(pattern.search(f"{test}: {reason}") for pattern in self._skips)
        ]
        if self._passed < self._least:
            differences.append(f"{self._passed} tests passed; the last time there were {self._least}")
        return differences

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == 0 and self.problems():
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"expected tests: {self._section}")
        for (test, reason), times in sorted(self._skipped.items()):
            terminalreporter.write_line(f"skipped {times}: {test}: {reason}")
        for problem in self.problems():
            terminalreporter.write_line(f"ERROR {problem} (tests/expected.toml, [{self._section}])")
