"""Start each system of the readiness table with the misbehaving model, in the mode that its pages call best."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ours, peers, systems
from benchmarks.make_model import SERVICES, fill_services
from benchmarks.systems import HERE, NotRun, Place, Recipe, Running, free_port, run_step

READINESS = Path(__file__).parent
PROGRAMS = READINESS / "services"


@dataclass(frozen=True, kw_only=True)
class System:
    """One column of the table."""

    name: str
    title: str
    package: str
    """Whose version is told."""
    configured: str
    """What was set, and what was left as it comes."""
    recipe: Recipe | None = None
    """None: Nightproof itself."""
    adapter: str = ""
    """Another's, where two columns are modes of one system."""
    max_batch: int = 1
    """Of Nightproof."""


def _fastapi(place: Place) -> list[str]:
    return [
        str(place.python), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(PROGRAMS), "--host", "127.0.0.1",
        "--port", str(place.port), "--workers", "2", "--limit-concurrency", "40", "--no-access-log",
        "--log-level", "warning",
    ]  # fmt: skip


def _bentoml(place: Place) -> list[str]:
    return [
        str(place.python), "-m", "bentoml", "serve", "service:Tumour", "--working-dir", str(PROGRAMS / "bentoml"),
        "--host", "127.0.0.1", "--port", str(place.port),
    ]  # fmt: skip


def _litserve(place: Place) -> list[str]:
    return [str(place.python), str(PROGRAMS / "litserve_server.py"), str(place.port)]


def _prepare_mlserver(place: Place) -> None:
    model = place.folder / "misbehaving.joblib"
    run_step([str(place.python), str(READINESS / "save.py"), str(model)], place)
    ports = {"http_port": place.port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": 2, **ports}
    told = {
        "name": "tumour",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(model)},
    }
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(told))


def _mlserver(place: Place) -> list[str]:
    return [str(place.python.parent / "mlserver"), "start", str(place.folder)]


def _ray(place: Place) -> list[str]:
    return [str(place.python), str(PROGRAMS / "ray_app.py"), str(place.port)]


SYSTEMS = (
    System(
        name="nightproof",
        title="Nightproof",
        package="nightproof",
        configured="`nightproof serve`; `deadline_ms=2_000`, `workers=(2, 2)`, `max_batch=1` (no batches, as for the"
        " others); no fallback declared; the rest as it comes: two spares, a bounded queue, health by golden cases, a"
        " record of every answer",
    ),
    System(
        name="nightproof-batches",
        title="Nightproof, batches",
        package="nightproof",
        adapter="nightproof",
        max_batch=64,
        configured="the same with `max_batch=64`, as it comes: right for a model that takes many records at once, while"
        " this one works 20 ms for each",
    ),
    System(
        name="fastapi",
        title="FastAPI",
        package="fastapi",
        configured="uvicorn `--workers 2 --limit-concurrency 40`, a plain `def` handler (thread pool), `/health` as a"
        " plain `def`; uvicorn restarts processes that die or do not answer its own check for 5 s; there is no time"
        " limit to set. The limit counts connections too, so that 100 slow ones use it up; with 100 in its place they"
        " did not, and under overload callers waited longer",
        recipe=Recipe(
            name="fastapi-readiness",
            title="FastAPI",
            requirements=HERE / "baseline" / "requirements.txt",
            environment_name="baseline",
            command=_fastapi,
        ),
    ),
    System(
        name="bentoml",
        title="BentoML",
        package="bentoml",
        configured='`workers=2`, `traffic={"timeout": 2, "max_concurrency": 40}`; the rest as it comes',
        recipe=Recipe(
            name="bentoml-readiness",
            title="BentoML",
            requirements=peers.PEERS / "bentoml" / "requirements.txt",
            environment_name="bentoml",
            command=_bentoml,
            envelope=peers.envelopes.bento,
            environment={"BENTOML_DO_NOT_TRACK": "True"},
        ),
    ),
    System(
        name="litserve",
        title="LitServe",
        package="litserve",
        configured="`workers_per_device=2`, `timeout=2`, `restart_workers=True` (as it comes it is off, and the server"
        " ends when a worker dies), one API server, a request typed by Pydantic; no batches",
        recipe=Recipe(
            name="litserve-readiness",
            title="LitServe",
            requirements=peers.PEERS / "litserve" / "requirements.txt",
            environment_name="litserve",
            command=_litserve,
        ),
    ),
    System(
        name="mlserver",
        title="MLServer",
        package="mlserver",
        configured="`parallel_workers=2`, the scikit-learn runtime; no adaptive batching, as it comes; there is no time"
        " limit and no limit of requests to set",
        recipe=Recipe(
            name="mlserver-readiness",
            title="MLServer",
            requirements=peers.PEERS / "mlserver" / "requirements.txt",
            environment_name="mlserver",
            prepare=_prepare_mlserver,
            command=_mlserver,
            path="/v2/models/tumour/infer",
            envelope=peers.envelopes.open_inference,
        ),
    ),
    System(
        name="ray",
        title="Ray Serve",
        package="ray",
        configured="a FastAPI ingress, two replicas, `max_ongoing_requests=5` (as it comes),"
        " `max_queued_requests=40`, `request_timeout_s=2`, `health_check_period_s=2`, `health_check_timeout_s=2`,"
        " its own proxy",
        recipe=Recipe(
            name="ray-readiness",
            title="Ray Serve",
            requirements=peers.PEERS / "ray" / "requirements.txt",
            environment_name="ray",
            command=_ray,
            environment={"RAY_USAGE_STATS_ENABLED": "0"},
            start_patience_s=150.0,
        ),
    ),
)


