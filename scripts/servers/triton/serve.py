"""Triton, by NVIDIA's pytriton, with numpy models. Arguments: the ports of HTTP, gRPC and metrics."""

from __future__ import annotations

import sys
import time
import zlib
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, QueuePolicy, Tensor, TimeoutAction
from pytriton.triton import Triton, TritonConfig
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "127.0.0.1"
_DIGITS = load_digits()
_CLASSIFIER = LogisticRegression(max_iter=2000).fit(_DIGITS.data / 16, _DIGITS.target)


@batch
def digits(features: np.ndarray) -> list[np.ndarray]:
    """Images of 64 pixels from 0 to 1 -> probabilities of the ten digits."""
    return [_CLASSIFIER.predict_proba(features).astype(np.float32)]


@batch
def half(x: np.ndarray) -> list[np.ndarray]:
    """FP16, rows of any length."""
    return [x]


@batch
def upper(text: np.ndarray) -> list[np.ndarray]:
    """BYTES."""
    return [np.array([[t.decode().upper().encode() for t in row] for row in text], np.bytes_)]


@batch
def pixel(image: np.ndarray) -> list[np.ndarray]:
    """PNG files of one pixel -> its red and green as one number."""
    return [np.array([[_pixel(data) for data in row] for row in image], np.int64)]


@batch
def pixel64(image: np.ndarray) -> list[np.ndarray]:
    """The same for files in base64, as JSON has them."""
    return [np.array([[_pixel(b64decode(text, validate=True)) for text in row] for row in image], np.int64)]


def _pixel(png: bytes) -> int:
    at = png.index(b"IDAT")
    size = int.from_bytes(png[at - 4 : at])
    if int.from_bytes(png[at + 4 + size : at + 8 + size]) != zlib.crc32(png[at : at + 4 + size]):
        raise ValueError("the image is damaged")
    return int.from_bytes(zlib.decompress(png[at + 4 : at + 4 + size])[1:3])


@batch
def parts(image: np.ndarray, scale: np.ndarray, label: np.ndarray, flag: np.ndarray) -> list[np.ndarray]:
    """Four inputs and five outputs, each of another datatype."""
    scaled = image * scale[:, :, None]
    named = np.array([[b"%s:%d" % (t, f)] for [t], [f] in zip(label, flag, strict=True)], np.bytes_)
    whole = np.rint(image.sum(axis=(1, 2))).astype(np.int64)[:, None]
    return [scaled, scaled.astype(np.float64).mean(axis=(1, 2))[:, None], whole, ~flag, named]


@batch
def logarithm(x: np.ndarray) -> list[np.ndarray]:
    """NaN where x is negative."""
    with np.errstate(all="ignore"):
        return [np.log(x)]


@batch
def slow(features: np.ndarray) -> list[np.ndarray]:
    """A tenth of a second a request."""
    time.sleep(0.1)
    return [features.sum(axis=1, keepdims=True)]


@batch
def picky(features: np.ndarray) -> list[np.ndarray]:
    """Fails as a whole where one row begins with a negative number."""
    if (features[:, 0] < 0).any():
        raise ValueError("the model cannot work with a negative first feature")
    return [features.sum(axis=1, keepdims=True)]


def unbatched(requests: list[Any]) -> list[dict[str, np.ndarray]]:
    """Without Triton's axis of rows: the model's own first axis is the rows."""
    return [{"y": request.data["x"] * 2} for request in requests]


def _floats(name: str, *shape: int, dtype: Any = np.float32) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape)


def _models() -> Iterator[tuple[Any, list[Tensor], list[Tensor], dict[str, Any]]]:
    features = [_floats("features", 64)]
    image = [_floats("image", 8, 8), _floats("scale", 1)]
    label = [_floats("label", 1, dtype=np.bytes_), _floats("flag", 1, dtype=np.bool_)]
    scaled = [_floats("scaled", 8, 8), _floats("mean", 1, dtype=np.float64), _floats("total", 1, dtype=np.int64)]
    named = [_floats("unset", 1, dtype=np.bool_), _floats("named", 1, dtype=np.bytes_)]
    one = [_floats("sum", 1)]
    yield digits, features, [_floats("probs", 10)], {"max_batch_size": 256}
    yield half, [_floats("x", -1, dtype=np.float16)], [_floats("y", -1, dtype=np.float16)], {"max_batch_size": 256}
    texts = [_floats(name, 1, dtype=np.bytes_) for name in ("text", "out")]
    yield upper, texts[:1], texts[1:], {"max_batch_size": 256}
    number = [_floats("number", 1, dtype=np.int64)]
    for function in (pixel, pixel64):
        yield function, [_floats("image", 1, dtype=np.bytes_)], number, {"max_batch_size": 256}
    yield parts, image + label, scaled + named, {"max_batch_size": 256}
    yield logarithm, [_floats("x", 3)], [_floats("y", 3)], {"max_batch_size": 256}
    yield picky, features, one, {"max_batch_size": 256}
    yield unbatched, [_floats("x", -1, 3)], [_floats("y", -1, 3)], {"batching": False}
    # One worker and two places in the queue: the rest is refused with 503.
    policy = QueuePolicy(timeout_action=TimeoutAction.REJECT, max_queue_size=2)
    batcher = DynamicBatcher(max_queue_delay_microseconds=0, preferred_batch_size=[1], default_queue_policy=policy)
    yield slow, features, one, {"max_batch_size": 1, "batcher": batcher}


def main() -> None:
    """Serve until a signal comes."""
    http, grpc, metrics = map(int, sys.argv[1:])
    config = TritonConfig(
        http_address=ADDRESS,
        http_port=http,
        grpc_address=ADDRESS,
        grpc_port=grpc,
        metrics_address=ADDRESS,
        metrics_port=metrics,
        exit_timeout_secs=3,
    )
    with Triton(config=config) as triton:
        for function, inputs, outputs, options in _models():
            triton.bind(function.__name__, function, inputs=inputs, outputs=outputs, config=ModelConfig(**options))
        triton.serve()


if __name__ == "__main__":
    main()
