"""Save the model as MLflow wants it: a folder with `MLmodel` that answers class probabilities."""

import os
import shutil
import sys
from pathlib import Path

import joblib
import mlflow.sklearn

if __name__ == "__main__":
    into = Path(sys.argv[1])
    shutil.rmtree(into, ignore_errors=True)
    mlflow.sklearn.save_model(
        joblib.load(Path(os.environ["BENCH_ARTIFACTS"]) / "model.joblib"),
        str(into),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
    )
