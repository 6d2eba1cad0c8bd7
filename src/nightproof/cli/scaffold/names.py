"""Make Python names of column names, each once."""

from __future__ import annotations

import keyword
import re
import unicodedata

from pydantic import BaseModel

_WRITTEN = frozenset(
    [
        "Annotated",
        "Any",
        "Answer",
        "Confidence",
        "ConfigDict",
        "Field",
        "GAPS",
        "Input",
        "Literal",
        "Model",
        "Objective",
        "Path",
        "Service",
        "Usual",
        "bool",
        "datetime",
        "fallback",
        "float",
        "int",
        "joblib",
        "json",
        "mlflow",
        "np",
        "onnxruntime",
        "os",
        "pd",
        "str",
        "service",
    ]
)
"""Names that a written service.py uses itself."""


def field_name(name: str, taken: set[str]) -> str:
    """Return a field name for the column `name` and add it to `taken`.

    >>> field_name("checking-account", set()), field_name("class", set()), field_name("2nd €", set())
    ('checking_account', 'class_', 'column_2nd')
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    found = re.sub(r"[^0-9a-z]+", "_", _split_camel(plain).lower()).strip("_") or "column"
    if found[0].isdigit():
        found = f"column_{found}"
    if (
        keyword.iskeyword(found)
        or found in _WRITTEN
        or hasattr(BaseModel, found)
        or found.startswith(("model_dump", "model_validate"))
    ):
        found = f"{found}_"
    return _only_once(found, taken)


def type_name(field: str, taken: set[str]) -> str:
    """Return a name for the type of a field, as `CheckingAccount`, and add it to `taken`."""
    found = "".join(part.capitalize() for part in field.split("_"))
    if found in _WRITTEN or keyword.iskeyword(found):
        found = f"{found}Values"
    return _only_once(found, taken)


def class_name(service: str) -> str:
    """Return the name of the model's class: `credit-risk` gives `CreditRiskModel`."""
    return "".join(part.capitalize() for part in re.split(r"[_-]+", service)) + "Model"


def _split_camel(name: str) -> str:
    """Put a low line where a CamelCase name goes up, but not inside `AGE` or `PM10`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)


def _only_once(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found = f"{name.rstrip('_')}_{number}"
        number += 1
    taken.add(found)
    return found
