"""Write the answers that tritonclient gets for the arrays of a file. Arguments: files, URL, model, rows, binary."""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

given, written, url, model, rows, in_binary = sys.argv[1:]
binary = in_binary == "True"
client = triton.InferenceServerClient(url.removeprefix("http://"))
with np.load(given) as archive:
    arrays = {name: a.astype(object) if a.dtype.kind in "US" else a for name, a in archive.items()}
parts = []
for start in range(0, len(next(iter(arrays.values()))), int(rows)):
    inputs = []
    for name, array in arrays.items():
        part = array[start : start + int(rows)]
        tensor = triton.InferInput(name, part.shape, np_to_triton_dtype(part.dtype))
        tensor.set_data_from_numpy(part, binary_data=binary)
        inputs.append(tensor)
    described = client.get_model_metadata(model)["outputs"]
    outputs = [triton.InferRequestedOutput(output["name"], binary_data=binary) for output in described]
    answer = client.infer(model, inputs, outputs=outputs)
    parts.append({output["name"]: answer.as_numpy(output["name"]) for output in described})
answers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
text = np.vectorize(lambda value: value if isinstance(value, str) else value.decode())
np.savez(written, **{name: text(a).astype("U") if a.dtype == object else a for name, a in answers.items()})
