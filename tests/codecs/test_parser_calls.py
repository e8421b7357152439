"""No parser gets more than 1 MiB at once, whichever part of an answer is large.

A parser holds the interpreter lock until it returns, so the size of its text bounds the delay of the event loop, on
the loop and on a helper thread. The size is the same on every machine, unlike a duration.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest

from fanout import InvalidResponse, Response, codec
from fanout.classify import classify_invalid, classify_response, hidden_status
from tests.codecs.decode_large import HONEST, HOSTILE, body_of

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 2**20
SIZE = AT_ONCE * 5 // 4

NAMES = b",".join(b'"name%07d":1' % i for i in range(SIZE // 16))
OBJECTS = b",".join([b'{"a":[1,{}]}'] * (SIZE // 13))
TEXT = b'"%b"' % (rb"\u00e9\\" * (SIZE // 8))
PARTS = {"names": b"{%b}" % NAMES, "objects": b"[%b]" % OBJECTS, "a text": TEXT}
ANSWERS: dict[str, tuple[str, bytes]] = {
    "beside rows": ("json", b'{"predictions":[1,2],"usage":%b}'),
    "before rows": ("json", b'{"usage":%b,"predictions":[1,2]}'),
    "in a row": ("json", b'{"predictions":[{"a":%b},{"a":1}]}'),
    "in a list of lists": ("json", b'{"predictions":[[%b],[1]]}'),
    "with NaN": ("json", b'{"usage":%b,"predictions":[NaN,2]}'),
    "with long integers": ("json", b'{"usage":%b,"predictions":[123456789012345678901234567890,2]}'),
    "in two objects": ("v1", b'{"a":{"b":%b},"predictions":[1,2]}'),
    "a usage": ("openai-embeddings", b'{"data":[{"embedding":[1.0]},{"embedding":[2.0]}],"usage":%b}'),
    "a usage of a chat": ("openai-chat", b'{"choices":[{"message":{"content":"x"}}],"usage":%b}'),
    "a message": ("openai-chat", b'{"choices":[{"message":{"content":%b}}]}'),
    "log probabilities": ("openai-chat", b'{"choices":[{"message":{"content":"x"},"logprobs":%b}]}'),
    "a parameter": ("oip", b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1,2],"parameters":%b}]}'),
    "an error": ("json", b'{"error":%b}'),
}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each call of a parser."""
    calls: list[int] = []

    def counted(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_and_count(text: bytes | str, *args: Any, **options: Any) -> Any:
            calls.append(len(text))
            return parse(text, *args, **options)

        return parse_and_count

    class CountedDecoder:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.decode = counted(decoder(*args, **options).decode)

    decoder = msgspec.json.Decoder
    monkeypatch.setattr(orjson, "loads", counted(orjson.loads))
    monkeypatch.setattr(json, "loads", counted(json.loads))
    monkeypatch.setattr(msgspec.json, "Decoder", CountedDecoder)
    monkeypatch.setattr("fanout.exact_json._decoder", lambda: counted(decoder().decode))
    try:
        import simdjson
    except ImportError:
        return calls

    class CountedParser:
        def __init__(self) -> None:
            self.parse = counted(parser().parse)

    parser = simdjson.Parser
    monkeypatch.setattr(simdjson, "Parser", CountedParser)
    return calls


def read_in_every_way(name: str, body: bytes, n_rows: int) -> None:
    """Decode an answer, and classify it as an invalid answer and as an error of every status."""
    result = codec(name, input="x") if name == "oip" else codec(name)
    answer = Response(status=200, headers={}, body=body, url="http://h/x")
    try:
        result.decode(answer, n_rows)
    except InvalidResponse as error:
        classify_invalid(answer, error)
    hidden_status(answer)
    for status in (200, 400, 413, 424, 429, 500):
        refusal = Response(status=status, headers={}, body=body, url="http://h/x")
        result.classify(refusal)
        if status != 200:
            classify_response(refusal)
    with suppress(InvalidResponse):
        answer.json()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("place", ANSWERS)
def test_a_large_part_of_an_answer_is_parsed_in_slices(place: str, part: str, sizes: list[int]) -> None:
    name, template = ANSWERS[place]
    read_in_every_way(name, template % PARTS[part], 2)
    assert max(sizes, default=0) <= AT_ONCE  # an answer that would take too much memory is refused unparsed


@pytest.mark.parametrize(
    ("place", "n_names"),
    [
        ("beside rows", 1_000_000),
        ("before rows", 200_000),
        ("in two objects", 200_000),
        ("a usage", 200_000),
        ("a usage of a chat", 200_000),
        ("log probabilities", 200_000),
    ],
)
def test_an_answer_with_very_many_names_beside_its_values_is_accepted(
    place: str, n_names: int, sizes: list[int]
) -> None:
    name, template = ANSWERS[place]
    names = b"{%b}" % b",".join(b'"name%07d":1' % i for i in range(n_names))
    answer = Response(status=200, headers={}, body=template % names, url="http://h/x")
    codec(name).decode(answer, 2)
    assert len(sizes) > len(answer.body) // AT_ONCE
    assert max(sizes) <= AT_ONCE


@pytest.mark.parametrize("shape", HONEST | HOSTILE)
def test_a_large_answer_is_parsed_in_slices(shape: str, sizes: list[int]) -> None:
    name, *parts = (HONEST | HOSTILE)[shape]
    body, n_rows = body_of(SIZE, *parts)
    read_in_every_way(name, bytes(body), n_rows)
    assert max(sizes, default=0) <= AT_ONCE  # an answer that would take too much memory is refused unparsed
