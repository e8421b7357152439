"""The embeddings API of OpenAI, which many servers speak.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import orjson

from fanout.codecs import _options
from fanout.codecs._fast import AT_ONCE, LARGE, Buffers, available, exact_in, unambiguous, vectors
from fanout.codecs._parsing import refused
from fanout.codecs._rows import texts
from fanout.codecs._slices import Uncut, rows_at
from fanout.codecs._usage import counts, model_of, read_with_usage, with_usage_of
from fanout.codecs._values import Unfit, Wanted, array, is_unicode
from fanout.codecs.base import ANY_OUTPUT, Codec, DTypeOption, ShapeOption
from fanout.codecs.ordering import order_of
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.types import Array, DecodedResponse, Payload, Response, Rows, TensorSpec, Values
from fanout.weight import LIGHT

try:
    from pybase64 import b64decode as _b64decode  # of the extra `fast`
except ImportError:
    from base64 import b64decode as _b64decode  # type: ignore[assignment]

_BASE64 = np.dtype("<f4")
_SINGLE = np.dtype(np.float32)
_MOST_ITEMS = 2**31
_INDEX, _NONE = "index", -1
"""Beside the vectors of a slice: the index of each, and what stands for none."""


class OpenAIEmbeddings(Codec):
    """Texts to vectors: float32, shape (rows, width), whichever way they come.

    Args:
        model: name of the model, sent if given (the official API wants one).
        dimensions: width of the vectors, for models that can shorten them; the answer must have it.
        encoding_format: ``"base64"`` is several times faster than ``"float"``. A server that ignores it does no harm:
            the answer decides.
        dtype: of vectors that come as JSON numbers; float32 if not given, as in base64.
        shape, nonfinite: see `fanout.Codec`.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "openai-embeddings"
    takes_buffers = True
    path = "/v1/embeddings"
    max_rows = 2048

    def __init__(
        self,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: Literal["base64", "float"] = "base64",
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
    ) -> None:
        super().__init__(dtype=dtype, shape=shape, nonfinite=nonfinite)
        self._dtype = self._dtype_of("") or _SINGLE
        _check(dimensions, encoding_format, self._dtype)
        learnt = TensorSpec(dtype=self._dtype, shape=None if dimensions is None else (dimensions,))
        given = self._spec.get("", self._spec.get(ANY_OUTPUT))
        self._spec = {ANY_OUTPUT: TensorSpec(dtype=self._dtype, shape=given.shape or learnt.shape) if given else learnt}
        fields = {"model": _options.text_or_none("model", model), "dimensions": dimensions}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._fields["encoding_format"] = encoding_format
        self._floats_come = False
        """The last answer had its vectors as numbers, whatever was asked for."""
        self._buffers = Buffers() if available("simdjson") else None

    def encode(self, rows: Rows) -> Payload:
        """``rows`` as the request's ``input``: a list or 1-D array of texts.

        Raises:
            EncodeError: rows that are empty or missing, which the API refuses, or that are not Unicode.
            InputError: rows that are not texts.
        """
        if isinstance(rows, Mapping):
            raise InputError(f"embeddings are made of texts: give one column, not the columns {sorted(rows)}")
        if isinstance(rows, np.ndarray) and (rows.ndim != 1 or rows.dtype.kind not in "USTO"):
            raise InputError(f"embeddings are made of texts, not of {rows.dtype} rows of shape {list(rows.shape[1:])}")
        given = texts(rows)
        if empty := [i for i, text in enumerate(given) if not text]:
            raise EncodeError("an empty text has no embedding", rows=empty)
        try:
            return Payload(body=orjson.dumps({"input": given, **self._fields}))
        except orjson.JSONEncodeError as error:
            raise EncodeError(str(error), rows=[i for i, text in enumerate(given) if not is_unicode(text)]) from None

    def decode(self, response: Response, n_rows: int) -> DecodedResponse:
        """The vectors in the order of their ``index``, shape (n_rows, width), and usage. Raises `InvalidResponse`."""
        size = len(response.body)
        if size > LIGHT and (found := self._in_slices(response, n_rows)) is not None:
            return found
        if (
            self._floats_come
            and LARGE <= size <= AT_ONCE
            and (found := self._quickly(response.body, n_rows)) is not None
        ):
            return found
        return read_with_usage(
            response, lambda document: self._vectors(document, n_rows), keep=self.nonfinite == "keep"
        )

    def classify(self, response: Response) -> int | None:
        """Text Embeddings Inference answers 424 when its backend failed, for the rows' sake or not."""
        return 500 if response.status == 424 else None

    def _in_slices(self, response: Response, n_rows: int) -> DecodedResponse | None:
        """The vectors of a large answer; None if it has to be parsed whole."""
        keep = self.nonfinite == "keep"
        try:
            rows, rest = rows_at(response, "data", self._some, keep=keep, quick=self._quick_rows)
            assert isinstance(rows, Mapping)
            vectors, indices = rows[""], rows[_INDEX]
            if len(vectors) != n_rows:
                raise Unfit(f"has {len(vectors)} embeddings for {n_rows} texts", error_kind="rows")
            places = order_of([None if index == _NONE else index for index in indices.tolist()])
        except Uncut:
            return None
        except Unfit as error:
            raise with_usage_of(response, refused(response, error)) from None
        except InvalidResponse as error:
            raise with_usage_of(response, error) from None
        vectors = vectors if places is None else vectors[places]
        return DecodedResponse(vectors, usage=dict(counts(rest.get("usage"))), model=model_of(rest.get("model")))

    def _some(self, items: Any) -> Values:
        """Some vectors, and their places."""
        vectors, indices = _items(items)
        if not set(map(type, indices)) <= {int, type(None)} or any(
            index is not None and index < 0 for index in indices
        ):
            raise Unfit("has an index that is no whole number")
        made = self._made(vectors) if vectors else np.empty((0, 0), self._dtype)
        try:
            return {"": made, _INDEX: np.array([_NONE if index is None else index for index in indices], np.int64)}
        except OverflowError:
            raise Unfit("has an 'index' in 'data' for which there is no text") from None

    def _quick_rows(self) -> Callable[[bytes], Values | None]:
        """Reads items with numbers, for as long as all are such."""
        buffers = Buffers() if available("simdjson") else None

        def quick(text: bytes) -> Values | None:
            nonlocal buffers
            parsed = None if buffers is None else buffers.parsed(text, lambda items: vectors(text, items))
            if parsed is not None and (made := exact_in(parsed[0], self._dtype)) is not None:
                indices = parsed[1]
                if set(map(type, indices)) in ({int}, {type(None)}) and (
                    indices[0] is None or 0 <= min(indices) <= max(indices) < _MOST_ITEMS
                ):
                    places = np.full(len(made), _NONE) if indices[0] is None else np.array(indices, np.int64)
                    return {"": made, _INDEX: places}
            buffers = None
            return None

        return quick

    def _quickly(self, body: bytes, n_rows: int) -> DecodedResponse | None:
        """The vectors where they plainly are numbers; None for the exact way to find out."""

        def found(document: Any) -> tuple[Array, list[Any], Any, str | None] | None:
            made, usage = vectors(body, unambiguous(document)["data"]), document.get("usage")
            return made and (*made, usage and usage.as_dict(), model_of(document.get("model")))

        if self._buffers is None or (parsed := self._buffers.parsed(body, found)) is None:
            return None
        made, indices, usage, model = parsed
        plain = set(map(type, indices)) in ({int}, {type(None)})  # True is 1, and 1.0 is
        if not plain or indices not in (list(range(n_rows)), [None] * n_rows):
            return None
        if (made := exact_in(made, self._dtype)) is None:
            return None
        return DecodedResponse(made, usage=dict(counts(usage)), model=model)

    def _vectors(self, document: object, n_rows: int) -> Array:
        data = document.get("data") if isinstance(document, dict) else None
        if not isinstance(data, list):
            raise Unfit("has no list 'data'")
        if len(data) != n_rows:
            raise Unfit(f"has {len(data)} embeddings for {n_rows} texts", error_kind="rows")
        vectors = _in_order(data)
        self._floats_come = not isinstance(vectors[0], str)
        return self._made(vectors)

    def _made(self, vectors: list[Any]) -> Array:
        if isinstance(vectors[0], str):
            return _from_base64(vectors)
        made = array(vectors, Wanted(self._dtype, keep=self.nonfinite == "keep"))
        if made.ndim != 2 or not made.size:
            raise Unfit(f"has embeddings of shape {list(made.shape[1:])}, not one vector a text", error_kind="shape")
        return made


