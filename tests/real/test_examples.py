"""The examples that need a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import ROOT, python

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]


def test_the_digits_through_triton(triton: Real, tmp_path: Path) -> None:
    done = python(ROOT / "examples" / "triton_digits.py", triton.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1797 images in 10 requests" in done.stdout
    assert re.search(r"accuracy 0\.9[5-9]\d+, float32", done.stdout)
    assert "'mean': ('float64', (1,))" in done.stdout


def test_the_nearest_sentences(embeddings: Real, tmp_path: Path) -> None:
    done = python(ROOT / "examples" / "nearest_sentences.py", embeddings.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()
    assert first == "sentences (160, 384) float32"
    assert len(table) == 10
    assert all(re.fullmatch(r"0\.\d\d  \S.+\.  +\S.+\.", line) for line in table)
