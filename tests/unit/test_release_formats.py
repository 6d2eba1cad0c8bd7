"""What a file is, told from its bytes: sound files, broken ones, and such as call themselves something else."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from nightproof.releases.formats import Looked, look


class Gadget:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/nightproof-gadget-ran",)


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Write a file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zipped(members: dict[str, bytes]) -> bytes:
    """Write a zip."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def npy(array: Any) -> bytes:
    """Write an array as numpy does."""
    target = io.BytesIO()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


def onnx(*, domain: str = "", location: str = "") -> bytes:
    """Write a small model, with an operator of this domain, or weights in another file."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if location:
        weights.ClearField("float_data")
        weights.data_location = TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", location
    node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return bytes(helper.make_model(helper.make_graph([node], "g", [x], [y], [weights])).SerializeToString())


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SOUND = {
    "service.py": (b"import os\n", "text"),
    "LICENSE": (b"Do what you like.\n", "text"),
    "notes.md": ("ä" * 5_000).encode() and ("ä".encode() * 2_048 + b"x", "text"),
    "data.csv": (b"MZ,b\n1,2\n", "text"),
    "a.json": (b'{"a": 1}', "data"),
    "golden.jsonl": (b'{"a": 1}\n\n{"a": 2}\n', "data"),
    "w.safetensors": (safetensors({"a": TENSOR, "__metadata__": {"x": "y"}}, b"\0" * 8), "data"),
    "m.onnx": (onnx(), "data"),
    "a.npy": (npy(np.zeros(3)), "data"),
    "a.npz": (zipped({"a.npy": npy(np.zeros(3))}), "data"),
    "m.skops": (
        zipped({"schema.json": b'{"__class__": "Pipeline", "__module__": "sklearn.pipeline"}'}),
        "data",
    ),
    "t.parquet": (b"PAR1" + b"x" * 8 + (4).to_bytes(4, "little") + b"PAR1", "data"),
    "m.gguf": (b"GGUF\3\0\0\0", "data"),
    "logo.png": (b"\x89PNG\r\n\x1a\n\0\0", "data"),
    "m.tflite": (b"\x1c\0\0\0TFL3\0", "data"),
    "m.cbm": (b"CBM1\0\0", "data"),
    "m.pkl": (pickle.dumps({"a": 1}), "pickle"),
    "old.pkl": (pickle.dumps({"a": 1}, protocol=0), "pickle"),
    "m.joblib": (b"\x78\x9cnot to be read without running it", "pickle"),
    "m.pt": (zipped({"archive/data.pkl": pickle.dumps(1), "archive/data/0": b"x"}), "pickle"),
    "lib.so": (b"\x7fELF\2\1\1", "native"),
    "m.bin": (b"\0\1\2\3", "unknown"),
}
BROKEN = {
    "json": ("a.json", b"{not json"),
    "json lines": ("a.jsonl", b"{}\nnope\n"),
    "text with zeros": ("service.py", b"x = 1\0"),
    "text that is not UTF-8": ("service.py", b"x = '\xff\xfe'\n"),
    "header of 16 EiB": ("w.safetensors", safetensors({}, length=2**64 - 1)),
    "a tensor twice": ("w.safetensors", safetensors(b'{"a":' + json.dumps(TENSOR).encode() + b',"a":{}}', b"\0" * 8)),
    "overlap": ("w.safetensors", safetensors({"a": TENSOR, "b": TENSOR}, b"\0" * 8)),
    "hole": ("w.safetensors", safetensors({"a": {**TENSOR, "data_offsets": [8, 16]}}, b"\0" * 16)),
    "more than is said": ("w.safetensors", safetensors({"a": TENSOR}, b"\0" * 9)),
    "product overflow": (
        "w.safetensors", safetensors({"a": {**TENSOR, "shape": [2**40, 2**40], "data_offsets": [0, 0]}}),
    ),
    "too many tensors": ("w.safetensors", safetensors({f"t{n}": TENSOR for n in range(100_001)})),
    "no protobuf": ("m.onnx", b"\xff" * 40),
    "no graph": ("m.onnx", b""),
    "weights outside": ("m.onnx", onnx(location="../../etc/passwd")),
    "weights by a full path": ("m.onnx", onnx(location="/etc/passwd")),
    "zip member outside": ("a.npz", zipped({"../a.npy": npy(np.zeros(1))})),
    "bad zip": ("a.npz", b"PK\x03\x04" + b"x" * 50),
    "skops without schema": ("m.skops", zipped({"a.npy": npy(np.zeros(1))})),
    "half a parquet": ("t.parquet", b"PAR1abc"),
}  # fmt: skip
DISGUISED = {
    "as json": ("a.json", pickle.dumps(Gadget())),
    "as safetensors": ("w.safetensors", pickle.dumps(Gadget())),
    "as onnx": ("m.onnx", pickle.dumps(Gadget())),
    "as text": ("notes.txt", pickle.dumps(Gadget())),
    "as csv, protocol 0": ("data.csv", pickle.dumps(Gadget(), protocol=0)),
    "as python": ("helper.py", pickle.dumps(Gadget(), protocol=4)),
    "in a skops": ("m.skops", zipped({"schema.json": b"{}", "inner.pkl": pickle.dumps(Gadget())})),
    "in an npz": ("a.npz", zipped({"a.npy": npy(np.array([Gadget()], dtype=object))})),
    "in an npy": ("a.npy", npy(np.array([Gadget()], dtype=object))),
    "torch as safetensors": ("w.safetensors", zipped({"archive/data.pkl": pickle.dumps(Gadget())})),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_is_what_it_says(name: str):
    content, kind = SOUND[name]

    found = look(name, content)

    assert (found.kind, found.problem) == (kind, "")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_as_one(case: str):
    name, content = BROKEN[case]

    found = look(name, content)

    assert found.problem
    assert found.kind in ("unknown", "data")


@pytest.mark.parametrize("case", DISGUISED)
def test_a_pickle_under_another_name_is_found_and_not_run(case: str):
    name, content = DISGUISED[case]

    found = look(name, content)

    assert found.kind == "pickle"
    assert found.problem
    assert not os.path.exists("/tmp/nightproof-gadget-ran")


def test_what_a_pickle_imports_is_told():
    found = look("m.pkl", pickle.dumps([Gadget(), np.float64(1)]))

    assert found == Looked("pickle", "pickle", evidence=found.evidence)
    assert "posix.system" in found.evidence[0]


def test_weights_beside_the_model_are_taken_where_the_release_lists_them():
    model = onnx(location="weights.bin")

    inside = look("artifacts/m.onnx", model, beside={"artifacts/m.onnx", "artifacts/weights.bin"})

    assert (inside.kind, inside.problem) == ("data", "")
    assert look("artifacts/m.onnx", model, beside={"weights.bin"}).problem


def test_operators_of_ones_own_count_as_native_code():
    found = look("m.onnx", onnx(domain="com.example"))

    assert found.kind == "native"
    assert "com.example" in found.evidence[0]
