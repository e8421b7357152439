"""Eight chunks of 100,000 numbers are sent to a model at the same time, and the answers merged into one array.

What the usual version of this program (asyncio.gather over session.post, then np.concatenate) gets wrong:

- gather sends all chunks at once, and the server's limit shows in its 503s. Here: `Limits(concurrency=4)`.
- The first exception out of gather loses every answer that has come. Here: retries, then a result with a mask.
- An error page, or half of an answer, is parsed like an answer. Here: status, length and syntax are proven first.
- `y[start:stop] = answer` repeats an answer of one row 100,000 times. Here: the number of rows is proven.
- Answers that are appended as they come are in the wrong order. Here: row i of y belongs to row i of X.
- Numbers written as JSON text are slow to read and easily rounded. Here: the bytes of the array (codec "oip").
"""

import numpy as np
from example_models import softsign

import fanout

X = np.random.default_rng(seed=0).normal(size=800_000)


def main() -> None:
    with fanout.SyncClient(
        "local://example_models:softsign",  # a function of ours behind a real HTTP server, in a process of its own
        codec="oip",
        chunk_rows=100_000,
        limits=fanout.Limits(concurrency=4),
    ) as client:
        y = client.map(X)
        stats = client.statistics()

    print(f"{stats.ok} numbers, at most {stats.max_in_flight} requests in flight, {stats.retries} retries")
    print(f"{stats.seconds:.2f} s, {stats.bytes_sent / 1e6:.1f} MB sent, {stats.bytes_received / 1e6:.1f} MB received")
    print("equal to the direct result:", np.array_equal(y, softsign(X)))


if __name__ == "__main__":
    main()
