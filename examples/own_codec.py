"""A codec of one's own: what goes over the wire, and what comes back as arrays. It needs two methods."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import fanout


class Digits(fanout.Codec):
    """8 x 8 images -> the digit, and how sure the model is, over the V1 protocol."""

    path = "/v1/models/{model}:predict"  # what local:// and URLs without a path get

    def encode(self, rows: Any) -> fanout.Payload:
        instances = rows.reshape(len(rows), 64)
        return fanout.Payload(body=orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY))

    def decode(self, reply: fanout.Response, n_rows: int) -> dict[str, np.ndarray]:
        probabilities = np.array(reply.json()["predictions"])
        return {"digit": probabilities.argmax(axis=1), "confidence": probabilities.max(axis=1)}


async def main() -> None:
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        images, labels = archive["images"].reshape(-1, 8, 8), archive["labels"]
    # Retries, splitting, limits and the proof of each answer (row count, dtype, shape, no NaN) come with the client.
    async with fanout.Client("local://digits", codec=Digits) as client:
        answer = await client.map(images)
    print({name: (array.dtype.name, array.shape) for name, array in answer.items()})
    print(f"right: {(answer['digit'] == labels).mean():.1%}, least sure: {answer['confidence'].min():.2f}")


if __name__ == "__main__":
    asyncio.run(main())
