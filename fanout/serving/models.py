"""The models that can be served, and their call.

A model is ``digits``, ``echo``, or the user's own ``package.module:function``. It takes rows as a numpy array, as a
list of texts or other JSON values, or as a dict of arrays, and its result becomes named columns with one entry a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout._escape import print_exception
from fanout.errors import ConfigError
from fanout.options import did_you_mean
from fanout.serving.exchange import StatusError
from fanout.types import Array, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

Column: TypeAlias = Array | list[Any]
"""One output: an array whose first axis is the rows, or a list where its entries make no array (texts, dicts)."""

UNNAMED = ""
PACKAGED = ("digits", "echo")
_KINDS = 'names are "digits", "echo" or "package.module:function"'
PIXELS = 64
CLASSES = 10
WIDTH = 64
# Knuth's multiplicative constant, 2**32 / golden ratio (The Art of Computer Programming, volume 3, section 6.4).
_SPREAD = np.uint32(2654435769)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A function and its description.

    ``function`` takes the rows of one request: a numpy array (first axis: the rows), a list of texts or other JSON
    values where they are no array, or a dict of arrays when several inputs were sent. It returns an array, a list of
    texts, or a dict of those, with one entry a row.
    """

    name: str
    function: Callable[[Any], Any]
    inputs: tuple[Tensor, ...] = ()
    """Empty where the function declares none: then any input is passed on."""

    outputs: tuple[Tensor, ...] = ()
    max_batch_size: int | None = None
    """Most rows in one request; larger ones get status 400, as from Triton. None: no bound."""

    embed: Callable[[list[str]], Any] | None = None
    """Texts -> array of shape (n, width), for the embeddings API; None where the model takes no texts.

    Where it is not None, the chat API calls ``function`` with texts, for texts.
    """


def load_model(name: str) -> Model:
    """The model of that name, ready to be called.

    ``package.module:function`` is imported with the current directory on ``sys.path``; if the function has an
    attribute ``max_batch_size``, larger requests get status 400, as from Triton.

    Raises:
        ConfigError: no such model, module or function, not callable, or the module cannot be imported.
    """
    if name == "digits":
        return Model(
            name=name,
            function=classify,
            inputs=(Tensor(name="images", datatype="FP32", shape=(-1, PIXELS)),),
            outputs=(Tensor(name="probabilities", datatype="FP32", shape=(-1, CLASSES)),),
        )
    if name == "echo":
        return Model(name=name, function=unchanged, embed=embed)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ConfigError(f"there is no model {name!r}{did_you_mean(name.lower(), PACKAGED)}; {_KINDS}", key="url")
    # Only now: the packaged models need no import of the user's modules.
    own = _function(_module(module), function)
    return Model(name=name, function=own, embed=own, max_batch_size=getattr(own, "max_batch_size", None))


def require_model(model: Model, name: str) -> None:
    """Raises `StatusError` (404), naming the model served, unless that is ``name``."""
    if name != model.name:
        raise StatusError(404, f"unknown model {name!r}: this server has {model.name!r}", code="model_not_found")


def rows_of(instances: list[Any]) -> Column:
    """JSON rows as a numeric array where they are one; texts, dicts and rows of unequal length stay a list."""
    if not instances or isinstance(instances[0], str | Mapping):
        return instances
    try:
        array = np.array(instances)
    except ValueError:  # rows of unequal length
        return instances
    # An array of objects or texts would change values on their way: 1 and "a" both become texts.
    return array if array.dtype.kind in "biuf" else instances


def call(model: Model, rows: Any, n_rows: int, function: Callable[[Any], Any] | None = None) -> dict[str, Column]:
    """The model's outputs for ``rows``; the key ``""`` where it names none.

    Raises `StatusError`: 400 for no rows or too many; 500 for an exception in the function, whose traceback goes to
    stderr, and for a result that has not one entry a row.
    """
    if n_rows == 0:
        raise StatusError(400, "the batch is empty: send at least one row")
    if model.max_batch_size is not None and n_rows > model.max_batch_size:
        raise StatusError(
            400, f"batch-size must be <= {model.max_batch_size} for {model.name!r}; this has {n_rows} rows"
        )
    try:
        result = (function or model.function)(rows)
        named = result if isinstance(result, Mapping) else {UNNAMED: result}
        # Inside the try block: a column's conversion may run the user's code as well.
        outputs = {str(name): _column(value) for name, value in named.items()}
    except StatusError:
        raise
    except (Exception, SystemExit) as error:  # user code: whatever it raises is an answer, not the server's end
        print_exception()
        raise StatusError(500, f"model {model.name!r} failed: {type(error).__name__}: {error}") from error
    if not outputs:
        raise StatusError(500, f"model {model.name!r} returned no output")
    for name, column in outputs.items():
        _require_rows(model, name, column, n_rows)
    return outputs


def takes(model: Model) -> str:
    """The inputs of a model, in words."""
    return ", ".join(f"{tensor.name} of shape {list(tensor.shape or ())}" for tensor in model.inputs) or "other rows"


