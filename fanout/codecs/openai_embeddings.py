"""The embeddings API of OpenAI, which many servers speak.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import orjson

from fanout._escape import is_unicode
from fanout.codecs import _options, _vectors
from fanout.codecs._numbers import AT_ONCE, LARGE, SimdjsonReader, exact_below, require_unique_names, vectors
from fanout.codecs._options import ANY_OUTPUT, DTypeOption, ShapeOption, StatusRule, spec_for
from fanout.codecs._parsing import counts, invalid, model_name, openai_counts, read_with_usage, with_usage_of
from fanout.codecs._paths import order_of
from fanout.codecs._rows import texts
from fanout.codecs._slices import Uncut, rows_at
from fanout.codecs._values import Unfit, Wanted, array
from fanout.codecs.base import Codec
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.exact_json import LIGHT
from fanout.rows import within
from fanout.types import Array, DecodedResponse, Payload, Response, Rows, TensorSpec, Values, Verdict

_SINGLE = np.dtype(np.float32)
# An index beyond this is none: the API takes 2,048 texts at once.
_MOST_ITEMS = 2**31
# Fields by which the codec reads the answer: as constants of the user's they would contradict its options.
_OPTIONS = ("model", "dimensions", "encoding_format", "embed_dtype", "endianness")
_REFUSED = {"input": "the rows go there", **dict.fromkeys(_OPTIONS, "it is an option of its own")}
# Name of the indices of a slice, beside its vectors, and the number for an item without an index.
_INDEX, _NONE = "index", -1


class OpenAIEmbeddings(Codec):
    """Texts to vectors: float32, shape (rows, width), from base64, raw bytes and JSON numbers.

    Args:
        model: name of the model, sent if given (the official API wants one).
        dimensions: width of the vectors, for models that can shorten them; the answer must have it.
        encoding_format: ``"base64"`` is several times faster than ``"float"``, and vLLM's ``"bytes"`` is faster still.
            A server that ignores it does no harm: the answer decides.
        embed_dtype: of vectors as ``"bytes"``, which are half as large in ``"float16"`` or ``"bfloat16"`` (the array
            is then float16 or float32).
        extra: constant fields of the body, such as ``input_type``.
        max_rows: most texts in one request, where the API has a smaller bound than 2,048.
        dtype: of vectors that come as JSON numbers; float32 if not given, as in base64.
        shape, nonfinite, usage, status_rules: see `fanout.Codec`. The ``usage`` of the response is read without a path.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "openai-embeddings"
    operation: ClassVar[str] = "embeddings"
    takes_buffers = True
    path = "/v1/embeddings"
    max_rows: int = 2048

    def __init__(
        self,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: Literal["base64", "float", "bytes"] = "base64",
        embed_dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        extra: Mapping[str, Any] | None = None,
        max_rows: int | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        super().__init__(dtype=dtype, shape=shape, nonfinite=nonfinite, usage=usage, status_rules=status_rules)
        given = spec_for(self._spec, "")
        self._dtype = given.dtype or np.dtype(np.float16 if embed_dtype == "float16" else np.float32)
        _check(dimensions, encoding_format, embed_dtype, self._dtype)
        shape = given.shape or (None if dimensions is None else (dimensions,))
        # The embeddings are the only output, so that every name means them.
        self._spec = {ANY_OUTPUT: TensorSpec(dtype=self._dtype, shape=shape)}
        self.model = _options.text_or_none("model", model)
        fields = {"model": self.model, "dimensions": dimensions}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._fields["encoding_format"] = encoding_format
        if encoding_format == "bytes":
            self._fields |= {"embed_dtype": embed_dtype or "float32", "endianness": "little"}
            self.max_rows = _vectors.MOST_ROWS
        self._fields |= _options.fields("extra", extra, _REFUSED)
        self.max_rows = _options.count_or_none("max_rows", max_rows) or self.max_rows
        # True if the last answer had its vectors as numbers: a server may ignore the encoding format.
        self._floats_come = False
        is_floating = self._dtype.kind == "f"
        self._exact_below = exact_below(self._dtype) if is_floating else 0.0
        self._simdjson = SimdjsonReader() if is_floating and SimdjsonReader.is_installed() else None

    def encode(self, rows: Rows) -> Payload:
        """``rows`` as the request's ``input``: a list or 1-D array of texts.

        Raises:
            EncodeError: rows that are empty or missing, which the API refuses, or that are not Unicode.
            InputError: rows that are not texts.
        """
        given = _texts(rows)
        try:
            return Payload(body=orjson.dumps({"input": given, **self._fields}))
        except orjson.JSONEncodeError as error:
            raise EncodeError(str(error), rows=[i for i, text in enumerate(given) if not is_unicode(text)]) from None

    def row_bodies(self, rows: Rows) -> list[bytes] | None:
        """The body for each text by itself: they differ in the text alone."""
        before = b'{"input":['
        after = orjson.dumps({"input": [], **self._fields}).removeprefix(before)
        try:
            return [b"%b%b%b" % (before, orjson.dumps(text), after) for text in _texts(rows)]
        except (EncodeError, InputError, orjson.JSONEncodeError):
            return None

    def decode(self, response: Response, n_rows: int) -> DecodedResponse:
        """The vectors in the order of their ``index``, shape (n_rows, width), and usage. Raises `InvalidResponse`."""
        if _vectors.HEADER in response.headers:
            return self._from_bytes(response, n_rows)
        size = len(response.body)
        if self._floats_come and self._usage is None and LARGE <= size <= AT_ONCE:
            # Before the slices: one call with a parser that is warm takes half their time.
            decoded = self._quickly(response.body, n_rows)
            if decoded is not None:
                return decoded
        if not self._floats_come and size <= AT_ONCE and (decoded := self._apart(response.body, n_rows)) is not None:
            return decoded
        if size > LIGHT and (decoded := self._in_slices(response, n_rows)) is not None:
            return decoded
        return read_with_usage(
            response, lambda document: self._vectors(document, n_rows), keep=self.nonfinite == "keep", count=self._count
        )

    def decodes_at_once(self, response: Response) -> bool:
        """True for raw bytes, which become an array without a conversion."""
        return _vectors.HEADER in response.headers

    def classify(self, response: Response) -> Verdict | int | None:
        """500 for the 424 of Text Embeddings Inference: its backend failed, perhaps because of a row."""
        if (ruled := super().classify(response)) is not None:
            return ruled
        return 500 if response.status == 424 else None

    def _count(self, document: Any) -> tuple[Mapping[str, int], str | None]:
        """The usage and the name of the model in a response."""
        return openai_counts(document, self._usage)

    def _from_bytes(self, response: Response, n_rows: int) -> DecodedResponse:
        metadata: dict[str, Any] = {}
        try:
            metadata = _vectors.metadata_of(response)
            vectors = _vectors.vectors_in(response, metadata, n_rows)
        except Unfit as error:
            problem = InvalidResponse(f"the answer {error}", error_kind=error.error_kind)
            problem.usage = self._count(metadata)[0]
            raise problem from None
        usage, model = self._count(metadata)
        return DecodedResponse(vectors.astype(self._dtype, copy=False), usage=usage, model=model)

    def _in_slices(self, response: Response, n_rows: int) -> DecodedResponse | None:
        """The vectors of a large answer, read in slices; None if it cannot be cut."""
        keep = self.nonfinite == "keep"
        try:
            rows, rest = rows_at(response, "data", self._items, keep=keep, quick=self._quick_items)
            assert isinstance(rows, Mapping)
            vectors, indices = rows[""], rows[_INDEX]
            # Before the indices are used, so that a wrong count is reported as such.
            if len(vectors) != n_rows:
                raise Unfit(f"has {len(vectors)} embeddings for {n_rows} texts", error_kind="rows")
            places = order_of([None if index == _NONE else index for index in indices.tolist()])
        except Uncut:
            return None
        except Unfit as error:
            raise with_usage_of(response, invalid(response, error)) from None
        except InvalidResponse as error:
            raise with_usage_of(response, error) from None
        vectors = vectors if places is None else vectors[places]
        usage, model = self._count(rest)
        return DecodedResponse(vectors, usage=usage, model=model)

    def _items(self, items: Any) -> Values:
        """The vectors and the indices of some items."""
        vectors, indices = _vectors_and_indices(items)
        if not set(map(type, indices)) <= {int, type(None)} or any(
            index is not None and index < 0 for index in indices
        ):
            raise Unfit("has an index that is no whole number")
        array = self._array(vectors) if vectors else np.empty((0, 0), self._dtype)
        try:
            return {"": array, _INDEX: np.array([_NONE if index is None else index for index in indices], np.int64)}
        except OverflowError:
            raise Unfit("has an 'index' in 'data' for which there is no text") from None

    def _quick_items(self) -> Callable[[bytes], Values | None]:
        """Make a function that reads items with numbers, until the first slice that has others."""
        # A parser of its own, for two answers may be decoded at once.
        simdjson = None if self._simdjson is None else SimdjsonReader()

        def quick(text: bytes) -> Values | None:
            nonlocal simdjson
            parsed = None if simdjson is None else simdjson.parsed(text, lambda items: vectors(text, items))
            if parsed is None or not within(parsed[0], self._exact_below) or not _are_plain(indices := parsed[1]):
                simdjson = None
                return None
            self._floats_come = True
            places = np.full(len(indices), _NONE) if indices[0] is None else np.array(indices, np.int64)
            return {"": parsed[0].astype(self._dtype, copy=False), _INDEX: places}

        return quick

    def _quickly(self, body: bytes, n_rows: int) -> DecodedResponse | None:
        """The vectors where all of them are numbers in row order; None where the exact parser has to read them."""

        def convert(document: Any) -> tuple[Array, list[Any], Any, str | None] | None:
            items, usage = vectors(body, require_unique_names(document)["data"]), document.get("usage")
            return items and (*items, usage and usage.as_dict(), model_name(document.get("model")))

        if self._simdjson is None or (parsed := self._simdjson.parsed(body, convert)) is None:
            return None
        doubles, indices, usage, model = parsed
        if not _are_plain(indices) or indices not in (list(range(n_rows)), [None] * n_rows):
            return None
        if not within(doubles, self._exact_below):
            return None
        return DecodedResponse(doubles.astype(self._dtype, copy=False), usage=counts(usage), model=model)

    def _apart(self, body: bytes, n_rows: int) -> DecodedResponse | None:
        """The vectors in base64; None where the exact parser has to read them, or to find what is wrong."""
        document = _vectors.parsed_apart(body, n_rows)
        if document is None:
            return None
        try:
            vectors = _vectors.from_base64(_in_order(document["data"]))
        except Unfit:
            return None
        usage, model = self._count(document)
        return DecodedResponse(vectors, usage=usage, model=model)

    def _vectors(self, document: object, n_rows: int) -> Array:
        data = document.get("data") if isinstance(document, dict) else None
        if not isinstance(data, list):
            raise Unfit("has no list 'data'")
        if len(data) != n_rows:
            raise Unfit(f"has {len(data)} embeddings for {n_rows} texts", error_kind="rows")
        vectors = _in_order(data)
        return self._array(vectors)

    def _array(self, vectors: list[Any]) -> Array:
        self._floats_come = not isinstance(vectors[0], str)
        if not self._floats_come:
            return _vectors.from_base64(vectors)
        numbers = array(vectors, Wanted(self._dtype, keep=self.nonfinite == "keep"))
        if numbers.ndim != 2 or not numbers.size:
            raise Unfit(f"has embeddings of shape {list(numbers.shape[1:])}, not one vector a text", error_kind="shape")
        return numbers


def _texts(rows: Rows) -> list[str]:
    if isinstance(rows, Mapping):
        raise InputError(f"embeddings are made of texts: give one column, not the columns {sorted(rows)}")
    if isinstance(rows, np.ndarray) and (rows.ndim != 1 or rows.dtype.kind not in "USTO"):
        raise InputError(f"embeddings are made of texts, not of {rows.dtype} rows of shape {list(rows.shape[1:])}")
    # The API answers an empty text with an error for the whole request.
    given = texts(rows)
    if empty := [i for i, text in enumerate(given) if not text]:
        raise EncodeError("an empty text has no embedding", rows=empty)
    return given


def _check(dimensions: object, encoding_format: object, embed_dtype: object, dtype: np.dtype[Any]) -> None:
    _options.count_or_none("dimensions", dimensions)
    if encoding_format not in ("base64", "float", "bytes"):
        wrong = f'encoding_format must be "base64", "float" or "bytes", not {encoding_format!r}'
        raise ConfigError(wrong, key="encoding_format")
    if embed_dtype is not None and encoding_format != "bytes":
        # An answer in base64 does not state its dtype, so that a server which ignores the option would go unnoticed.
        raise ConfigError('embed_dtype needs encoding_format = "bytes", whose answers state it', key="embed_dtype")
    if encoding_format == "base64" and dtype != _SINGLE:
        raise ConfigError(f'base64 carries float32; for dtype {dtype} set encoding_format to "float"', key="dtype")
    if embed_dtype is not None and embed_dtype not in _vectors.DATATYPES:
        known = ", ".join(map(repr, _vectors.DATATYPES))
        raise ConfigError(f"embed_dtype must be one of {known}, not {embed_dtype!r}", key="embed_dtype")


def _are_plain(indices: list[Any]) -> bool:
    """True if all indices are integers that a row can have, or all are missing. True and 1.0 are no integers here."""
    # One set of types, because Python takes True for 1.
    if set(map(type, indices)) == {int}:
        return bool(0 <= min(indices) <= max(indices) < _MOST_ITEMS)
    return set(map(type, indices)) == {type(None)}


def _in_order(data: list[Any]) -> list[Any]:
    """The embeddings in the order of their indices, if they have any."""
    vectors, indices = _vectors_and_indices(data)
    order = order_of(indices)
    return vectors if order is None else [vectors[i] for i in order]


def _vectors_and_indices(data: list[Any]) -> tuple[list[Any], list[Any]]:
    """The embedding and the index of each item, in the order of the answer."""
    try:
        return [item["embedding"] for item in data], [item.get("index") for item in data]
    except (TypeError, KeyError, AttributeError):
        raise Unfit("has an item without 'embedding' in 'data'") from None
