"""Typed answers of a chat: the fields of a request that ask for a schema, and the validation of the model's text.

The values of an enum also get log probabilities, from those of the tokens with which the model began the value.

https://platform.openai.com/docs/guides/structured-outputs
https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import orjson

from fanout._escape import shortened
from fanout._lazy import pattern
from fanout.codecs._answer_schema import AnswerSchema
from fanout.codecs._answers import unfenced
from fanout.codecs._rows import json_text
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.types import Payload, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.types import Array

Mode: TypeAlias = Literal["json_schema", "json_object", "tools", "prompt"]

REQUEST = {"logprobs": True, "top_logprobs": 20}
"""Fields of a request that ask for the most alternatives of a token which APIs give."""

MODES = ("json_schema", "json_object", "tools", "prompt")
OWN_FIELDS = ("response_format", "tools", "tool_choice", *REQUEST)
"""Fields of a request that a schema sets."""

# The fault goes back to the model, whose context it must not fill.
_LONGEST_FAULT = 500
_SCHEMA = pattern(r"\{\{\s*schema\s*(?P<text>\|\s*json\s*)?\}\}")
_INSTRUCTIONS = (
    "Answer with one JSON object and nothing else. It must be valid against this JSON Schema, with every property: "
)
_AGAIN = "{}. Answer again, with one JSON object that is valid against the schema."

_DECODER = json.JSONDecoder()


class TypedAnswers:
    """Asks for answers of a schema, and reads them. The arguments are options of `OpenAIChat`.

    Raises `ConfigError` for an option that cannot be used.
    """

    def __init__(self, schema: object, mode: str, validate: object, logprobs: object = None) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {mode!r}", key="mode")
        if validate is not None and not callable(validate):
            raise ConfigError(f"validate must be a function that takes an answer, not {validate!r}", key="validate")
        self.schema = AnswerSchema(schema)
        self._mode = mode
        self._validate: Callable[[dict[str, Any]], object] | None = validate
        self._values: list[str] = [] if logprobs is None else self._values_of(logprobs)
        self._logprobs = str(logprobs)

    @property
    def spec(self) -> dict[str, TensorSpec]:
        """Output name -> dtype and shape: the fields of the schema, and one log probability for each value."""
        more = {self._output: TensorSpec(dtype=np.dtype(np.float64), shape=(len(self._values),))}
        return self.schema.spec | (more if self._values else {})

    @property
    def keeps_nan(self) -> bool:
        """True if NaN stands in an output for null, or for a probability that the server does not give."""
        return bool(self._values) or self.schema.keeps_null

    @property
    def _output(self) -> str:
        return f"{self._logprobs}_logprobs"

    def _values_of(self, field: object) -> list[str]:
        values = self.schema.schema["properties"].get(field, {}).get("enum")
        if not values or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"logprobs must name a field with an enum of texts, not {field!r}", key="logprobs")
        if self._mode == "tools":
            raise ConfigError('logprobs are not given for tools: choose another mode than "tools"', key="logprobs")
        if f"{field}_logprobs" in self.schema.outputs:
            raise ConfigError(f"logprobs make an output {field}_logprobs, which the schema has already", key="logprobs")
        return list(values)

    @property
    def fields(self) -> dict[str, Any]:
        """Constant fields of the request."""
        return self._form | (REQUEST if self._values else {})

    @property
    def _form(self) -> dict[str, Any]:
        name, schema = self.schema.name, self.schema.schema
        if self._mode == "json_schema":
            form = {"name": name, "strict": True, "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": form}}
        if self._mode == "json_object":
            return {"response_format": {"type": "json_object"}}
        if self._mode == "tools":
            function = {"name": name, "description": "The answer.", "strict": True, "parameters": schema}
            choice = {"type": "function", "function": {"name": name}}
            return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        return {}

    def with_instructions(self, system: str | None) -> str | None:
        """The template of the system message, with the schema where the mode has no other place for it."""
        if self._mode in ("json_schema", "tools"):
            return system
        instructions = _INSTRUCTIONS + orjson.dumps(self.schema.schema).decode()
        # A constant in a template: the braces of the schema are no placeholders.
        constant = f"{{{{{orjson.dumps(instructions).decode()}}}}}"
        return constant if system is None else f"{system}\n\n{constant}"

    def text(self, message: Mapping[str, Any], content: str | None) -> str | None:
        """The text of the answer: the arguments of the tool, else the content; None if there is neither."""
        if self._mode == "tools" and (call := _tool_call(message)) is not None:
            arguments = call["function"].get("arguments")
            return arguments if isinstance(arguments, str) else json_text(arguments)
        return content

    def arrays(self, text: str, choice: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs of one row, each of shape (1, ...). Raises `Unfit` with the text for an invalid answer."""
        try:
            answer = self.schema.read(unfenced(text))
            arrays = self.schema.arrays(answer)
            if self._validate is not None:
                self._validate(answer)
        except ValueError as error:
            fault = shortened(" ".join(str(error).split()), _LONGEST_FAULT) or "refused by validate"
            raise Unfit(f"is invalid: {fault}", answer=text) from None
        if self._values:
            arrays[self._output] = of_values(choice, text, self._logprobs, self._values)[np.newaxis]
        return arrays

    def reask(self, payload: Payload, document: Any, fault: str) -> Payload:
        """The request that repeats ``payload`` with the invalid answer in ``document`` and its fault, a sentence."""
        answer = document["choices"][0]["message"]
        if self._mode == "tools" and (call := _tool_call(answer)) is not None and isinstance(call.get("id"), str):
            asked = {"role": "tool", "tool_call_id": call["id"], "content": _AGAIN.format(fault)}
            # llama-cpp-python refuses the null that it has sent itself, and a message without a content.
            given = {"role": "assistant", "content": answer.get("content") or "", "tool_calls": [call]}
        else:
            asked = {"role": "user", "content": _AGAIN.format(fault)}
            given = {"role": "assistant", "content": answer.get("content") or ""}
        more = json_text([given, asked]).encode()[1:]
        # The messages are the last field of the body, and never empty.
        return Payload(body=b"%b,%b}" % (bytes(payload.body)[:-2], more))  # type: ignore[arg-type]

    def example(self, name: str) -> dict[str, Any]:
        """The document of a mock server, with an answer that has the form of the schema."""
        text = orjson.dumps(self.schema.example()).decode()
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._mode == "tools":
            call = {"id": "call_0", "type": "function", "function": {"name": self.schema.name, "arguments": text}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage}


