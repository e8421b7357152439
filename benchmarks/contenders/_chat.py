"""Chat requests of one prompt, and their answers, as the peers' clients have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workloads import MODEL, Array

if TYPE_CHECKING:
    from collections.abc import Iterable


def request(prompt: str) -> dict[str, Any]:
    """Return the body of a request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}


def text(document: Any) -> str:
    """Return the model's text in a response."""
    content: str = document["choices"][0]["message"]["content"]
    return content


def array(texts: Iterable[str]) -> Array:
    """Return texts as one array."""
    return np.array(list(texts), np.dtypes.StringDType())
