"""Stream rows from a generator and receive answers as they complete, in bounded memory."""

import asyncio
from collections.abc import Iterator

import numpy as np

import fanout

ROWS = 50_000


class Readings:
    """Stand for a file or a database cursor that is too large for memory."""

    taken = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(ROWS):
            self.taken += 1
            yield np.full(16, i, np.float32)


async def main() -> None:
    readings, done, most_ahead, total = Readings(), 0, 0, 0.0
    async with (
        fanout.Client("local://echo", codec="oip", chunk_rows=100) as client,
        client.stream(readings) as results,
    ):
        async for chunk in results:  # in order of completion; chunk.start and chunk.stop give the place
            assert chunk.ok.all(), chunk.failures  # failures belong to a chunk; they are not raised
            total += float(chunk.values[:, 0].sum())
            done += chunk.stop - chunk.start
            most_ahead = max(most_ahead, readings.taken - done)
    print(f"{done} rows, sum {total:.0f}, expected {sum(range(ROWS))}")
    print(f"never more than {most_ahead} rows were read ahead of what was done")


if __name__ == "__main__":
    asyncio.run(main())
