"""`nightproof new` on real models and real data: the folder that it writes answers as the model does."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from nightproof.cli.new import new

TABULAR = Path(__file__).parent.parent / "material" / "tabular"
GERMAN, ADULT, TAXIS = TABULAR / "german_credit.csv", TABULAR / "adult.csv", TABULAR / "nyc_taxis.csv"
TAXI_INPUTS = ["passengers", "distance", "payment", "pickup_borough", "dropoff_borough"]

# Loads a folder as a worker does, in a process of its own, and prints what it declares and answers.
LOAD = """
import json, sys
from pathlib import Path
import msgspec
from nightproof.declare.describe import describe
from nightproof.declare.folder import load_service
from nightproof.workers.child import LoadedService
folder = Path(sys.argv[1])
service = load_service(folder)
described = describe(service, folder)
loaded = LoadedService(service, folder, output_most_bytes=1 << 20)
inputs = [line.encode() for line in sys.argv[2:]]
answers, alone = loaded.answer(inputs)
print(json.dumps({
    "trouble": loaded.trouble_with_golden(),
    "golden": loaded.golden_cases,
    "input": described.input_schema,
    "output": described.output_schema,
    "fallbacks": [way.kind for way in described.fallbacks],
    "answers": [json.loads(a.output) if a.output else a.failure for a in answers],
}))
"""


@dataclass(frozen=True)
class Loaded:
    """What the written folder declares and answers."""

    trouble: str
    golden: int
    input: dict[str, Any]
    output: dict[str, Any]
    fallbacks: list[str]
    answers: list[Any]

    @property
    def fields(self) -> dict[str, Any]:
        return self.input["properties"]


def load(folder: Path, *inputs: dict[str, Any]) -> Loaded:
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), *map(json.dumps, inputs)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return Loaded(**json.loads(run.stdout))


def run_new(*arguments: object) -> Result:
    return CliRunner().invoke(new, [str(argument) for argument in arguments])


def write(folder: Path, model: Path, data: Path, *arguments: object) -> Result:
    result = run_new(folder, "--model", model, "--data", data, *arguments)
    assert result.exit_code == 0, result.output
    return result


def golden_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]


def preprocessing() -> Any:
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer(
        (texts, make_column_selector(dtype_exclude="number")),
        (numbers, make_column_selector(dtype_include="number")),
    )


def german_pipeline() -> tuple[Pipeline, pd.DataFrame]:
    data = pd.read_csv(GERMAN)
    inputs = data.drop(columns="class-label")
    return make_pipeline(preprocessing(), LogisticRegression(max_iter=500)).fit(
        inputs, data["class-label"]
    ), inputs


def assert_well_formatted(folder: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "format", "--isolated", "--check", "--no-cache", str(folder / "service.py")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert len((folder / "service.py").read_text().splitlines()) <= 125


def test_a_classifier_becomes_a_service_without_editing_a_line(tmp_path: Path):
    pipeline, inputs = german_pipeline()
    joblib.dump(pipeline, tmp_path / "m.joblib")
    folder = tmp_path / "german"

    result = write(folder, tmp_path / "m.joblib", GERMAN, "--target", "class-label")

    cases = golden_of(folder)
    strange = cases[0]["input"] | {"purpose": "a boat", "age": 99}
    wrong = cases[0]["input"] | {"age": "99"}
    short = {name: value for name, value in cases[0]["input"].items() if name != "age"}
    loaded = load(folder, cases[0]["input"], strange, wrong, short)
    assert (loaded.trouble, loaded.golden) == ("", 10)
    assert list(loaded.fields) == list(inputs.columns)
    assert set(loaded.input["required"]) == set(inputs.columns)
    assert loaded.fields["age"]["type"] == "integer"
    assert loaded.fields["age"]["x-nightproof-usual"] == {"minimum": 19, "maximum": 74}
    assert "radio/television" in loaded.fields["purpose"]["x-nightproof-usual"]["enum"]
    assert loaded.output["properties"]["class_label"]["enum"] == [0, 1]
    assert loaded.fallbacks == ["previous_release", "constant"]
    assert loaded.answers[0] == pytest.approx(cases[0]["expect"])
    assert loaded.answers[1]["class_label"] in (0, 1)
    assert loaded.answers[2:] == ["invalid_input", "invalid_input"]
    assert {case["expect"]["class_label"] for case in cases} == {0, 1}
    frame = pd.DataFrame([case["input"] for case in cases])
    assert [case["expect"]["class_label"] for case in cases] == pipeline.predict(frame).tolist()
    assert list(pd.read_parquet(folder / "reference.parquet").columns) == list(inputs.columns)
    assert "Rows of your data were copied" in result.output
    assert f"nightproof check {folder}\n  nightproof serve {folder}" in result.output
    assert_well_formatted(folder)


def test_the_data_is_read_as_training_read_it(tmp_path: Path):
    """Blanks and `?` belong to the values for one model, and are cleaned away for the other."""
    plain = pd.read_csv(ADULT)
    clean = pd.read_csv(ADULT, skipinitialspace=True, na_values="?")
    for name, data in (("plain", plain), ("clean", clean)):
        model = make_pipeline(preprocessing(), LogisticRegression(max_iter=300))
        joblib.dump(model.fit(data.drop(columns="income"), data["income"]), tmp_path / f"{name}.joblib")

    told = write(tmp_path / "plain", tmp_path / "plain.joblib", ADULT, "--target", "income").output
    write(tmp_path / "clean", tmp_path / "clean.joblib", ADULT, "--target", "income", "--rows", 50)

    of_plain, of_clean = ((tmp_path / name / "service.py").read_text() for name in ("plain", "clean"))
    assert 'Workclass = Annotated[str, Usual(among=[" ?",' in of_plain
    assert "`?` is a value" in told
    assert "`?` is a value" in of_plain
    assert "Workclass = Annotated[str | None, Usual(among=" in of_clean
    assert '" ?"' not in of_clean
    assert golden_of(tmp_path / "plain")[0]["input"]["sex"].startswith(" ")
    assert any(None in case["input"].values() for case in golden_of(tmp_path / "clean"))
    assert len(pd.read_parquet(tmp_path / "clean" / "reference.parquet")) == 50
    assert_well_formatted(tmp_path / "clean")


def test_a_regressor_answers_numbers_from_the_columns_it_uses(tmp_path: Path):
    data = pd.read_csv(TAXIS)
    model = make_pipeline(preprocessing(), Ridge()).fit(data[TAXI_INPUTS], data["fare"])
    joblib.dump(model, tmp_path / "m.pkl")
    folder = tmp_path / "taxi"

    result = write(folder, tmp_path / "m.pkl", TAXIS, "--target", "fare")

    empty = golden_of(folder)[0]["input"] | {"payment": None, "pickup_borough": None}
    loaded = load(folder, empty)
    assert loaded.trouble == ""
    assert list(loaded.fields) == TAXI_INPUTS
    assert loaded.output["properties"]["fare"]["type"] == "number"
    texts = {name: data[name].dtype for name in ("payment", "pickup_borough")}
    row = pd.DataFrame([{name: np.nan if value is None else value for name, value in empty.items()}])
    row = row.astype(texts)
    assert loaded.answers[0]["fare"] == pytest.approx(model.predict(row)[0])
    assert "unused  pickup" in result.output
    assert_well_formatted(folder)


def test_a_model_fitted_on_an_array_goes_by_position(tmp_path: Path):
    data = pd.read_csv(TAXIS)[["distance", "passengers", "tolls", "fare"]]
    data.to_csv(tmp_path / "d.csv", index=True)
    cheap = (data["fare"] < 10).to_numpy()
    model = LinearSVC(random_state=0).fit(data[["distance", "passengers", "tolls"]].to_numpy(), cheap)
    joblib.dump(model, tmp_path / "m.joblib")
    folder = tmp_path / "cheap"

    result = write(folder, tmp_path / "m.joblib", tmp_path / "d.csv", "--target", "fare")

    loaded = load(folder)
    assert loaded.trouble == ""
    assert list(loaded.fields) == ["distance", "passengers", "tolls"]
    assert loaded.output["properties"] == {"fare": {"title": "Fare", "type": "boolean"}}
    assert "by position only" in result.output


@pytest.mark.parametrize("with_maps", [True, False])
def test_an_onnx_classifier_with_a_tensor_per_column_is_served(tmp_path: Path, with_maps: bool):
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    data = pd.read_csv(GERMAN)
    inputs = data[["duration", "purpose", "credit-amount", "housing"]]
    texts = ["purpose", "housing"]
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), texts), (StandardScaler(), ["duration", "credit-amount"])
    )
    model = make_pipeline(encoder, LogisticRegression()).fit(
        inputs, data["class-label"].map({0: "bad", 1: "good"})
    )
    types = [
        (name, StringTensorType([None, 1]) if name in texts else FloatTensorType([None, 1]))
        for name in inputs.columns
    ]
    options = {} if with_maps else {"options": {"zipmap": False}}
    (tmp_path / "m.onnx").write_bytes(to_onnx(model, initial_types=types, **options).SerializeToString())
    folder = tmp_path / "loan"

    write(folder, tmp_path / "m.onnx", GERMAN, "--target", "class-label")

    loaded = load(folder)
    cases = golden_of(folder)
    assert (loaded.trouble, loaded.golden) == ("", 10)
    assert list(loaded.fields) == ["duration", "purpose", "credit-amount", "housing"]
    assert loaded.output["properties"]["class_label"]["enum"] == ["bad", "good"]
    frame = pd.DataFrame([case["input"] for case in cases])
    assert [case["expect"]["class_label"] for case in cases] == model.predict(frame).tolist()
    assert_well_formatted(folder)


def test_an_onnx_regressor_with_one_tensor_is_served(tmp_path: Path):
    from skl2onnx import to_onnx

    data = pd.read_csv(TAXIS)[["distance", "passengers", "tolls", "fare"]]
    data.to_csv(tmp_path / "d.csv", index=False)
    rows = data[["distance", "passengers", "tolls"]].to_numpy(dtype=np.float32)
    forest = RandomForestRegressor(5, max_depth=3, random_state=0).fit(rows, data["fare"])
    (tmp_path / "m.onnx").write_bytes(to_onnx(forest, rows[:1]).SerializeToString())
    folder = tmp_path / "fare"

    write(folder, tmp_path / "m.onnx", tmp_path / "d.csv", "--target", "fare")

    loaded = load(folder)
    assert loaded.trouble == ""
    assert loaded.output["properties"]["fare"]["type"] == "number"


def test_an_onnx_graph_of_scores_that_takes_one_row_gets_its_labels_from_the_target(tmp_path: Path):
    """As PyTorch exports it: a fixed batch of one, raw scores out."""
    data = pd.read_csv(TAXIS)[["distance", "passengers", "color"]]
    data.to_csv(tmp_path / "d.csv", index=False)
    weights = onnx.numpy_helper.from_array(np.array([[0.5, -0.5], [-0.2, 0.9]], dtype=np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["input", "w"], ["output"])],
        "scores",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 2])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, 2])],
        [weights],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    folder = tmp_path / "color"

    write(folder, tmp_path / "m.onnx", tmp_path / "d.csv", "--target", "color")

    loaded = load(folder, {"distance": 3.0, "passengers": 1})
    assert loaded.trouble == ""
    assert "max_batch=1" in (folder / "service.py").read_text()
    shares = np.exp(np.array([1.3, -0.6]))
    assert loaded.answers[0]["color"] == "green"
    assert loaded.answers[0]["confidence"] == pytest.approx((shares / shares.sum())[0], abs=1e-5)


def test_an_mlflow_model_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow.pyfunc", reason="the extra nightproof[mlflow] is not installed")
    pipeline, inputs = german_pipeline()
    joblib.dump(pipeline, tmp_path / "m.joblib")
    inputs.to_parquet(tmp_path / "inputs.parquet")
    save = """
        import os
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import joblib, mlflow.sklearn, pandas as pd
        from mlflow.models import infer_signature
        model, inputs = joblib.load("m.joblib"), pd.read_parquet("inputs.parquet")
        signature = infer_signature(inputs, model.predict(inputs))
        mlflow.sklearn.save_model(model, "saved", signature=signature, serialization_format="cloudpickle")
    """
    saved = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(save)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert saved.returncode == 0, saved.stderr
    folder = tmp_path / "mine"

    write(folder, tmp_path / "saved", GERMAN, "--target", "class-label")

    cases = golden_of(folder)
    assert len(cases) == 10
    assert "class_label: Literal[0, 1]" in (folder / "service.py").read_text()
    frame = pd.DataFrame([case["input"] for case in cases])
    assert [case["expect"]["class_label"] for case in cases] == pipeline.predict(frame).tolist()
    assert_well_formatted(folder)


def test_the_users_own_module_comes_along_and_parsed_dates_are_served(tmp_path: Path):
    (tmp_path / "calendar_features.py").write_text(
        "class HourModel:\n"
        "    feature_names_in_ = ['pickup', 'distance']\n\n"
        "    def predict(self, rows):\n"
        "        return rows['pickup'].dt.hour + rows['distance']\n"
    )
    make = "import joblib, calendar_features; joblib.dump(calendar_features.HourModel(), 'm.joblib')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    folder = tmp_path / "hour"

    result = write(folder, tmp_path / "m.joblib", TAXIS, "--target", "fare")

    given = {"pickup": "2019-03-23T20:21:09Z", "distance": 1.5}
    later_elsewhere = {"pickup": "2019-03-23T20:21:09+02:00", "distance": 1.5}
    loaded = load(folder, given, later_elsewhere)
    assert loaded.trouble == ""
    assert (folder / "calendar_features.py").exists()
    assert "calendar_features.py" in result.output
    assert loaded.fields["pickup"]["format"] == "date-time"
    assert loaded.answers == [{"fare": 21.5}, {"fare": 19.5}]
    assert_well_formatted(folder)


def test_masked_values_are_nowhere_in_what_is_written(tmp_path: Path):
    data = pd.read_csv(TAXIS)[["distance", "passengers", "fare"]]
    data["e-mail"] = [f"rider{number}@example.org" for number in range(len(data))]
    data.to_csv(tmp_path / "d.csv", index=False)
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", max_categories=2), ["e-mail"]), remainder="passthrough"
    )
    model = make_pipeline(encoder, Ridge()).fit(data.drop(columns="fare"), data["fare"])
    joblib.dump(model, tmp_path / "m.joblib")

    told = write(tmp_path / "open", tmp_path / "m.joblib", tmp_path / "d.csv", "--target", "fare").output
    arguments = ["--target", "fare", "--mask", "e-mail", "--mask", "distance"]
    write(tmp_path / "masked", tmp_path / "m.joblib", tmp_path / "d.csv", *arguments)

    assert "e-mail may tell who somebody is" in told
    assert "--mask e-mail" in told
    cases = golden_of(tmp_path / "masked")
    assert {case["input"]["distance"] for case in cases} == {float(data["distance"].median())}
    assert list(pd.read_parquet(tmp_path / "masked" / "reference.parquet").columns) == ["passengers"]
    written = [
        path for path in (tmp_path / "masked").rglob("*") if path.is_file() and "artifacts" not in path.parts
    ]
    assert not any(b"@example.org" in path.read_bytes() for path in written)
    assert load(tmp_path / "masked").trouble == ""


class Trap:
    """Runs an expression when it is unpickled."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (self.expression,)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("__import__('threading').Event().wait()", "was stopped"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "SIGSEGV"),
        ("__import__('os')._exit(3)", "exit code 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("{'model': 1}", "holds a dict"),
        ("__import__('nowhere_at_all')", "the module 'nowhere_at_all'"),
    ],
)
def test_a_model_file_that_misbehaves_is_an_error_and_leaves_nothing(
    tmp_path: Path, expression: str, told: str
):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Trap(expression)))

    result = run_new(
        tmp_path / "mine", "--model", tmp_path / "m.pkl", "--data", GERMAN, "--target", "class-label",
        "--timeout", 6,
    )  # fmt: skip

    assert result.exit_code == 1
    assert told in result.output
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pkl"]