def _check(dimensions: object, encoding_format: object, dtype: np.dtype[Any]) -> None:
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise ConfigError(f"dimensions must be a whole number, 1 or more, not {dimensions!r}", key="dimensions")
    if encoding_format not in ("base64", "float"):
        wrong = f'encoding_format must be "base64" or "float", not {encoding_format!r}'
        raise ConfigError(wrong, key="encoding_format")
    if encoding_format == "base64" and dtype != _SINGLE:
        raise ConfigError(f'base64 carries float32; for dtype {dtype} set encoding_format to "float"', key="dtype")


def _in_order(data: list[Any]) -> list[Any]:
    """The embeddings, placed by their index; as they came where none has one."""
    vectors, indices = _items(data)
    order = order_of(indices)
    return vectors if order is None else [vectors[i] for i in order]


def _items(data: list[Any]) -> tuple[list[Any], list[Any]]:
    """The embeddings as they came, and the index of each."""
    try:
        return [item["embedding"] for item in data], [item.get("index") for item in data]
    except (TypeError, KeyError, AttributeError):
        raise Unfit("has an item without 'embedding' in 'data'") from None


def _from_base64(vectors: list[Any]) -> Array:
    """Shape (n, width), a read-only view of float32."""
    data = _joined(vectors)
    if data is None:
        data = b"".join(_each(vectors))
    size = len(data) // len(vectors)
    width, rest = divmod(size, _BASE64.itemsize)
    if rest or not width:
        raise Unfit(f"has {size} bytes, which are no float32 numbers", row=0, error_kind="shape")
    return np.frombuffer(data, _BASE64).reshape(len(vectors), width)


def _joined(vectors: list[Any]) -> bytes | None:
    """All at once, where each fills whole groups of four characters; None where they do not, or are not alike."""
    try:
        if len(set(map(len, vectors))) > 1 or len(vectors[0]) % 4:
            return None
        text = "".join(vectors)
        data = _b64decode(text, validate=True)
    except (ValueError, TypeError):  # one of them ends before its last group, or is no base64
        return None
    return data if 4 * len(data) == 3 * len(text) else None


def _each(vectors: list[Any]) -> list[bytes]:
    rows: list[bytes] = []
    for i, text in enumerate(vectors):
        try:
            rows.append(_b64decode(text, validate=True))
        except (ValueError, TypeError):
            raise Unfit("is no base64, as others are", row=i) from None
        if len(rows[i]) != len(rows[0]):
            raise Unfit(f"has {len(rows[i])} bytes where row 0 has {len(rows[0])}", row=i, error_kind="shape")
    return rows
