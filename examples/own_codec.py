"""Write a codec in two methods: rows to a request body, a response body to arrays."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import fanout


class Digits(fanout.Codec):
    """8 x 8 images -> the digit and the model's confidence, over the V1 protocol."""

    path = "/v1/models/{model}:predict"  # for local:// and for URLs without a path

    def encode(self, rows: Any) -> fanout.Payload:
        instances = rows.reshape(len(rows), 64)
        return fanout.Payload(body=orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY))

    def decode(self, response: fanout.Response, n_rows: int) -> dict[str, np.ndarray]:
        probabilities = np.array(response.json()["predictions"])
        return {"digit": probabilities.argmax(axis=1), "confidence": probabilities.max(axis=1)}


async def main() -> None:
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        images, labels = archive["images"].reshape(-1, 8, 8), archive["labels"]
    # The client adds retries, splitting, limits and the validation of each response (row count, dtype, shape, no NaN).
    async with fanout.Client("local://digits", codec=Digits) as client:
        answer = await client.map(images)
    print({name: (array.dtype.name, array.shape) for name, array in answer.items()})
    print(f"right: {(answer['digit'] == labels).mean():.1%}, least sure: {answer['confidence'].min():.2f}")


if __name__ == "__main__":
    asyncio.run(main())
