"""The pages about a model on a server of the Open Inference Protocol: metadata, and Triton's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fanout.tensors import dtype_of
from fanout.types import ModelInfo, Tensor, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INFER = "/infer"
_V2 = "/v2"
_MODELS = f"{_V2}/models/"
_MOST_TENSORS = 1000
_LONGEST_NAME = 256
_MOST_AXES = 64
_MOST_VERSIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """A model's inputs and outputs by name; empty where the server does not list them."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    info: ModelInfo = field(default_factory=ModelInfo)

    @classmethod
    def of(cls, document: object) -> Metadata | None:
        """Read the document of ``GET v2/models/NAME``; None if it is no metadata.

        A document with more than 1,000 inputs or outputs, a name of more than 256 characters, or a tensor of more than
        64 axes is refused, because error messages list the names and search them for a similar one.
        """
        if not isinstance(document, dict):
            return None
        if not (_is_plausible(document.get("inputs")) and _is_plausible(document.get("outputs"))):
            return None
        inputs, outputs = _tensors(document.get("inputs")), _tensors(document.get("outputs"))
        versions = document.get("versions")
        info = ModelInfo(
            name=_text(document.get("name")),
            platform=_text(document.get("platform")),
            versions=tuple(
                _text(str(version))
                for version in (versions[:_MOST_VERSIONS] if isinstance(versions, list) else ())
                if isinstance(version, str | int)
            ),
            inputs=tuple(inputs.values()),
            outputs=tuple(outputs.values()),
        )
        return cls(inputs=inputs, outputs=outputs, info=info)


def spec_of(tensor: Tensor) -> TensorSpec:
    """The dtype and the row shape of an output."""
    # Servers write -1 for an axis of any length.
    row = tuple(None if length < 0 else length for length in tensor.shape[1:]) if tensor.shape else None
    return TensorSpec(dtype=dtype_of(tensor.datatype), shape=row)


def metadata_urls(url: str) -> tuple[str, ...]:
    """The pages of the model's metadata and of Triton's configuration; none if ``url`` does not end in ``/infer``."""
    parts = urlsplit(url)
    if not parts.path.endswith(_INFER):
        return ()
    model = parts.path.removesuffix(_INFER)
    return parts._replace(path=model).geturl(), parts._replace(path=f"{model}/config").geturl()


def server_url(url: str) -> str | None:
    """The page of the server's extensions; None if ``url`` is not that of a model."""
    parts = urlsplit(url)
    before, marker, _ = parts.path.rpartition(_MODELS)
    return parts._replace(path=f"{before}{_V2}").geturl() if marker else None


def has_no_extensions(document: object) -> bool:
    """True if the server lists its extensions and there are none: MLServer answers 500 to raw bytes.

    A list without ``binary_tensor_data`` proves nothing: KServe's servers leave out what they have.
    """
    return isinstance(document, dict) and document.get("extensions") == []


def most_rows(config: object, inputs: Sequence[Tensor]) -> int | None:
    """The most rows in a request by Triton's configuration; None: no bound.

    With ``max_batch_size`` 0 Triton adds no axis for the rows: the rows are the model's first axis, whose length, if
    it has one, is the bound.
    """
    size = config.get("max_batch_size") if isinstance(config, dict) else None
    # True is an instance of int, and a server may send anything.
    if type(size) is not int or size < 0:
        return None
    if size > 0:
        return size
    # -1 is any length.
    lengths = [tensor.shape[0] for tensor in inputs if tensor.shape]
    return min((length for length in lengths if length > 0), default=None)


def _tensors(listed: Any) -> dict[str, Tensor]:
    tensors = {}
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            datatype, shape = item.get("datatype"), item.get("shape")
            # A shape that is missing or odd is left open: the request shows whether it fits.
            is_known = isinstance(shape, list) and all(type(length) is int for length in shape)
            tensors[item["name"]] = Tensor(
                name=item["name"],
                datatype=_text(datatype),
                shape=tuple(shape) if is_known and shape else None,
            )
    return tensors


def _is_plausible(listed: object) -> bool:
    """False for a list of tensors that no model has."""
    if not isinstance(listed, list):
        return True
    if len(listed) > _MOST_TENSORS:
        return False
    bounds: tuple[tuple[str, type, int], ...] = (("name", str, _LONGEST_NAME), ("shape", list, _MOST_AXES))
    tensors = [item for item in listed if isinstance(item, dict)]
    return all(
        not isinstance(item.get(key), kind) or len(item[key]) <= most for item in tensors for key, kind, most in bounds
    )


def _text(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""
