"""MLflow's scoring server with a model of three columns: ``sum = factor * (a + b)`` and ``label = text.upper()``."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema


class Adder(mlflow.pyfunc.PythonModel):
    """The model. A negative ``a`` is an error, as a model of one's own may raise one."""

    def predict(
        self, context: object, model_input: pd.DataFrame, params: dict[str, float] | None = None
    ) -> pd.DataFrame:
        if (model_input["a"] < 0).any():
            raise ValueError("a is negative")
        total = (params or {}).get("factor", 1.0) * (model_input["a"] + model_input["b"])
        return pd.DataFrame({"sum": total, "label": model_input["text"].str.upper()})


def main(port: str, _: str) -> None:
    """Save the model, and serve it."""
    columns = [ColSpec(DataType.double, "a"), ColSpec(DataType.double, "b"), ColSpec(DataType.string, "text")]
    signature = ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([ColSpec(DataType.double, "sum"), ColSpec(DataType.string, "label")]),
        params=ParamSchema([ParamSpec("factor", DataType.double, 1.0)]),
    )
    # SIGTERM ends the server, and then this process removes the model.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="fanout-mlflow-") as parent, suppress(KeyboardInterrupt):
        folder = Path(parent, "model")
        # Without requirements nothing looks up which packages are installed, which takes long.
        mlflow.pyfunc.save_model(folder, python_model=Adder(), signature=signature, pip_requirements=[])
        address = ["-h", "127.0.0.1", "-p", port]
        command = ["mlflow", "models", "serve", "-m", str(folder), *address, "--env-manager", "local"]
        sys.exit(subprocess.call([sys.executable, "-m", *command]))


if __name__ == "__main__":
    main(*sys.argv[1:])
