"""The base class of codecs: rows to requests of one wire format, and answers to arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from fanout.codecs._options import DTypeOption, ShapeOption, StatusRule, sampled_by, spec_from_options
from fanout.codecs._paths import UsagePaths
from fanout.codecs._rules import StatusRules
from fanout.errors import ConfigError
from fanout.options import checks_options, option_names, require_known
from fanout.shipping import shippable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fanout.codecs._polling import Polling
    from fanout.codecs._typed import TypedAnswers
    from fanout.errors import InvalidResponse
    from fanout.transport import Request
    from fanout.types import (
        Array,
        DecodedResponse,
        ModelInfo,
        Payload,
        Response,
        Rows,
        Tensor,
        TensorSpec,
        Values,
        Verdict,
    )


class Codec(ABC):
    """Rows to requests, answers to arrays. A subclass with `encode` and `decode` is complete.

    `encode` and `decode` are pure, and independent of chunks, retries and the network. `decode` need not check its
    result: the engine checks row count, dtype, shape and finiteness before it copies anything. A codec is immutable.

    Args:
        dtype: dtype of the output (``"float32"``), or output name -> dtype. JSON numbers are decoded to it, and to
            float64 without it.
        shape: shape of one output row (``[10]``; None for a length that the first answers show), or output name ->
            shape.
        nonfinite: ``"reject"`` refuses an answer with NaN or infinity, ``"keep"`` accepts it.
        usage: name -> JMESPath of a count in the answer, for the statistics and the limits on tokens:
            ``{"total_tokens": "meta.tokens"}``.
        status_rules: what errors of this API mean. A rule has conditions (``status``, ``path`` with ``equals`` or
            ``contains``) and ``then``: ``"quota"``, ``"fail"``, ``"retry"``, or the status that means the same.
    """

    name: ClassVar[str] = "custom"
    format_version: ClassVar[int] = 1
    """Version of the answers that the codec gives, part of the identity of a run: an unfinished run is not resumed with
    another version. The other part is the name (for a class without a name of its own, that of the class)."""

    operation: ClassVar[str] = ""
    """Operation of a language model, as OpenTelemetry's GenAI conventions name it: ``"chat"``, ``"embeddings"``. Empty
    for any other model."""

    model: str | None = None
    """Name of the model in its requests, for telemetry; None if they name none."""

    path: str = ""
    """Appended to ``local://NAME`` and to URLs without a path; ``{model}`` stands for NAME."""

    max_rows: int | None = None
    """Most rows in one request, where the API has a bound. Larger chunks are cut to it."""

    columns: Collection[str] | None = None
    """Columns that the codec takes of a row: a job reads these if it names none. None for a codec of whole rows."""

    takes_buffers: ClassVar[bool] = False
    """True if `decode` accepts a bytearray for ``response.body``. Large answers then come without a copy, in memory
    that is used again as soon as no view of it is left."""

    most_bytes_on_loop: int = 2**20
    """Bytes beyond which an answer is decoded on a helper thread, so that the event loop keeps its deadlines."""

    reasks: int = 0
    """Times that rows are asked for again whose answer is invalid, where `decode` raises an `InvalidResponse` with the
    ``answer`` of a model. Each is an attempt, by the request of `reask`; then the rows fail."""

    nonfinite: Literal["reject", "keep"] = "reject"
    if_lengths_differ: str = (
        "have the server cut or fill them to one length, or decode each to a text (dtype StringDType) in a codec"
    )
    """The remedy in the error for rows whose answers differ in length, which no array holds."""

    options: Mapping[str, Any] = {}
    """The arguments of the constructor, by which a journal distinguishes codecs."""

    polling: Polling | None = None
    """The way to the answers of an asynchronous API; None where a response has them."""

    _arguments: tuple[tuple[Any, ...], Mapping[str, Any]]
    _origin: Codec | None = None
    """The codec that the constructor made, if this one is a copy of it."""

    _spec: Mapping[str, TensorSpec] = {}
    _usage: UsagePaths | None = None
    _rules: StatusRules | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Inherited bodies would be those of another `encode`, and rows would share answers that are not theirs.
        if "encode" in vars(cls) and "row_bodies" not in vars(cls):
            cls.row_bodies = Codec.row_bodies  # type: ignore[method-assign]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        # Here, since the `__init__` of a subclass may use its options before it calls that of this class.
        if options and (known := option_names(cls.__init__)) is not None:
            require_known(f"codec {cls.__name__}", options, known)
        codec = super().__new__(cls)
        # Recorded here, so that a codec need not keep its own arguments for the journal.
        codec.options = {**{str(place): value for place, value in enumerate(args)}, **options}
        codec._arguments = args, options
        return codec

    def __copy__(self) -> Self:
        codec = object.__new__(type(self))
        vars(codec).update(vars(self), _origin=self._origin or self)
        return codec

    # Parsers and templates cannot be pickled, so the arguments travel, and the facts that `with_metadata` has added.
    def __reduce__(self) -> tuple[Any, ...]:
        args, options = self._arguments
        known = vars(self._origin or self)
        # By identity: arrays and schemas may be costly to compare, and a copy shares the objects that it has not
        # replaced.
        added = {name: value for name, value in vars(self).items() if known.get(name) is not value}
        added.pop("_origin", None)
        shipped = {name: shippable(value) for name, value in options.items()}
        return _restored, (shippable(type(self)), tuple(map(shippable, args)), shipped, added)

    @checks_options  # for subclasses that pass on all options that they do not know
    def __init__(
        self,
        *,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        if nonfinite not in ("reject", "keep"):
            raise ConfigError(f'nonfinite must be "reject" or "keep", not {nonfinite!r}', key="nonfinite")
        self.nonfinite = nonfinite
        self._spec = spec_from_options(dtype, shape)
        self._usage = None if not usage else UsagePaths(usage)
        self._rules = None if not status_rules else StatusRules(status_rules)

    @abstractmethod
    def encode(self, rows: Rows) -> Payload:
        """Make one request for all ``rows`` (at least one). Raises `EncodeError` for rows that it cannot express."""

    def row_bodies(self, rows: Rows) -> Sequence[bytes] | None:
        """The bodies that `encode` makes of each row by itself, where they are all that differs; None: `encode` them.

        A cache identifies rows by these requests, which take a codec that makes them one by one most of its time. A
        subclass with an `encode` of its own has to override this as well, or has None.
        """
        return None

    @abstractmethod
    def decode(self, response: Response, n_rows: int) -> Array | Values | DecodedResponse:
        """Read the answer's array (first axis: the rows in order), or name -> array. Raises `InvalidResponse`.

        It runs on the event loop; for an answer of more than `most_bytes_on_loop` (1 MiB) on a helper thread, unless
        `decodes_at_once`, and possibly while another answer is decoded on the loop. A parser that holds the
        interpreter lock for long delays the loop in either place.

        A `DecodedResponse` also carries the usage. The result may have views of ``response.body``, for the engine
        copies. The status is always 200 to 299.
        """

    def decodes_at_once(self, response: Response) -> bool:
        """True if `decode` of this answer takes about a millisecond at any size, because it makes views."""
        return False

    @property
    def spec(self) -> Mapping[str, TensorSpec]:
        """Output name, or ``"*"`` for all others -> dtype and shape, as far as they are known."""
        return self._spec

    @property
    def sampled(self) -> str:
        """The reason why the model draws its answers at random, so that no cache keeps them unasked; empty if not.

        A temperature in the options decides, and without one the fields by which a chat is known.
        """
        # An API may have a default temperature of its own, so that a chat without one counts as sampled.
        return sampled_by(self.options)

    def metadata_requests(self, url: str, responses: Sequence[Response] = ()) -> Sequence[str]:
        """URLs (of the same origin) to GET before the first request to ``url``, to learn about the model.

        The client calls this again after each response, with the ``responses`` so far, until every URL has one: a
        later URL may depend on an earlier response.
        """
        return ()

    def with_metadata(self, responses: Sequence[Response]) -> Codec:
        """Return a codec that knows the model. A codec is immutable: change a copy (``copy.copy(self)``).

        Args:
            responses: one for each of `metadata_requests`, in their order, of any status.

        Raises:
            ConfigError: the codec needs a fact that no response states.
        """
        return self

    def describe(self) -> ModelInfo | None:
        """The model's metadata for people; None where the codec asks for none or the server states none."""
        return None

    def tensors(self, rows: Rows) -> tuple[Tensor, ...]:
        """The tensors that `encode` makes of ``rows``, for people; empty without tensors. Raises as `encode` does."""
        return ()

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response | None:
        """Answer ``request`` as a server of this format does, for mock transports and tests.

        Args:
            request: a request of `encode`, or a GET of `metadata_requests`.
            model: from the rows to an array, or to output name -> array.

        Returns:
            The response; None to have the packaged model server answer, at the codec's `path`.
        """
        return None

    def classify(self, response: Response) -> Verdict | int | None:
        """Classify an answer without values, where only this API gives its status that meaning.

        The ``status_rules`` decide here, so that a codec of your own calls ``super().classify(response)`` first.

        Returns:
            The status that means the same elsewhere; a `Verdict`, to which the engine adds the server's message and
            wait if its reason is empty; or None for the answer's own status.
        """
        return None if self._rules is None else self._rules(response)

    def reask(self, payload: Payload, response: Response, error: InvalidResponse) -> Payload:
        """Return the request that asks again for rows whose answer is invalid; the same one unless it is overridden.

        Args:
            payload: the request before.
            response: its response.
            error: the error that `decode` raised for it, with the ``answer``.
        """
        return payload

    def _type_answers(self, typed: TypedAnswers, reasks: int) -> None:
        """Take the fields of the option ``schema`` for the outputs."""
        self._spec, self.reasks = typed.spec, reasks
        if typed.keeps_nan:  # the validation of the schema refuses any other
            self.nonfinite = "keep"
        self.options = {**self.options, "schema": typed.schema.identity}
        args, arguments = self._arguments
        # The content travels in place of the path of a file, which may change, or be gone.
        if isinstance(arguments["schema"], str | Path):
            self._arguments = args, {**arguments, "schema": typed.schema.document}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _restored(kind: type[Codec], args: tuple[Any, ...], options: Mapping[str, Any], added: Mapping[str, Any]) -> Codec:
    codec = kind(*args, **options)
    if added:
        codec = copy(codec)
        vars(codec).update(added)
    return codec
