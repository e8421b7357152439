"""KServe's V1 protocol, which is TensorFlow Serving's.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fanout.codecs import _options, _values
from fanout.codecs.json import Json

if TYPE_CHECKING:
    from fanout.codecs.base import DTypeOption, ShapeOption
    from fanout.types import Array, Values


class V1(Json):
    """``instances`` to a model's ``:predict``; ``predictions`` back, or the ``outputs`` of TensorFlow Serving.

    Rows and answers are those of `Json`: several inputs or outputs are objects row by row, outputs may also come as
    an object of columns.

    Args:
        signature_name: which of a TensorFlow model's signatures to call; the server has a default.
        dtype, shape, nonfinite: see `fanout.Codec`.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "v1"
    path = "/v1/models/{model}:predict"

    def __init__(
        self,
        *,
        signature_name: str | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
    ) -> None:
        signature = _options.text_or_none("signature_name", signature_name)
        # A field "index" is an output of the model here: predictions are in the order of the instances.
        extra = None if signature is None else {"signature_name": signature}
        super().__init__(index_field="", extra=extra, dtype=dtype, shape=shape, nonfinite=nonfinite)
        self.if_lengths_differ = f'take the codec "json" for "v1": {self.if_lengths_differ}'
        self._fields_of_rows = ("predictions", "outputs")

    def _found(self, document: object) -> Array | Values:
        fields = document if isinstance(document, dict) else {}
        found = fields.get("predictions", fields.get("outputs"))
        if found is None:
            raise _values.Unfit("has neither 'predictions' nor 'outputs'")
        return _values.outputs(found, self._wanted)
