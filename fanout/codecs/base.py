"""The codec: rows <-> one wire format. A subclass with `encode` and `decode` is a whole one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, cast

import numpy as np

from fanout.errors import ConfigError
from fanout.options import option_names, require_known
from fanout.types import Array, DecodedResponse, ModelInfo, Payload, Response, Rows, Tensor, TensorSpec, Values, Verdict

if TYPE_CHECKING:
    from fanout.transport import Request

ANY_OUTPUT = "*"
"""Key of the spec that counts for every output that has no entry of its own."""

DTypeOption: TypeAlias = str | Mapping[str, str] | None
ShapeOption: TypeAlias = Sequence[int | None] | Mapping[str, Sequence[int | None]] | None


class Codec(ABC):
    """Rows to requests, answers to arrays.

    `encode` and `decode` are pure and know nothing of chunks, retries or the network. `decode` need not prove what
    it returns: the engine checks row count, dtype, shape and finiteness before anything is copied.

    Args:
        dtype: dtype that the output must have (``"float32"``), or output name -> dtype. JSON numbers are decoded to
            it; float64 where it is not given.
        shape: shape of one output row (``[10]``; None for a length that is to be learnt), or output name -> shape.
        nonfinite: ``"reject"`` takes an answer with NaN or infinity for invalid, ``"keep"`` lets it through.
    """

    name: ClassVar[str] = "custom"
    format_version: ClassVar[int] = 1
    """Part of the identity of a run, with the name (or the name of the class, where it has none of its own): raise it
    when the codec gives other answers than before, and unfinished runs are not resumed with it."""

    path: str = ""
    """Appended to ``local://NAME`` and to URLs without a path; ``{model}`` stands for NAME."""

    max_rows: int | None = None
    """Most rows in one request, where the API has a bound; larger chunks are cut to it."""

    takes_buffers: ClassVar[bool] = False
    """`decode` takes a bytearray for ``response.body``: large answers then come without a copy, in memory that is used
    again once nobody refers to it, or to a view of it."""

    most_bytes_on_loop: int = 2**20
    """A larger answer is decoded on a helper thread, so that the event loop keeps its deadlines meanwhile."""

    nonfinite: Literal["reject", "keep"] = "reject"
    if_lengths_differ: str = (
        "have the server cut or fill them to one length, or decode each to a text (dtype StringDType) in a codec"
    )
    """Said where the answers of rows differ in length, which no array holds."""

    options: Mapping[str, Any] = {}
    """What it was made with: by this a journal tells one codec from another."""

    _spec: Mapping[str, TensorSpec] = {}

    def __new__(cls, *args: Any, **options: Any) -> Self:
        if options and (known := option_names(cls.__init__)) is not None:
            require_known(f"codec {cls.__name__}", options, known)
        made = super().__new__(cls)
        made.options = {**{str(place): value for place, value in enumerate(args)}, **options}
        return made

    def __init__(
        self, *, dtype: DTypeOption = None, shape: ShapeOption = None, nonfinite: Literal["reject", "keep"] = "reject"
    ) -> None:
        if nonfinite not in ("reject", "keep"):
            raise ConfigError(f'nonfinite must be "reject" or "keep", not {nonfinite!r}', key="nonfinite")
        self.nonfinite = nonfinite
        self._spec = spec_from_options(dtype, shape)

    @abstractmethod
    def encode(self, rows: Rows) -> Payload:
        """One request for all of ``rows`` (at least one). Raises `EncodeError` naming rows that cannot be expressed."""

    @abstractmethod
    def decode(self, response: Response, n_rows: int) -> Array | Values | DecodedResponse:
        """The answer's array (first axis: the rows in order), or name -> array. Raises `InvalidResponse`.

        It is called on the event loop; for an answer of more than `most_bytes_on_loop` (1 MiB) on a helper thread,
        unless `decodes_at_once` says that it takes no time. It may then run while another answer is decoded on the
        loop. A parser that holds the interpreter for long delays the loop all the same.

        A `DecodedResponse` also carries the usage. Views into ``response.body`` are welcome: the engine copies. Called
        only with a status of 200 to 299.
        """

    def decodes_at_once(self, response: Response) -> bool:
        """True if `decode` of this answer takes a millisecond or so, however large it is: it makes views of it."""
        return False

    @property
    def spec(self) -> Mapping[str, TensorSpec]:
        """What the outputs are known to look like, by output name; the key ``"*"`` stands for every other output."""
        return self._spec

    def _dtype_of(self, output: str) -> np.dtype[Any] | None:
        """The dtype option for an output."""
        spec = self._spec.get(output) or self._spec.get(ANY_OUTPUT)
        return None if spec is None else spec.dtype

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
        """What `encode` makes of ``rows``, for people; nothing where the format has no tensors. Raises as it does."""
        return ()

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response | None:
        """What a server of this format answers to ``request``, for mocks and tests: the other end of the codec.

        ``model`` takes the rows and gives an array, or output name -> array. A GET is one of `metadata_requests`.
        None says that the packaged model server shall answer, at the codec's `path`.
        """
        return None

    def classify(self, response: Response) -> Verdict | int | None:
        """What only this API means by an answer that brought no values.

        A status, if it means what that status means elsewhere; a whole `Verdict`; or None for what it says.
        """
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def spec_from_options(dtype: DTypeOption, shape: ShapeOption) -> dict[str, TensorSpec]:
    """The options ``dtype`` and ``shape`` as specs by output name. Raises `ConfigError`."""
    dtypes = dict(dtype) if isinstance(dtype, Mapping) else {} if dtype is None else {ANY_OUTPUT: dtype}
    shapes = dict(shape) if isinstance(shape, Mapping) else {} if shape is None else {ANY_OUTPUT: shape}
    any_dtype, any_shape = dtypes.get(ANY_OUTPUT), shapes.get(ANY_OUTPUT)
    return {
        name: TensorSpec(dtype=_dtype(dtypes.get(name, any_dtype)), shape=_shape(shapes.get(name, any_shape)))
        for name in dtypes.keys() | shapes.keys()
    }


def _dtype(name: object) -> np.dtype[Any] | None:
    if name is None:
        return None
    try:
        dtype = np.dtypes.StringDType() if name == "str" else np.dtype(cast("str", name))
    except (TypeError, ValueError, SyntaxError):  # numpy reads a small language here
        raise ConfigError(f'dtype {name!r} is no numpy dtype; try "float32" or "int64"', key="dtype") from None
    if dtype.kind not in "biufT":
        raise ConfigError(f"dtype {name!r} cannot come over the wire; use a number, bool or str dtype", key="dtype")
    return dtype.newbyteorder("=") if dtype.kind != "T" else dtype


def _shape(shape: object) -> tuple[int | None, ...] | None:
    if shape is None:
        return None
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ConfigError(f"shape must be a list of lengths, such as [10], not {shape!r}", key="shape")
    # TOML has no null, so -1 stands for an unknown length there, as it does in the protocols.
    lengths = tuple(None if length in (None, -1) else length for length in shape)
    if not all(length is None or (isinstance(length, int) and length >= 0) for length in lengths):
        raise ConfigError(f"shape {list(shape)!r} must hold whole numbers, 0 or more (-1: to be learnt)", key="shape")
    return lengths