def typed_answers(
    schema: object, validate: object, reasks: object, mode: str = MODES[0], logprobs: object = None
) -> TypedAnswers | None:
    """Make the typed answers of a codec's options; None without a schema. Raises `ConfigError`."""
    typed = None if schema is None else TypedAnswers(schema, mode, validate, logprobs)
    if typed is None and validate is not None:
        raise ConfigError("validate checks typed answers: give their schema, too", key="validate")
    if typed is None and logprobs is not None:
        raise ConfigError("logprobs belong to a field of typed answers: give their schema, too", key="logprobs")
    if type(reasks) is not int or reasks < 0:
        raise ConfigError(f"reasks must be a whole number, 0 or more, not {reasks!r}", key="reasks")
    return typed


def request_for(typed: TypedAnswers, request: Any, parse: str | None) -> Any:
    """Return ``request`` with the schema in place of ``"{{schema}}"``, and its text in place of ``| json``.

    Raises `ConfigError` without a request, or without the path of the model's text.
    """
    if parse is None or request is None:
        raise ConfigError("schema needs a request, and the path of the model's text: parse", key="schema")
    return _with_schema(request, typed.schema.schema)


def _with_schema(request: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(request, dict):
        return {name: _with_schema(value, schema) for name, value in request.items()}
    if isinstance(request, list | tuple):
        return [_with_schema(value, schema) for value in request]
    if not isinstance(request, str) or (place := _SCHEMA.fullmatch(request)) is None:
        return request
    # A fragment is not searched for placeholders, which the words of a schema may look like.
    document = orjson.dumps(schema)
    return orjson.Fragment(orjson.dumps(document.decode()) if place["text"] else document)


def _tool_call(message: Mapping[str, Any]) -> dict[str, Any] | None:
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and len(calls) == 1 else None
    return call if isinstance(call, dict) and isinstance(call.get("function"), dict) else None


class _Token(NamedTuple):
    start: int
    """Its place in the text."""

    text: str
    alternatives: dict[str, float]
    """Texts of likely tokens at this place, itself included -> natural logarithm of the probability."""


def of_values(choice: Mapping[str, Any], text: str, field: str, values: Sequence[str]) -> Array:
    """The log probability of each of ``values``, float64 of shape (len(values),).

    A token that begins several values shares its probability among them by the tokens behind it, which the server
    gives for the chosen value alone. NaN stands for a value that is among no alternatives of the server.

    Args:
        choice: the choice of a response, with ``logprobs`` if the server gives them.
        text: its text, a JSON object.
        field: name of the field with the value.
        values: all values that the field may have.
    """
    found = np.full(len(values), nan)
    start = _start_of(text, field)
    if start is None:
        return found
    written = [json.dumps(value, ensure_ascii=False) for value in values]
    given = 0.0
    # The opening quotation mark is common to all values, so that it decides nothing.
    for token in _tokens(choice, text):
        if token.start + len(token.text) <= start + 1:
            continue
        before, lead = text[start : token.start], text[token.start : start]
        several = False
        for alternative, logprob in token.alternatives.items():
            if not alternative.startswith(lead):
                continue
            begun = before + alternative[len(lead) :]
            fits = [i for i, one in enumerate(written) if one.startswith(begun) or begun.startswith(one)]
            if len(fits) == 1:
                found[fits[0]] = np.logaddexp(np.nan_to_num(found[fits[0]], nan=-np.inf), given + logprob)
            elif fits and alternative == token.text:
                several = True
        if not several:
            break
        given += token.alternatives[token.text]
    return found


def _tokens(choice: Mapping[str, Any], text: str) -> Iterator[_Token]:
    """The tokens of ``text``; none if the server gives none, or others than those of the text."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    start = 0
    for one in content if isinstance(content, list) else ():
        chosen = _pair(one)
        if chosen is None or not text.startswith(chosen[0], start):
            return
        top = one.get("top_logprobs")
        others = [pair for other in (top if isinstance(top, list) else ()) if (pair := _pair(other)) is not None]
        yield _Token(start, chosen[0], dict([*others, chosen]))
        start += len(chosen[0])


def _pair(token: object) -> tuple[str, float] | None:
    if not isinstance(token, Mapping) or not isinstance(token.get("token"), str) or not token["token"]:
        return None
    logprob = token.get("logprob")
    return (token["token"], float(logprob)) if isinstance(logprob, int | float) else None


def _start_of(text: str, field: str) -> int | None:
    """Place of the value of ``field`` in the text of a JSON object; None if it is not found."""
    at = _skipped(text, text.find("{") + 1)
    try:
        while at < len(text):
            name, at = _DECODER.raw_decode(text, at)
            at = _skipped(text, _skipped(text, at) + 1)  # behind the colon
            if name == field:
                return at
            at = _skipped(text, _DECODER.raw_decode(text, at)[1])
            at = _skipped(text, at + 1)  # behind the comma
    except (ValueError, RecursionError):
        return None
    return None


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
