"""Use the blocking client, for notebooks and scripts: no async, and a failed row does not cost the others."""

from pathlib import Path

import numpy as np

import fanout

images = np.load(Path(__file__).with_name("digits.npz"))["images"]

# One call opens, uses and closes a client. It works while an event loop is running, as in a notebook.
probabilities = fanout.map(images, "local://digits", codec="oip")
print("digits seen:", probabilities[:10].argmax(axis=1))

# For several calls keep the client, and with it its connections (and here the local server).
with fanout.SyncClient("local://digits", codec="v1", chunk_rows=32) as client:
    spoilt = images.copy()
    spoilt[[70, 700]] = np.nan  # JSON has no NaN: these two rows cannot be sent
    try:
        client.map(spoilt)
    except fanout.RowsFailed as error:
        result = error.result  # nothing that succeeded is lost
        print(f"{result.ok.sum()} rows answered, {(~result.ok).sum()} failed:")
        for failure in result.failures:
            print(" ", failure)

    # on_error="keep" returns the result without raising. Rows without an answer hold NaN: use .ok to select.
    result = client.map(spoilt, on_error="keep")
    print("mean confidence:", round(float(result.values[result.ok].max(axis=1).mean()), 3))
    print("one row:", client.predict(images[0]).argmax())
