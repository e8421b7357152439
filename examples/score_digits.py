"""Compare the output of config.example.toml with the labels; run the job first if there is no output."""

import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PROBABILITIES = ROOT / "out" / "probabilities.npy"


def main() -> None:
    if not PROBABILITIES.exists():
        job = ROOT / "config.example.toml"
        subprocess.run([sys.executable, "-m", "fanout", "run", str(job), "--quiet"], check=True)
    probabilities = np.load(PROBABILITIES)
    labels = np.load(ROOT / "examples" / "digits.npz")["labels"]
    if len(probabilities) != len(labels):
        sys.exit(f"{PROBABILITIES} has {len(probabilities)} rows, not {len(labels)}: delete it to run the job again")

    # Row i of the output belongs to row i of the input, so no key or index is needed to compare them.
    digits = probabilities.argmax(axis=1)
    print(f"accuracy {(digits == labels).mean():.4f} on {len(labels)} images")
    for digit in range(10):
        print(f"  {digit}: {(digits[labels == digit] == digit).mean():.3f}")


if __name__ == "__main__":
    main()
