"""The chat API of OpenAI, which many servers speak: vLLM, llama.cpp, Ollama, Azure and others.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - the schema of job files resolves them
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import orjson

from fanout.codecs import _options
from fanout.codecs._chat import Messages, choice_of, error_of, fatal, is_blocked, no_text, require_whole, text_of
from fanout.codecs._options import StatusRule, sampled_by
from fanout.codecs._parsing import openai_counts, read_with_usage, small_document
from fanout.codecs._rows import DUMPS
from fanout.codecs._typed import OWN_FIELDS, Mode, typed_answers
from fanout.codecs._values import Unfit, text_array
from fanout.codecs.base import Codec
from fanout.errors import ConfigError
from fanout.types import Action, DecodedResponse, Payload, Response, Rows, TensorSpec, Values, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.errors import InvalidResponse
    from fanout.transport import Request

TEXT, FINISH_REASON = "text", "finish_reason"
"""The outputs."""

_STRING = np.dtypes.StringDType()
_REFUSED = {"messages": "the rows go there", "model": "it is an option of its own"}
# Bytes of an answer without a text. A larger one has been parsed once and is not parsed again on the event loop.
_LARGEST_REFUSAL = 2**19


class OpenAIChat(Codec):
    """A prompt, or a conversation, to the next text of the model.

    A row is a text (what the user says) or a list of messages: dicts with ``role`` and ``content``, sent as they are;
    or the columns that the templates ``prompt``, ``system`` and ``messages`` name (``"{{column}}"``, ``"{{row}}"``,
    with the filters ``| json``, ``| base64`` and ``| data_url``). One request carries one row. The outputs are ``text``
    and ``finish_reason`` (``"stop"``, ``"length"``, ...; empty where the server gives none), both texts. The statistics
    sum up the ``usage``.

    Args:
        model: name of the model, sent if given (the official API wants one).
        prompt: what the user says, a template over the row: ``"Translate into {{language}}: {{text}}"``; or a list of
            the parts of a message, such as texts and images. A row without a value fails before it is sent.
        system: a system message, put before all others; a template, too, beside ``prompt`` or ``messages``.
        messages: a conversation as a template over the row, in place of ``prompt``.
        extra: constant fields of the body, such as ``temperature`` and ``max_tokens``.
        schema: the form of the answers, whose fields become the outputs: a table of fields (``label = { type = "str",
            enum = ["good", "bad"] }``), the path of a file with a JSON Schema, or a pydantic model.
        mode: ``"json_schema"`` sends the schema as ``response_format``; for servers without that, ``"tools"`` sends it
            as a tool, ``"json_object"`` and ``"prompt"`` write it into the system message.
        validate: a function that is called with each valid answer, a dict, and raises ValueError to refuse it; in a job
            file its place, ``"checks.py:function"`` or ``"package.module:function"``.
        reasks: times that an invalid answer is asked for again, with its fault, before its row fails.
        logprobs: name of a field with an enum of texts. An output of its name with ``_logprobs`` behind it has the log
            probability of each value, in the order of the enum; NaN where the server gives none.
        usage, status_rules: see `fanout.Codec`. The ``usage`` of the response is read without a path.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "openai-chat"
    operation: ClassVar[str] = "chat"
    path = "/v1/chat/completions"
    # The API has no batch: `n` asks for several answers to one conversation, not for answers to several.
    max_rows = 1

    def __init__(
        self,
        *,
        model: str | None = None,
        prompt: str | Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
        schema: Any = None,
        mode: Mode = "json_schema",
        validate: Any = None,
        reasks: int = 1,
        logprobs: str | None = None,
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        text = TensorSpec(dtype=_STRING, shape=())
        super().__init__(usage=usage, status_rules=status_rules)
        self._spec = {TEXT: text, FINISH_REASON: text}
        self._typed = typed_answers(schema, validate, reasks, mode, logprobs)
        self.model = _options.text_or_none("model", model)
        self._fields = ({} if self.model is None else {"model": self.model}) | _checked_extra(extra)
        if self._typed is not None:
            for name in OWN_FIELDS:
                if name in self._fields and name in self._typed.fields:
                    raise ConfigError(f"extra cannot have the field {name!r}: the schema sets it", key="extra")
            self._fields |= self._typed.fields
            self._type_answers(self._typed, reasks)
            system = self._typed.with_instructions(_options.text_or_none("system", system))
        # Last, as a schema may have put its instructions before the system message.
        self._messages = Messages(prompt, system, messages)
        self.columns = self._messages.columns

    def encode(self, rows: Rows) -> Payload:
        """The only row of ``rows`` as the request's ``messages``.

        Raises:
            EncodeError: rows that are neither a text nor messages, or that are empty, missing or no JSON; or rows
                without a value for a template.
            InputError: columns or numbers without a template, or more than one row.
        """
        # Each message is serialized already, so that it is only put in its place.
        messages = orjson.Fragment(self._messages.of(rows))
        return Payload(body=orjson.dumps({**self._fields, "messages": messages}, option=DUMPS))

    def decode(self, response: Response, n_rows: int) -> DecodedResponse:
        """``text`` and ``finish_reason``, or the fields of the schema, and the usage. Raises `InvalidResponse`."""
        return read_with_usage(
            response, self._outputs, keep=True, count=lambda document: openai_counts(document, self._usage)
        )

    def reask(self, payload: Payload, response: Response, error: InvalidResponse) -> Payload:
        """The request with the invalid answer and its fault behind the messages."""
        assert self._typed is not None
        fault = str(error)
        return self._typed.reask(payload, response.json(), f"{fault[:1].upper()}{fault[1:]}")

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response | None:
        """The response of a mock server with an answer that has the form of the schema."""
        if self._typed is None:
            return None
        body = orjson.dumps(self._typed.example(self._fields.get("model", "mock")))
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)

    @property
    def sampled(self) -> str:
        """The reason why the model draws its answers at random; empty if temperature is 0."""
        return sampled_by({"messages": (), **self._fields})

    def classify(self, response: Response) -> Verdict | int | None:
        """Fail a row that is too long or blocked, or that is answered without a text; None for anything else.

        Another request for the same row would end the same, and cost again.
        """
        if (ruled := super().classify(response)) is not None:
            return ruled
        document = small_document(response, _LARGEST_REFUSAL)
        reason = self._no_answer(document) if response.status == 200 else None
        reason = reason or fatal(document, response.status)
        if reason is None:
            return None
        return Verdict(action=Action.FAIL, reason=f"HTTP {response.status}: {reason}", status=response.status)

    def _outputs(self, document: object) -> Values:
        choice, text = self._answer(document)
        if text is None:
            raise Unfit("has a choice without a text in its message")
        require_whole(document, choice, text)
        if self._typed is not None:
            return self._typed.arrays(text, choice)
        reason = choice.get("finish_reason")
        return {TEXT: text_array([text]), FINISH_REASON: text_array([reason if isinstance(reason, str) else ""])}

    def _answer(self, document: object) -> tuple[Mapping[str, Any], str | None]:
        """The choice of a response, and its text. Raises `Unfit`."""
        choice, message = choice_of(document)
        text = text_of(message.get("content"))
        return choice, text if self._typed is None else self._typed.text(message, text)

    def _no_answer(self, document: Any) -> str | None:
        """Why the row will get no answer; None if another request may bring one."""
        if self._typed is None:
            return no_text(document)
        try:
            choice, text = self._answer(document)
        except Unfit:
            return no_text(document)
        if not text or is_blocked(choice.get("finish_reason")):
            return no_text(document)
        # A cut answer is no JSON, and would be cut again at the same place.
        if choice.get("finish_reason") == "length" and not error_of(document):
            return f"the model's answer is cut off (finish_reason length), so raise the limit on its tokens: {text}"
        return None


def _checked_extra(extra: object) -> dict[str, Any]:
    fields = _options.fields("extra", extra, _REFUSED)
    # Constants that would change the form of the answer are refused here, not after the first request.
    if fields.get("stream"):
        raise ConfigError("extra cannot have stream = true: an answer is proven as a whole, not in parts", key="extra")
    if fields.get("n", 1) != 1:
        raise ConfigError(f"extra cannot have n = {fields['n']!r}: a row has one answer; send it n times", key="extra")
    return fields
