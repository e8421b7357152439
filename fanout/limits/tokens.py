"""Counts the tokens that a request takes, by a function, or estimates them from the usage in earlier answers."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.callbacks import calling
from fanout.errors import CallbackError, ConfigError
from fanout.options import did_you_mean
from fanout.rows import single_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Rows

# The first estimate, for English (https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them).
_BYTES_PER_TOKEN = 4.0

# Decay of the weight of earlier answers with each new one: about the last twenty determine the estimate.
_REMEMBERED = 0.95

# Tokens that a chat adds to its texts, as OpenAI counts:
# https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb
_PER_MESSAGE = 3
_PER_CHAT = 3


class TokenMeter:
    """Counts or estimates the tokens of a request before it is sent.

    Args:
        count: tokens of one row; without it they are estimated from the length of the body.
    """

    def __init__(self, count: Callable[[Any], float] | None = None) -> None:
        self._count = count
        self.counts = count is not None
        """False where tokens are estimated."""
        self._tokens = 1.0
        self._bytes = _BYTES_PER_TOKEN

    @property
    def per_byte(self) -> float:
        """Tokens that a byte of body is estimated to take, those of its answer included."""
        return self._tokens / self._bytes

    def of_row(self, row: Any) -> float:
        """Tokens of one row, counted. Raises `ConfigError` where the function cannot."""
        assert self._count is not None
        try:
            with calling(_KEY):
                tokens = self._count(row)
            usable = isfinite(tokens) and tokens >= 0
        except (ConfigError, CallbackError):
            raise
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
            raise ConfigError(f"count_tokens {problem}, for a row of type {type(row).__name__}", key=_KEY) from error
        if not usable:
            raise ConfigError(f"count_tokens must give a number, 0 or more, not {tokens!r}", key=_KEY)
        return tokens

    def of_request(self, rows: Rows, body_bytes: int) -> float:
        """Tokens that a request with these rows takes."""
        # Counted row by row, because the function knows no format of requests.
        return sum(map(self.of_row, single_rows(rows))) if self.counts else body_bytes * self.per_byte

    def learn(self, body_bytes: int, tokens: float) -> None:
        """A body of so many bytes took so many tokens, as its answer says."""
        self._tokens = _REMEMBERED * self._tokens + tokens
        self._bytes = _REMEMBERED * self._bytes + body_bytes


_KEY = "count_tokens"


def tiktoken_counter(encoding: str) -> Callable[[Any], int]:
    """A function that counts the tokens of a text, or of the messages of a chat.

    Blocking: tiktoken downloads the vocabulary of an encoding when it is first used on a machine.

    Raises:
        ConfigError: tiktoken is not installed, does not know ``encoding``, or cannot load it.
    """
    try:
        import tiktoken
    except ImportError:
        raise _unusable("needs tiktoken: pip install 'fanout-ml[tiktoken]'") from None
    try:
        tokens_of = tiktoken.get_encoding(encoding).encode_ordinary
    except ValueError:
        known = tiktoken.list_encoding_names()
        remedy = did_you_mean(encoding, known, 'did you mean "{}"?', f"it knows {', '.join(known)}")
        raise _unusable(f"{encoding!r} is no encoding that tiktoken knows; {remedy}") from None
    except OSError as error:  # requests raises one
        raise _unusable(
            f"tiktoken cannot load {encoding!r} ({type(error).__name__}): it downloads the vocabulary once, "
            "into the folder that TIKTOKEN_CACHE_DIR names; fill that where there is a network"
        ) from None

    def count(row: Any) -> int:
        if isinstance(row, str):
            return len(tokens_of(row))
        row = row.tolist() if isinstance(row, np.ndarray) else row
        messages = sum(isinstance(part, dict) for part in row) if isinstance(row, list | tuple) else 0
        framing = messages * _PER_MESSAGE + _PER_CHAT if messages else 0
        return framing + sum(len(tokens_of(text)) for text in _texts(row))

    return count


def _texts(value: Any) -> list[str]:
    """All texts in a row, however deep; names of fields are none."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for part in inside for text in _texts(part)]


def _unusable(reason: str) -> ConfigError:
    return ConfigError(f"tokenizer: {reason}", key="limits.tokenizer")
