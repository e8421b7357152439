"""Use the async client: one client for the life of a program, many calls, one set of limits."""

import asyncio
from pathlib import Path

import numpy as np

import fanout

IMAGES = np.load(Path(__file__).with_name("digits.npz"))["images"]  # shape (1797, 64), float32


async def main() -> None:
    # local:// starts the packaged model server while the client is open; put the URL of your model in its place.
    async with fanout.Client(
        "local://digits", codec="oip", chunk_rows=64, limits=fanout.Limits(concurrency=8)
    ) as client:
        probabilities = await client.map(IMAGES)  # row i belongs to image i, in any order of completion
        print("probabilities", probabilities.shape, probabilities.dtype)

        # Calls of one client share its connections and its limits: never more than 8 requests are in flight.
        first, second = await asyncio.gather(client.map(IMAGES[:900]), client.map(IMAGES[900:]))
        print("two calls give the same:", np.array_equal(np.concatenate([first, second]), probabilities))

        # One row at a time, as a web service receives them: calls within 2 ms share a request.
        rows = await asyncio.gather(*(client.predict(image) for image in IMAGES[:200]))
        print("row by row gives the same:", np.array_equal(np.stack(rows), probabilities[:200]))

        stats = client.statistics()
        print(f"{stats.ok} rows in {stats.requests} requests, {stats.retries} retries")
        print(f"most in flight {stats.max_in_flight}, median latency {stats.latency_p50 * 1000:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