@contextmanager
def serve(system: System, results: Path) -> Iterator[Running]:
    """Serve the misbehaving model until the block ends. Raises NotRun."""
    pids = pids_of(system, results)
    shutil.rmtree(pids, ignore_errors=True)
    pids.mkdir(parents=True)
    if system.recipe is None:
        with ours.serve("tumour", results, served=_our_folder(system, results, pids)) as running:
            yield running
        return
    recipe = system.recipe
    environment = {**recipe.environment, "PYTHONPATH": str(READINESS), "READINESS_PIDS": str(pids)}
    started = Recipe(**{**vars(recipe), "environment": environment})
    with ExitStack() as stack:
        yield _start(stack, started, results)


def _start(stack: ExitStack, recipe: Recipe, results: Path) -> Running:
    """Start a neighbour; once more where that fails: a port that was free may be taken when it is bound."""
    try:
        return stack.enter_context(systems.start(recipe, results))
    except NotRun:
        return stack.enter_context(systems.start(recipe, results))


def pids_of(system: System, results: Path) -> Path:
    """Name the folder in which processes that predict leave a file."""
    return (results / f"pids-{system.name}").absolute()


def crash_command(system: System, results: Path) -> str:
    """Write the command that kills the process that predicted last."""
    last = f"ls -t {pids_of(system, results)}"
    return f'for pid in $({last}); do kill -9 "$pid" 2>/dev/null && exit 0; done; exit 1'


def version_of(system: System) -> str:
    """Tell the version that runs."""
    if system.recipe is None:
        from importlib import metadata

        return metadata.version(system.package)
    home = systems.VENVS / (system.recipe.environment_name or system.recipe.name)
    found = sorted(home.glob(f"lib/python3*/site-packages/{system.package}-*.dist-info"))
    if not found:
        raise NotRun(f"{system.package} is not installed")
    return found[-1].name.removesuffix(".dist-info").rpartition("-")[2]


def _our_folder(system: System, results: Path, pids: Path) -> Path:
    """Make the service folder: what every measured service shares, and the misbehaving model."""
    fill_services()
    folder = results / "tumour"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROGRAMS / "nightproof", folder)
    shutil.copytree(SERVICES / "fast" / "artifacts", folder / "artifacts")
    shutil.copyfile(SERVICES / "measurements.py", folder / "measurements.py")
    shutil.copyfile(SERVICES / "fast" / "golden.jsonl", folder / "golden.jsonl")
    shutil.copyfile(READINESS / "misbehaving.py", folder / "misbehaving.py")
    (folder / "pids.txt").write_text(str(pids))
    program = folder / "service.py"
    program.write_text(program.read_text().replace("max_batch=1", f"max_batch={system.max_batch}"))
    return folder


def set_key(running: Running) -> None:
    """Hand the key to the adapter, as a user does: by the environment."""
    if running.token:
        os.environ["NIGHTPROOF_KEY"] = running.token