def require_finite(model: Model, outputs: Mapping[str, Column]) -> None:
    """Raises `StatusError` (500) for NaN and infinity: JSON has no word for them, and null would hide them."""
    for name, column in outputs.items():
        if not _finite(column):
            raise StatusError(500, f"{_title(model, name)} holds NaN or infinity, which JSON cannot express")


def jsonable(column: Column) -> Any:
    """``column`` as orjson writes it: native, C-contiguous numbers stay an array, anything else becomes lists."""
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind in "biuf":
        return np.ascontiguousarray(column, column.dtype.newbyteorder("="))
    return np.char.decode(column, "utf-8").tolist() if column.dtype.kind == "S" else column.tolist()


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    # As `python -m` has it; a server is started where the user's module is.
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there, but imports one that is not, would be misreported as missing itself.
        if f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"there is no module {error.name!r} in {here} or on the Python path", key="url") from None
        raise ConfigError(f"module {name!r} cannot be imported: {error}", key="url") from error
    except (Exception, SystemExit) as error:  # user code at import: anything can come out of it
        print_exception()
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}", key="url") from error


def _function(module: ModuleType, name: str) -> Any:
    function: Any = getattr(module, name, None)
    if function is None:
        functions = [known for known, value in vars(module).items() if callable(value)]
        hint = did_you_mean(name.lower(), functions)
        raise ConfigError(f"module {module.__name__!r} has no function {name!r}{hint}", key="url")
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"{module.__name__}:{name} is not a function, but of type {kind}", key="url")
    return function


def _column(value: Any) -> Column:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        # A list of arrays is stacked by the same rule as a list of lists.
        return rows_of(list(value))
    return np.asarray(value)  # data frames, series and tensors of other libraries know how to become an array


def _require_rows(model: Model, name: str, column: Column, n_rows: int) -> None:
    if isinstance(column, np.ndarray) and column.ndim == 0:
        kind = type(column.item()).__name__
        raise StatusError(500, f"{_title(model, name)} is of type {kind}, not an array of {n_rows} rows")
    if len(column) != n_rows:
        raise StatusError(500, f"{_title(model, name)} has {len(column)} rows for the {n_rows} rows sent")


def _title(model: Model, name: str) -> str:
    return f"output {name!r} of model {model.name!r}" if name else f"the result of model {model.name!r}"


def _finite(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, float | np.floating):
        return bool(np.isfinite(value))
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple | np.ndarray) else True


def classify(images: object) -> Array:
    """Probabilities of the ten digits for images of 8 x 8 pixels in [0, 1].

    softmax(W x + b), as in Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4, in float32.

    Raises `StatusError` (400) for anything of another shape.

    Args:
        images: shape (n, 64) or (n, 8, 8), any real dtype; used as float32.

    Returns:
        Shape (n, 10), float32; each row sums to 1. A row has the same bits in whatever batch it comes.
    """
    pixels = _pixels(images)
    weights, bias = _parameters()
    # Not `pixels @ weights.T`: the order in which BLAS sums depends on the number of rows, and so do its last bits.
    logits = np.stack([(pixels * row).sum(axis=1) for row in weights], axis=1) + bias
    # The largest exponent is 0, so that nothing overflows: the softmax does not change under a shift.
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def unchanged(rows: Any) -> Any:
    """The rows, as they came."""
    return rows


def embed(texts: Sequence[str]) -> Array:
    """Hashed counts of character trigrams: texts that share many are near each other.

    The hashing trick (Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009) without the
    signs, so that no text can come out as zero. Deterministic: the same text gives the same bits in any batch.

    Args:
        texts: n texts.

    Returns:
        Shape (n, 64), float32, each row of unit length.
    """
    return np.stack([_embedded(text) for text in texts])


def _pixels(images: object) -> Array:
    takes = "digits takes images of shape (n, 64) or (n, 8, 8), pixel values / 16"
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "biuf":
        kind = f"an array of {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
        raise StatusError(400, f"{takes}; not numbers: {kind}")
    if images.shape[1:] not in ((PIXELS,), (8, 8)):
        raise StatusError(400, f"{takes}; this is {images.shape}")
    return np.ascontiguousarray(images.reshape(-1, PIXELS), np.float32)


@cache
def _parameters() -> tuple[Array, Array]:
    """Weights, shape (10, 64), and bias, shape (10,), float32."""
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        return archive["weights"], archive["bias"]


def _embedded(text: str) -> Array:
    # A space at each end marks where the text starts and stops, and gives the shortest texts a trigram.
    codes = np.frombuffer(f" {text.lower()} ".encode("utf-32-le"), "<u4").astype(np.uint32)
    first, second, third = codes[:-2], codes[1:-1], codes[2:]
    hashed = ((first * _SPREAD + second) * _SPREAD + third) * _SPREAD  # unsigned: wraps modulo 2**32
    # The upper 6 bits choose one of 64 buckets: a multiplicative hash mixes them best.
    counts = np.bincount(hashed >> np.uint32(26), minlength=WIDTH)
    return np.asarray(counts / np.sqrt(np.square(counts).sum()), np.float32)
