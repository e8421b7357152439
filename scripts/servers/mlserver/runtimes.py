"""The models that MLServer serves here."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel  # type: ignore[attr-defined] # mypy takes this folder for the package
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


class Digits(MLModel):
    """Images of 64 pixels from 0 to 1 -> probabilities of the ten digits.

    MLServer merges waiting requests into one batch for it, and scikit-learn refuses a batch that has a NaN in it.
    """

    async def load(self) -> bool:
        """Train, on the spot."""
        digits = load_digits()
        self.classifier = LogisticRegression(max_iter=2000).fit(digits.data / 16, digits.target)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The probabilities as float64."""
        features = NumpyCodec.decode_input(payload.inputs[0])
        if (features < 0).any():
            raise ValueError("a pixel is darker than black")
        await asyncio.sleep(0.01)
        probabilities = self.classifier.predict_proba(features)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probs", probabilities)])


class Logarithm(MLModel):
    """NaN where a number is negative."""

    async def load(self) -> bool:
        """Nothing to do."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The natural logarithm of each number, in the datatype that came."""
        with np.errstate(all="ignore"):
            logs = np.log(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", logs)])
