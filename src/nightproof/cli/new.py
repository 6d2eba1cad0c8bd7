"""`nightproof new`: write a whole service folder, from a trained model and a CSV file, or from nothing.

Promises a folder that serves as it is, or nothing: it is built beside its place, and moved there when the
written service has answered its golden cases. Opens model files in child processes only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from nightproof.base.errors import DeclarationError, NightproofError
from nightproof.cli.scaffold.chat_starter import chat_starter_files
from nightproof.cli.scaffold.children import ask
from nightproof.cli.scaffold.plan import Claim, Plan, Proof, Question, Sklearn, Unfit
from nightproof.cli.scaffold.render import readme_text, service_text
from nightproof.cli.scaffold.starter import starter_files
from nightproof.declare.service import Model, Service

_PICKLES = (".joblib", ".pkl", ".pickle", ".sav")
_OTHERS = {
    ".pt": "PyTorch", ".pth": "PyTorch", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow",
    ".safetensors": "weights only", ".json": "JSON", ".ubj": "XGBoost", ".bst": "XGBoost", ".txt": "text",
    ".cbm": "CatBoost", ".pmml": "PMML", ".skops": "skops",
}  # fmt: skip


@click.command()
@click.argument("name")
@click.option(
    "--model", type=click.Path(path_type=Path), help="joblib or pickle file, .onnx file, or MLflow folder"
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="CSV file that the model was trained on, or like it"
)
@click.option("--target", default="", help="the column that the model answers")
@click.option(
    "--mask", multiple=True, metavar="COLUMN", help="write no value of this column; may be repeated"
)
@click.option("--chat", is_flag=True, help="a chat service: a prompt on an LLM, with checks and fallbacks")
@click.option(
    "--rows",
    type=click.IntRange(0, 1_000_000),
    default=5_000,
    show_default=True,
    help="rows of the data copied into reference.parquet; 0 for none",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 3_600),
    default=120,
    show_default=True,
    help="seconds that the model may take to load and answer a sample",
)
def new(
    name: str,
    model: Path | None,
    data: Path | None,
    target: str,
    mask: tuple[str, ...],
    chat: bool,
    rows: int,
    timeout_s: float,
) -> None:
    """Write the service folder NAME: from a model and its data, or a starter that runs.

    \b
    nightproof new credit --model model.joblib --data train.csv --target default
    nightproof new mine
    nightproof new helper --chat

    Opening a joblib or pickle file runs the code inside it: use files whose maker you trust.
    """
    folder = Path(name)
    if chat and (model is not None or data is not None or target or mask):
        raise click.UsageError(
            "--chat is for services that ask an LLM: --model and its options go without it."
        )
    _refuse_bad_usage(folder, model, data, target=target, mask=mask)
    try:
        if chat:
            _write_chat_starter(folder)
        elif model is None or data is None:
            _write_starter(folder)
        else:
            question = Question(source=str(model), data=str(data), target=target, mask=list(mask), rows=rows)
            _write_from(folder, model, question, timeout_s=timeout_s)
    except NightproofError as error:
        _tell_error(error)
        sys.exit(1)
    click.echo("\nNext:")
    click.echo(f"  nightproof check {name}")
    click.echo(f"  nightproof serve {name}")


def _refuse_bad_usage(
    folder: Path, model: Path | None, data: Path | None, *, target: str, mask: Sequence[str]
) -> None:
    try:
        Service(folder.name, model=Model)
    except DeclarationError as error:
        raise click.UsageError(str(error)) from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise click.UsageError(f"{folder} exists and is not empty. Choose another name, or move it away.")
    if not folder.parent.is_dir():
        raise click.UsageError(f"{folder.parent} is not a folder. Make it first, or choose another place.")
    if model is None:
        if data is not None or target or mask:
            raise click.UsageError(
                "--data, --target and --mask belong to a model: name its file with --model."
            )
        return
    if data is None:
        raise click.UsageError("--model needs --data: a CSV file from which the types are inferred.")
    for path in (model, data):
        if not path.exists():
            raise click.UsageError(f"{path} does not exist.")


def _write_starter(folder: Path) -> None:
    with _built_beside(folder) as staging:
        for place, text in starter_files(folder.name).items():
            _write(staging / place, text)
    click.echo(
        f"Wrote {folder}/: a starter with a small model in plain Python. Replace its parts with yours."
    )


def _write_chat_starter(folder: Path) -> None:
    with _built_beside(folder) as staging:
        for place, text in chat_starter_files(folder.name).items():
            _write(staging / place, text)
    click.echo(
        f"Wrote {folder}/: a chat service with a stand-in for the model. Look for REVIEW in its service.py."
    )


def _write_from(folder: Path, model: Path, question: Question, *, timeout_s: float) -> None:
    with _built_beside(folder) as staging:
        file = _copy_model(model, staging / "artifacts")
        asked = msgspec.structs.replace(question, folder=str(staging), file=file)
        plan = ask("probe", asked, Plan, timeout_s=timeout_s)
        _copy_modules(plan.modules, staging)
        _write(staging / "service.py", service_text(folder.name, plan))
        claim = Claim(
            folder=str(staging), inputs=plan.golden, expected=plan.expected, field=plan.answer.field
        )
        proof = ask("prove", claim, Proof, timeout_s=timeout_s)
        _write(staging / "service.py", service_text(folder.name, plan, proof))
        _write(staging / "README.md", readme_text(folder.name, plan, proof))
        shutil.rmtree(staging / "__pycache__", ignore_errors=True)
    _tell(folder, question, plan, proof)


@contextmanager
def _built_beside(folder: Path) -> Iterator[Path]:
    """Give a folder to build in, and move it into place when all went well; leave nothing otherwise."""
    staging = folder
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)).resolve()
        yield staging
        staging.chmod(0o777 & ~_umask())
        if folder.exists():
            folder.rmdir()  # it was empty; if somebody filled it meanwhile, this says so
        staging.rename(folder)
    except OSError as error:
        raise Unfit(
            f"{folder} cannot be written: {error}.", hint="Is the disk full, or the folder read-only?"
        ) from error
    finally:
        if staging != folder:
            shutil.rmtree(staging, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy_model(model: Path, artifacts: Path) -> str:
    """Copy the model into the folder and return its name there."""
    artifacts.mkdir()
    if model.name == "MLmodel":
        model = model.parent
    if model.is_dir():
        if not (model / "MLmodel").is_file():
            raise Unfit(
                f"{model} is a folder without an MLmodel file.",
                hint="Give an MLflow model's folder, or a file.",
            )
        shutil.copytree(model, artifacts / "model")
        return "model"
    suffix = model.suffix.lower()
    if suffix in _OTHERS:
        raise Unfit(
            f"{model.name} ({_OTHERS[suffix]}) cannot be opened by itself.",
            hint="Save the model with joblib.dump, export it to ONNX, or log it with MLflow.",
        )
    name = f"model{suffix if suffix in (*_PICKLES, '.onnx') else '.joblib'}"
    shutil.copyfile(model, artifacts / name)
    return name


def _copy_modules(modules: Sequence[str], staging: Path) -> None:
    for module in map(Path, modules):
        if module.is_dir():
            shutil.copytree(module, staging / module.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(module, staging / module.name)


def _tell(folder: Path, question: Question, plan: Plan, proof: Proof) -> None:
    kinds = ", ".join(
        f"{sum(column.kind == kind for column in plan.columns)} {kind}"
        for kind in sorted({column.kind for column in plan.columns})
    )
    nullable = sum(column.nullable for column in plan.columns)
    click.echo(f"Wrote {folder}/")
    click.echo(f"  model   {plan.model_words}")
    click.echo(f"  data    {plan.data_words}")
    if plan.reading_words:
        click.echo(f"          read as the model was trained: {plan.reading_words}")
    click.echo(
        f"  input   {len(plan.columns)} fields ({kinds}{f'; {nullable} may be null' if nullable else ''})"
    )
    if plan.unused:
        click.echo(f"  unused  {_some(plan.unused)}")
    click.echo(
        f"  answer  {plan.answer.field}{f', {plan.answer.confidence}' if plan.answer.confidence else ''}"
    )
    for note in [*plan.notes, *proof.notes]:
        click.echo(f"  note    {note}")
    for module in plan.modules:
        click.echo(f"  note    the model needs your {Path(module).name}: it was copied beside service.py")
    copied = f"{proof.golden_cases} into golden.jsonl"
    if plan.reference_rows:
        copied += f", {plan.reference_rows:,} into reference.parquet (drift is measured against them)"
    click.echo(f"\nRows of your data were copied into the folder: {copied}.")
    if plan.masked:
        click.echo(
            f"Masked, so not copied: {', '.join(plan.masked)}. The model file may still remember some."
        )
    else:
        click.echo("To keep a column's values out of it, add --mask COLUMN.")
    if plan.personal:
        _tell_personal(folder, question, plan)
    if isinstance(plan.family, Sklearn):
        click.echo("The model file is a pickle: whoever loads it runs the code inside it.")


def _tell_personal(folder: Path, question: Question, plan: Plan) -> None:
    place = shlex.quote(str(folder))
    masks = " ".join(f"--mask {shlex.quote(name.strip())}" for name in [*question.mask, *plan.personal])
    target = f" --target {shlex.quote(question.target)}" if question.target else ""
    click.secho(
        f"Warning: {', '.join(name.strip() for name in plan.personal)} may tell who somebody is.",
        fg="yellow",
        err=True,
    )
    click.echo(
        f"  rm -r {place} && nightproof new {place} --model {shlex.quote(question.source)}"
        f" --data {shlex.quote(question.data)}{target} {masks}",
        err=True,
    )


def _some(names: Sequence[str], at_most: int = 6) -> str:
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"


def _tell_error(error: NightproofError) -> None:
    click.secho(f"Error: {error.text}", fg="red", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
