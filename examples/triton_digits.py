"""Send the digits to Triton: fanout reads the model's metadata and limits chunks to its batch size.

Start the server first; the first start installs it:  python scripts/servers triton --port 8000
Then:  python examples/triton_digits.py [http://127.0.0.1:8000]
"""

import asyncio
import sys
from pathlib import Path

import numpy as np

import fanout

SERVER = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"


async def main() -> None:
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        images, labels = archive["images"], archive["labels"]

    # The model takes at most 256 rows. fanout reads this from its configuration, so it never sends a request of 500.
    async with fanout.Client(f"{SERVER}/v2/models/digits/infer", codec="oip", chunk_rows=500) as client:
        probabilities = await client.map(images)
        requests = client.statistics().requests
    print(f"{len(images)} images in {requests} requests, metadata included")
    print(f"accuracy {(probabilities.argmax(axis=1) == labels).mean():.4f}, {probabilities.dtype}")

    # Several inputs are a mapping of arrays of one length; several outputs are a dict of arrays, each with its dtype.
    n = len(images)
    names = np.array([[f"image {i}"] for i in range(n)])
    rows = {"image": images.reshape(-1, 8, 8), "scale": np.full((n, 1), 0.5, "f4"), "label": names}
    async with fanout.Client(f"{SERVER}/v2/models/parts/infer", codec="oip") as client:
        answer = await client.map({**rows, "flag": labels[:, None] == 3})
    print({name: (str(array.dtype.name), array.shape[1:]) for name, array in answer.items()})


if __name__ == "__main__":
    asyncio.run(main())
