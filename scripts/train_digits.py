"""Train the packaged digits classifier and write its weights and the example's images; the same files every time.

Data: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, as shipped by scikit-learn. Every fifth image is held out of the training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write ``fanout/serving/digits.npz`` and ``examples/digits.npz``; print the accuracy."""
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    held_out = np.arange(len(images)) % 5 == 4
    model = LogisticRegression(C=1.0, max_iter=1000).fit(images[~held_out], labels[~held_out])
    np.savez_compressed(
        ROOT / "fanout" / "serving" / "digits.npz",
        weights=model.coef_.astype(np.float32),
        bias=model.intercept_.astype(np.float32),
    )
    np.savez_compressed(ROOT / "examples" / "digits.npz", images=images, labels=labels)
    print(f"accuracy, held out: {model.score(images[held_out], labels[held_out]):.3f}")
    print(f"accuracy, all: {model.score(images, labels):.3f}")


if __name__ == "__main__":
    main()
