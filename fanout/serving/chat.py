"""The OpenAI shape of a chat API.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.serving.calling import call, jsonable, require_model
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer

if TYPE_CHECKING:
    from fanout.serving.models import Model


def chat(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /v1/chat/completions``: the text that the model makes of what the user said last.

    ``usage`` counts words, not tokens; ``max_tokens`` cuts the answer, which then ends with finish_reason "length".
    """
    body = request.json()
    if not isinstance(body, dict):
        raise StatusError(400, "the body must be a JSON object")
    require_model(model, _model_name(model, body))
    for field, only in (("stream", False), ("n", 1)):
        if body.get(field, only) != only:
            raise StatusError(400, f"{field} must be {only!r}: this server gives one whole answer", param=field)
    said = [_said(message) for message in _messages(body)]
    text, reason = _cut(_text(model, _prompt(body, said)), body.get("max_completion_tokens", body.get("max_tokens")))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    prompt, completion = sum(len(words.split()) for words in said), len(text.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": model.name, "choices": [choice]}
    return json_answer({**answer, "usage": usage}, rows=1)


def _model_name(model: Model, body: dict[str, Any]) -> str:
    """The model asked for; the only one there is where none is, as most servers have it."""
    name = body.get("model", model.name)
    if not isinstance(name, str):
        raise StatusError(400, f"model must be a text, not {name!r}", param="model")
    return name


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise StatusError(400, "messages must be a list with at least one message", param="messages")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise StatusError(400, "a message must be an object with a role", param="messages")
    return given


def _prompt(body: dict[str, Any], said: list[str]) -> str:
    """What the user said last."""
    for message, text in zip(reversed(body["messages"]), reversed(said), strict=True):
        if message["role"] == "user":
            return text
    raise StatusError(400, "there is no message of the user", param="messages")


def _said(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":  # it called a tool
        return ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise StatusError(400, "content must be a text, or a list of text parts", param="messages")
    return "".join(part["text"] for part in parts)


def _text(model: Model, prompt: str) -> str:
    if model.embed is None:
        takes = ", ".join(f"{tensor.name} of shape {list(tensor.shape)}" for tensor in model.inputs)
        message = f"model {model.name!r} does not chat: it takes {takes or 'other rows'}"
        raise StatusError(400, message, param="model")
    outputs = call(model, [prompt], 1)
    texts = [jsonable(column)[0] for column in outputs.values()]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise StatusError(500, f"model {model.name!r} must return one text for each text")
    return texts[0]


def _cut(text: str, max_tokens: Any) -> tuple[str, str]:
    """The first ``max_tokens`` words, and the finish_reason."""
    if max_tokens is None:
        return text, "stop"
    if type(max_tokens) is not int or max_tokens < 1:
        raise StatusError(400, f"max_tokens must be a whole number, 1 or more, not {max_tokens!r}", param="max_tokens")
    words = text.split()
    return (text, "stop") if len(words) <= max_tokens else (" ".join(words[:max_tokens]), "length")
