"""Rows, answers and errors that several APIs have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.presets.mock_api import Refused, score, shuffled, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.presets.mock_api import Api

NUMBER = float
QUERY = "one query"


def text_of(i: int) -> str:
    """Return the text of row i, with what JSON escapes and what templates expand."""
    return f'row {i}: naïve "text" {{{{row}}}} \\ {"x" * (i % 7)}'


def pair_of(i: int) -> dict[str, Any]:
    """Return a query with documents."""
    return {"query": f"query {i}", "documents": [f"document {i}.{n}" for n in range(1 + i % 5)]}


def scores_of(row: dict[str, Any]) -> list[float]:
    """Return the scores of the documents of a row, in the order of the documents."""
    return [score(row["query"], text) for text in row["documents"]]


def openai_error(status: int, words: str) -> Any:
    return {"error": {"message": words, "type": "server_error" if status >= 500 else "requests", "code": None}}


def error_in(name: str) -> Callable[[int, str], Any]:
    """Return the maker of errors whose words are in one field."""
    return lambda status, words: {name: words}


def size_of(name: str) -> Callable[[Any], int]:
    """Return the function that counts the rows of a body, which are in one field."""
    return lambda body: len(body[name])


def of_one_query(api: Api, **more: Any) -> Api:
    """Return a reranker's API for jobs that name one query, so that each row is a document."""
    options = {**api.options, "query": QUERY}
    return replace(api, options=options, row=text_of, expected=lambda text: score(QUERY, text), **more)


def embeddings(body: Any, **more: Any) -> Any:
    """Answer as OpenAI's embeddings do. The items come in another order than their indices."""
    if not all(body["input"]):
        raise Refused(400, "input cannot be an empty string")
    encoded = body.get("encoding_format") == "base64"
    items = [
        {"object": "embedding", "index": i, "embedding": as_base64(vector(text)) if encoded else vector(text)}
        for i, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "data": shuffled(items), "model": body.get("model", "m"), "usage": usage, **more}


def as_base64(numbers: list[float]) -> str:
    import base64
    import struct

    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def ranked(texts: list[str], query: str, name: str) -> list[dict[str, Any]]:
    """Return the scores of texts as rerankers do: best first, each with the index of its text."""
    items = [{"index": i, name: score(query, text)} for i, text in enumerate(texts)]
    return sorted(items, key=lambda item: -item[name])


def chat_answer(prompt: str) -> str:
    return f"answer to {prompt}"


def label_of(text: str) -> str:
    return "Spoiled" if score("", text) < 0.5 else "Default"


TEXTS = {"row": text_of, "expected": vector}
OPENAI = {"error": openai_error}
