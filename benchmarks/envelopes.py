"""How each system wants a record wrapped. Content is the same; the wrapping is what its protocol demands."""

import json
from collections.abc import Callable

Record = dict[str, float]


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def plain(record: Record) -> bytes:
    """The record itself, 756 bytes on average."""
    return _compact(record)


def bento(record: Record) -> bytes:
    """BentoML: named after the argument of the method."""
    return _compact({"record": record})


def mlflow(record: Record) -> bytes:
    """MLflow's scoring protocol: a frame as a list of records."""
    return _compact({"dataframe_records": [record]})


def open_inference(record: Record) -> bytes:
    """Open Inference Protocol v2: one FP64 tensor; only the probabilities are asked for."""
    row = list(record.values())
    tensor = {"name": "predict", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    return _compact({"inputs": [tensor], "outputs": [{"name": "predict_proba"}]})


Envelope = Callable[[Record], bytes]
