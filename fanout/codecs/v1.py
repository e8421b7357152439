"""KServe's V1 protocol, which is that of TensorFlow Serving, as a case of the codec for any JSON API.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - the schema of job files resolves them
from typing import TYPE_CHECKING, ClassVar, Literal

from fanout.codecs import _options, _values
from fanout.codecs._answers import POSITION
from fanout.codecs._options import DTypeOption, ShapeOption  # noqa: TC001 - the schema of job files resolves them
from fanout.codecs._rules import StatusRule  # noqa: TC001
from fanout.codecs.json import Json

if TYPE_CHECKING:
    from fanout.types import Array, Values


class V1(Json):
    """``instances`` to a model's ``:predict``; ``predictions`` back, or the ``outputs`` of TensorFlow Serving.

    Rows and answers are those of `Json`: several inputs or outputs are objects row by row, outputs may also come as
    an object of columns.

    Args:
        signature_name: the signature of a TensorFlow model to call; the server has a default.
        dtype, shape, nonfinite, usage, status_rules: see `fanout.Codec`.

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
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        signature = _options.text_or_none("signature_name", signature_name)
        request = {"instances": "{{rows}}"} | ({} if signature is None else {"signature_name": signature})
        # Predictions are in the order of the instances, so that a field "index" is an output of the model.
        super().__init__(
            request=request, answers="predictions", order=POSITION,
            dtype=dtype, shape=shape, nonfinite=nonfinite, usage=usage, status_rules=status_rules,
        )  # fmt: skip
        self.if_lengths_differ = f'take the codec "json" for "v1": {self.if_lengths_differ}'
        self._fields_of_rows = ("predictions", "outputs")

    def _document_values(self, document: object) -> Array | Values:
        fields = document if isinstance(document, dict) else {}
        answers = fields.get("predictions", fields.get("outputs"))
        if answers is None:
            raise _values.Unfit("has neither 'predictions' nor 'outputs'")
        return _values.outputs(answers, self._wanted)
