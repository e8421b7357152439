"""Embed 160 sentences with MiniLM, and print the nearest sentence of some of them.

Start the server first; the first start installs it:  python scripts/servers embeddings --port 8001
Then:  python examples/nearest_sentences.py [http://127.0.0.1:8001]
"""

import sys

import numpy as np

import fanout

SERVER = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8001"
WHO = ["A cat", "My dog", "A neighbour", "The violinist", "A shark", "The mayor", "An astronaut", "The gardener"]
WHAT = [
    ["sleeps on the sofa", "takes a nap on the couch"],
    ["swims across the lake", "crosses the water with strong strokes"],
    ["plays a sad melody", "makes mournful music"],
    ["wins the election", "is voted into office"],
    ["orbits the Earth", "circles our planet in space"],
    ["plants roses in spring", "puts flowers into the soil"],
    ["misses the last train", "comes too late to the railway station"],
    ["bakes fresh bread", "takes a warm loaf out of the oven"],
    ["reads a long novel", "turns the pages of a thick book"],
    ["repairs the broken car", "fixes the engine of the vehicle"],
]
SENTENCES = [f"{who} {words}." for pair in WHAT for words in pair for who in WHO]

codec = fanout.codec("openai-embeddings", model="all-MiniLM-L6-v2")
vectors = fanout.map(SENTENCES, SERVER, codec=codec, chunk_rows=16)  # shape (160, 384), float32, of length 1
likeness = vectors @ vectors.T  # cosine similarity
np.fill_diagonal(likeness, -1)
print("sentences", vectors.shape, vectors.dtype)
for i in range(0, len(SENTENCES), 17):
    nearest = likeness[i].argmax()
    print(f"{likeness[i, nearest]:.2f}  {SENTENCES[i]:<45}  {SENTENCES[nearest]}")
