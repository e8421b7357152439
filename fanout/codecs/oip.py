"""The Open Inference Protocol over HTTP, with the binary tensor extension: Triton, KServe's V2, MLServer, OpenVINO.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import orjson

from fanout.codecs import _options
from fanout.codecs._oip_model import Metadata, has_no_extensions, metadata_urls, most_rows, server_url, spec_of
from fanout.codecs._oip_tensors import LENGTH_HEADER, Input, fits, fitted, header_of, is_of_views, output_tensors
from fanout.codecs._options import DTypeOption, ShapeOption, StatusRule, spec_for
from fanout.codecs._rows import DUMPS, columns, stacked
from fanout.codecs.base import Codec
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.options import did_you_mean
from fanout.rows import count_rows, without_mask
from fanout.types import DecodedResponse, Payload, Tensor, TensorSpec

if TYPE_CHECKING:
    from fanout.types import Array, ModelInfo, Response, Rows, Values, Verdict

# Name of the input for servers that list no inputs, because they accept any.
_ANY_NAME = "input"
# Bytes of an error that are searched for the words below, which servers put first.
_LONGEST_ERROR = 2000
_REQUEST_UNREADABLE = (b"failed to parse the request json", b"unable to parse", b"unexpected shape for input")


class Oip(Codec):
    """Tensors to a model's ``/infer``, tensors back, as raw bytes or as JSON.

    Rows are an array or a list -> one tensor; texts, or a list of bytes -> a BYTES tensor; a mapping of arrays or a
    list of dicts -> one tensor a name. Rows go in the datatype of the model's metadata; integers must fit it exactly,
    floats must stay finite in it. Answers keep their own dtype (BYTES: texts, BF16: float32).

    Args:
        binary: send tensors as raw bytes and request raw bytes, unless the server lists no extension of the protocol.
            Answers in JSON are accepted either way.
        input: name of the model's input; by default from the model's metadata.
        outputs: names of the outputs to request, in this order; by default all of the metadata.
        parameters: constant parameters of the request.
        dtype, shape, nonfinite, usage, status_rules: see `fanout.Codec`; dtype and shape are by default those of the
            metadata. ``"keep"`` also takes null among JSON floats for NaN, as MLServer means it.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "oip"
    takes_buffers = True
    path = "/v2/models/{model}/infer"

    def __init__(
        self,
        *,
        binary: bool = True,
        input: str | None = None,  # noqa: A002 - the protocol's word
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        super().__init__(dtype=dtype, shape=shape, nonfinite=nonfinite, usage=usage, status_rules=status_rules)
        self._binary = _options.flag("binary", binary)
        self._input = _options.text_or_none("input", input)
        self._outputs = _options.names("outputs", outputs)
        self._parameters = _options.fields("parameters", parameters)
        self._metadata: Metadata | None = None
        self._given = self._spec
        self._raw = self._binary
        self._why_unknown = "the model's metadata was not requested"

    def metadata_requests(self, url: str, responses: Sequence[Response] = ()) -> Sequence[str]:
        """The model's metadata and Triton's configuration of it; nothing if ``url`` does not end in ``/infer``.

        A binary codec also requests the server's extensions, unless the server has a Triton configuration.
        """
        pages, server = metadata_urls(url), server_url(url)
        documents = [_document(response) for response in responses]
        if documents and self._input is None and Metadata.of(documents[0]) is None:
            return pages[:1]  # `with_metadata` raises an error, so nothing more needs to be known
        is_triton = len(documents) > 1 and documents[1] is not None
        return pages if not pages or not self._binary or is_triton or server is None else (*pages, server)

    def with_metadata(self, responses: Sequence[Response]) -> Oip:
        """Return a codec that knows the model's tensors, its largest batch and the server's extensions.

        Raises:
            ConfigError: no metadata and no ``input``, or metadata that lacks a name of ``input`` or ``outputs``.
        """
        documents = [_document(response) for response in responses]
        model, config, server = [*documents, None, None, None][:3]
        metadata = Metadata.of(model)
        reason = _why_no_metadata(metadata, responses)
        if metadata is not None:
            _check_known("input", [self._input] if self._input else [], metadata.inputs)
            _check_known("outputs", self._outputs, metadata.outputs)
        elif responses and self._input is None:
            key = "url" if responses[0].status == 404 else "input"
            raise ConfigError(f"{reason}; or give codec.input, the name of the model's input", key=key)
        # A copy, because runs that have begun still use this codec.
        codec = copy(self)
        vars(codec).update(
            max_rows=most_rows(config, tuple(metadata.inputs.values()) if metadata else ()),
            _metadata=metadata,
            _raw=self._binary and not has_no_extensions(server),
            _spec=self._spec_of(metadata),
            _why_unknown=reason,
        )
        return codec

    def encode(self, rows: Rows) -> Payload:
        """One request with one tensor for each input.

        Raises:
            EncodeError: rows of another shape or kind than the others, or than the model's metadata has, or with
                numbers that the datatype does not hold; in JSON also NaN and infinity.
            ConfigError: an input without a name.
            InputError: a dtype that the protocol does not have.
        """
        inputs = self._inputs(rows)
        return self._in_binary(inputs) if self._raw else self._in_json(inputs)

    def describe(self) -> ModelInfo | None:
        """The model's metadata; None where the server has none."""
        return self._metadata.info if self._metadata else None

    def tensors(self, rows: Rows) -> tuple[Tensor, ...]:
        """The tensors of the request. Raises as `encode` does."""
        return tuple(Tensor(name=i.name, datatype=i.datatype, shape=i.array.shape) for i in self._inputs(rows))

    def decode(self, response: Response, n_rows: int) -> Values | DecodedResponse:
        """Output name -> array, for the requested outputs. Raises `InvalidResponse`."""
        outputs = output_tensors(response, keep=self.nonfinite == "keep")
        wanted = self._outputs or (tuple(self._metadata.outputs) if self._metadata else ()) or tuple(outputs)
        if missing := [name for name in wanted if name not in outputs]:
            names = ", ".join(outputs) or "none"
            raise InvalidResponse(f"the answer has no output {', '.join(missing)}; it has {names}")
        values = {name: outputs[name] for name in wanted}
        return values if self._usage is None else DecodedResponse(values, usage=self._usage.of(header_of(response)))

    def decodes_at_once(self, response: Response) -> bool:
        """True for raw bytes, of which `decode` makes views; it copies texts one by one."""
        return is_of_views(response)

    def classify(self, response: Response) -> Verdict | int | None:
        """400 for Triton's 500 to a request that it cannot read: the rows are to blame, and no retry helps."""
        if (ruled := super().classify(response)) is not None:
            return ruled
        message = response.body[:_LONGEST_ERROR].lower()
        return 400 if response.status == 500 and any(words in message for words in _REQUEST_UNREADABLE) else None

    def _spec_of(self, metadata: Metadata | None) -> dict[str, TensorSpec]:
        """The metadata's dtypes and shapes, where the options leave them open."""
        specs = dict(self._given)
        for name, tensor in (metadata.outputs if metadata else {}).items():
            if not self._outputs or name in self._outputs:
                stated = spec_of(tensor)
                given = spec_for(self._given, name)
                shape = stated.shape if given.shape is None else given.shape
                specs[name] = TensorSpec(dtype=given.dtype or stated.dtype, shape=shape)
        return specs

    def _inputs(self, rows: Rows) -> list[Input]:
        known = self._metadata.inputs if self._metadata else {}
        # Names are checked before values, for a wrong name fails all rows at once.
        named = self._named(rows, known)
        if wrong := _unknown(list(named), known):
            raise EncodeError(f"the rows have an input {wrong}", rows=range(count_rows(rows)), every_row=True)
        return [fitted(name, array, known.get(name)) for name, array in named.items()]

    def _named(self, rows: Rows, known: Mapping[str, Tensor]) -> dict[str, Array]:
        if isinstance(rows, Mapping):
            named = {name: np.asarray(without_mask(column, f"input {name!r}")) for name, column in rows.items()}
        elif not isinstance(rows, np.ndarray) and isinstance(rows[0], Mapping):
            named = columns(rows, {name: fits(tensor) for name, tensor in known.items()})
        else:
            name = self._input_name()
            named = {name: rows if isinstance(rows, np.ndarray) else stacked(rows, fits(known.get(name)))}
        if len({array.shape[:1] for array in named.values()}) != 1:
            raise InputError(f"inputs differ in length: { {name: len(array) for name, array in named.items()} }")
        return named

    def _input_name(self) -> str:
        if self._input is not None:
            return self._input
        if self._metadata is None:
            raise ConfigError(f"{self._why_unknown}: give codec.input, the name of the model's input", key="input")
        names = list(self._metadata.inputs) or [_ANY_NAME]
        if len(names) > 1:
            raise ConfigError(
                f"the model has the inputs {', '.join(names)}: give a mapping of arrays, or a list of dicts, with "
                "these names; or codec.input, if it can do with one of them",
                key="input",
            )
        return names[0]

    def _in_binary(self, inputs: list[Input]) -> Payload:
        # The bytes follow the JSON in the order of the inputs.
        described, buffers = zip(*(tensor.binary() for tensor in inputs), strict=True)
        head = self._request(described, {"parameters": {"binary_data": True}})
        headers = {LENGTH_HEADER: str(len(head))}
        return Payload(body=(head, *buffers), content_type="application/octet-stream", headers=headers)

    def _in_json(self, inputs: list[Input]) -> Payload:
        return Payload(body=self._request([tensor.json() for tensor in inputs], {}))

    def _request(self, inputs: Sequence[dict[str, Any]], of_output: dict[str, Any]) -> bytes:
        request: dict[str, Any] = {"inputs": inputs}
        if self._outputs:
            request["outputs"] = [{"name": name, **of_output} for name in self._outputs]
        binary = {"binary_data_output": True} if self._raw else {}
        if parameters := binary | self._parameters:
            request["parameters"] = parameters
        return orjson.dumps(request, option=DUMPS)


def _document(response: Response) -> object:
    if not 200 <= response.status < 300:
        return None
    try:
        return response.json()
    except InvalidResponse:
        return None


def _why_no_metadata(metadata: Metadata | None, responses: Sequence[Response]) -> str:
    if metadata is not None:
        return ""
    if not responses:
        return "the url does not end in /infer, so there is no metadata beside it"
    quoted = f"HTTP {responses[0].status}: {responses[0].excerpt()}"
    if responses[0].status == 404:
        return f"the server knows no such model ({quoted}); its name in the url is probably mistyped"
    return f"the server does not send the model's metadata ({quoted})"


def _check_known(option: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a name in an option that the metadata does not list."""
    if wrong := _unknown(names, known):
        raise ConfigError(f"{option} {wrong}", key=option)


def _unknown(names: Sequence[str], known: Mapping[str, Any]) -> str | None:
    """The error message for a name that the metadata does not list, unless it lists none; None if all are there."""
    for name in names:
        if known and name not in known:
            hint = did_you_mean(name, known, "; did you mean {!r}?")
            return f"{name!r}: the model has {', '.join(known)}{hint}"
    return None
