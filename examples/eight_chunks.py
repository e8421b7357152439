"""Send eight chunks of 100,000 numbers to a model concurrently, and merge the answers into one array.

Faults of the usual version of this program (asyncio.gather over session.post, then np.concatenate):

- gather sends all chunks at once, and the server answers 503. Here: `Limits(concurrency=4)`.
- The first exception out of gather discards all answers. Here: retries, then a result with a mask.
- An error page or a truncated response is parsed like an answer. Here: status, length and syntax are validated first.
- `y[start:stop] = answer` repeats an answer of one row 100,000 times. Here: the number of rows is validated.
- Answers appended in the order of completion are in the wrong order. Here: row i of y belongs to row i of X.
- Numbers as JSON text are slow to parse and easily rounded. Here: the bytes of the array (codec "oip").
"""

import numpy as np
from example_models import softsign

import fanout

X = np.random.default_rng(seed=0).normal(size=800_000)


def main() -> None:
    with fanout.SyncClient(
        "local://example_models:softsign",  # a Python function behind a real HTTP server, in its own process
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