def test_data_that_does_not_fit_the_model_is_told_plainly(tmp_path: Path):
    pipeline, _ = german_pipeline()
    joblib.dump(pipeline, tmp_path / "m.joblib")

    def told(data: Path, target: str) -> str:
        result = run_new(tmp_path / "x", "--model", tmp_path / "m.joblib", "--data", data, "--target", target)
        assert result.exit_code == 1
        return result.output

    assert "Did you mean 'class-label'?" in told(GERMAN, "class_label")
    assert "takes the target 'age' itself" in told(GERMAN, "age")
    assert "wants columns that adult.csv lacks" in told(ADULT, "income")
    assert "no header line" in told(TABULAR / "horse_colic.csv", "outcome")


def test_a_wrong_call_is_a_usage_error(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")

    def told(*arguments: object) -> str:
        result = run_new(*arguments)
        assert result.exit_code == 2
        return result.output

    assert "lower-case letter" in told(tmp_path / "Not_A_Name")
    assert "not empty" in told(tmp_path / "full")
    assert "belong to a model" in told(tmp_path / "x", "--data", GERMAN)
    assert "--model needs --data" in told(tmp_path / "x", "--model", GERMAN)
    assert "does not exist" in told(tmp_path / "x", "--model", tmp_path / "m", "--data", GERMAN)
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"


def test_the_starter_needs_no_model_and_runs(tmp_path: Path):
    (tmp_path / "mine").mkdir()

    result = run_new(tmp_path / "mine")

    loaded = load(tmp_path / "mine", {"hours_late": -1.0, "visits": 1, "is_new": True})
    assert result.exit_code == 0
    assert (loaded.trouble, loaded.golden) == ("", 4)
    assert loaded.answers == ["invalid_input"]
    assert os.stat(tmp_path / "mine").st_mode & 0o700 == 0o700
    assert_well_formatted(tmp_path / "mine")
