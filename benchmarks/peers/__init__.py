"""The neighbours, each in the mode that is best for it here."""

import json

from benchmarks import envelopes
from benchmarks.systems import HERE, Place, Recipe, free_port, run_step

PEERS = HERE / "peers"


def _baseline(place: Place) -> list[str]:
    return [
        str(place.python), "-m", "uvicorn", "app:app", "--app-dir", str(HERE / "baseline"),
        "--host", "127.0.0.1", "--port", str(place.port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


def _baseline_twice(place: Place) -> list[str]:
    return [*_baseline(place), "--workers", "2"]


def _bentoml(place: Place) -> list[str]:
    return [
        str(place.python), "-m", "bentoml", "serve", "service:Tumour",
        "--working-dir", str(PEERS / "bentoml"), "--host", "127.0.0.1", "--port", str(place.port),
    ]  # fmt: skip


def _litserve(place: Place) -> list[str]:
    return [str(place.python), str(PEERS / "litserve" / "server.py"), str(place.port)]


def _write_mlserver_settings(place: Place) -> None:
    ports = {"http_port": place.port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": 1, **ports}
    model = {
        "name": "tumour",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 64,
        "max_batch_time": 0.005,
        "parameters": {"uri": place.environment["BENCH_ARTIFACTS"] + "/model.joblib"},
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))


def _mlserver(place: Place) -> list[str]:
    return [str(place.python.parent / "mlserver"), "start", str(place.folder)]


def _save_for_mlflow(place: Place) -> None:
    run_step([str(place.python), str(PEERS / "mlflow" / "save.py"), str(place.folder / "model")], place)


def _mlflow(place: Place) -> list[str]:
    return [
        str(place.python), "-m", "mlflow", "models", "serve", "-m", str(place.folder / "model"),
        "--env-manager", "local", "-h", "127.0.0.1", "-p", str(place.port), "--workers", "2",
    ]  # fmt: skip


def _ray(place: Place) -> list[str]:
    return [str(place.python), str(PEERS / "ray" / "app.py"), str(place.port)]


BASELINE = Recipe(
    name="baseline",
    title="FastAPI, nothing on",
    requirements=HERE / "baseline" / "requirements.txt",
    command=_baseline,
)

_RAY = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}

NEIGHBOURS = (
    Recipe(
        name="fastapi-2",
        title="FastAPI, 2 processes, nothing on",
        requirements=HERE / "baseline" / "requirements.txt",
        environment_name="baseline",
        command=_baseline_twice,
    ),
    Recipe(
        name="bentoml",
        title="BentoML, 2 workers",
        requirements=PEERS / "bentoml" / "requirements.txt",
        command=_bentoml,
        envelope=envelopes.bento,
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Recipe(
        name="litserve",
        title="LitServe, batches",
        requirements=PEERS / "litserve" / "requirements.txt",
        command=_litserve,
    ),
    Recipe(
        name="mlserver",
        title="MLServer, batches",
        requirements=PEERS / "mlserver" / "requirements.txt",
        prepare=_write_mlserver_settings,
        command=_mlserver,
        path="/v2/models/tumour/infer",
        envelope=envelopes.open_inference,
    ),
    Recipe(
        name="mlflow",
        title="MLflow, 2 workers",
        requirements=PEERS / "mlflow" / "requirements.txt",
        prepare=_save_for_mlflow,
        command=_mlflow,
        path="/invocations",
        envelope=envelopes.mlflow,
    ),
    Recipe(
        name="ray",
        title="Ray Serve, its own proxy",
        requirements=PEERS / "ray" / "requirements.txt",
        command=_ray,
        environment=_RAY,
    ),
    Recipe(
        name="ray-haproxy",
        title="Ray Serve, HAProxy",
        requirements=PEERS / "ray" / "requirements.txt",
        environment_name="ray",
        command=_ray,
        environment={**_RAY, "RAY_SERVE_ENABLE_HA_PROXY": "1"},
    ),
)
