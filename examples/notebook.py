"""The blocking face, for notebooks and scripts: no async, no await, and a failed row does not cost the others."""

from pathlib import Path

import numpy as np

import fanout

images = np.load(Path(__file__).with_name("digits.npz"))["images"]

# One call: a client is opened, used and closed. It works where an event loop is running already, as in a notebook.
probabilities = fanout.map(images, "local://digits", codec="oip")
print("digits seen:", probabilities[:10].argmax(axis=1))

# Several calls: keep the client, so that its connections (and here the local server) are kept too.
with fanout.SyncClient("local://digits", codec="v1", chunk_rows=32) as client:
    spoilt = images.copy()
    spoilt[[70, 700]] = np.nan  # JSON has no word for NaN: these two rows cannot be sent
    try:
        client.map(spoilt)
    except fanout.RowsFailed as error:
        result = error.result  # nothing that succeeded is lost
        print(f"{result.ok.sum()} rows answered, {(~result.ok).sum()} failed:")
        for failure in result.failures:
            print(" ", failure)

    # Or ask for the result in any case. Only .ok tells which rows have an answer; the others hold NaN.
    result = client.map(spoilt, on_error="keep")
    print("mean confidence:", round(float(result.values[result.ok].max(axis=1).mean()), 3))
    print("one row:", client.predict(images[0]).argmax())
