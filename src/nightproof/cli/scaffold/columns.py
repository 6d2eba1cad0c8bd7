"""Infer each column's type, range and categories from the data.

Called by `planning`; needs pandas. Promises types that every row of the data fits. What is merely
usual (range, categories) is kept apart from what is certain (type, gaps); few rows say nothing of either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pandas as pd

from nightproof.cli.scaffold.names import field_name
from nightproof.cli.scaffold.plan import Column, Kind

ROWS_FOR_USUAL = 30
CATEGORIES_AT_MOST = 50
_ROWS_PER_CATEGORY = 4
_CATEGORY_LENGTH_AT_MOST = 80
_SAFE_INTEGER = 2**53 - 1
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
_ZONE = r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
_PATTERNS = (
    rf"^{_DAY}$",
    rf"^{_DAY}[T ]{_CLOCK}{_ZONE}$",
    r"^[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}$",
    r"^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}$",
    r"^[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}$",
    rf"^{_CLOCK}$",
)
_ID_NAME = re.compile(r"(^|_)(id|ids|uuid|guid|index|row|rownum|number|no|key|nr)$|^unnamed_")
_PERSONAL_NAME = re.compile(
    r"(^|_)(name|surname|firstname|lastname|fullname|forename|username|login|email|e_mail|mail|phone|telephone"
    r"|mobile|fax|ssn|social_security|passport|iban|account_number|card_number|credit_card|tax_id|address"
    r"|street|zip|zipcode|postcode|postal_code|ip|ip_address|birth|dob|birthday|birthdate|date_of_birth|patient"
    r"|patient_id|customer|customer_id|user|user_id|person|person_id|employee_id|member_id|hospital_number|licence"
    r"|license|plate|latitude|longitude|lat|lon|lng)($|_)"
)
_PERSONAL_VALUES = (
    re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),  # mail
    re.compile(r"\+?[0-9][0-9 ()./-]{8,}[0-9]"),  # phone
    re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}"),  # IBAN
    re.compile(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),  # US social security
    re.compile(r"([0-9]{1,3}\.){3}[0-9]{1,3}"),  # IPv4
)
_PERSONAL_DISTINCT = 20
_LOOKED_AT = 200


def is_text(values: pd.Series[Any]) -> bool:
    """Say whether the column holds texts: not numbers, not truth values beside gaps, not dates."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return is_text(values.cat.categories.to_series())
    if not (pd.api.types.is_object_dtype(values.dtype) or pd.api.types.is_string_dtype(values.dtype)):
        return False
    filled = values.dropna()
    return not filled.empty and not filled.map(lambda value: isinstance(value, bool)).all()


def date_pattern(values: pd.Series[Any], rows_at_least: int = 3) -> str:
    """Return the pattern of dates or times that every text of the column fits, or nothing."""
    filled = values.dropna()
    if len(filled) < rows_at_least:
        return ""
    distinct = filled.unique()
    for pattern in _PATTERNS:
        fits = re.compile(pattern).fullmatch
        if all(fits(value) for value in distinct):
            return pattern
    return ""


def infer_columns(
    frame: pd.DataFrame, typed: pd.DataFrame, *, wanted: Sequence[str], masked: Iterable[str]
) -> list[Column]:
    """Infer the wanted columns, in that order.

    `frame` has the dtypes of training, `typed` keeps whole numbers whole beside gaps.
    """
    hidden = frozenset(masked)
    taken: set[str] = set()
    return [
        _infer(name, frame[name], typed[name], field=field_name(name, taken), is_masked=name in hidden)
        for name in wanted
    ]


def _infer(
    name: str, values: pd.Series[Any], typed: pd.Series[Any], *, field: str, is_masked: bool
) -> Column:
    nullable = bool(values.isna().any())
    kind = _kind(values, typed)
    column = Column(
        name=name, field=field, kind=kind, nullable=nullable, dtype=_unsure_dtype(values, kind, nullable)
    )
    if typed.notna().sum() == 0:
        return msgspec.structs.replace(column, kind="float", note="empty in the data, so its type is a guess")
    if kind == "str":
        column = _with_text_rules(column, values)
    elif kind in ("int", "float"):
        column = _with_number_rules(column, typed)
    if is_masked:
        return msgspec.structs.replace(
            column, low=None, high=None, among=None, note="masked: no range or categories are written"
        )
    return column


def _kind(values: pd.Series[Any], typed: pd.Series[Any]) -> Kind:
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return "datetime"
    if is_text(values):
        return "str"
    if pd.api.types.is_bool_dtype(typed.dtype):
        return "bool"
    if pd.api.types.is_integer_dtype(typed.dtype):
        return "int"
    return "float"


def _unsure_dtype(values: pd.Series[Any], kind: Kind, nullable: bool) -> str:
    """Name the dtype that a batch without a single value, or with gaps only, would not show by itself."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "category"
    if kind == "datetime" or nullable:
        return str(values.dtype)
    return ""


def _with_text_rules(column: Column, values: pd.Series[Any]) -> Column:
    filled = values.dropna().astype(str)
    counts = filled.value_counts()
    distinct = len(counts)
    if pattern := date_pattern(filled):
        return msgspec.structs.replace(column, pattern=pattern)
    is_few = distinct <= CATEGORIES_AT_MOST and distinct * _ROWS_PER_CATEGORY <= len(filled)
    is_short = max(map(len, counts.index)) <= _CATEGORY_LENGTH_AT_MOST
    if is_few and is_short and len(values) >= ROWS_FOR_USUAL:
        return msgspec.structs.replace(
            column, among=sorted(counts.index), note="always the same in the data" if distinct == 1 else ""
        )
    numbers = pd.to_numeric(filled, errors="coerce").notna().mean()
    if numbers > 0.5:
        return msgspec.structs.replace(
            column, note=f"{numbers:.0%} of the texts are numbers: is a missing mark left?"
        )
    if len(values) < ROWS_FOR_USUAL:
        return column
    if distinct > 0.9 * len(filled):
        return msgspec.structs.replace(column, note="free text or an id: nearly every value differs")
    return msgspec.structs.replace(column, note=f"{distinct:,} different values")


def _with_number_rules(column: Column, typed: pd.Series[Any]) -> Column:
    filled = typed.dropna()
    if column.kind == "float":
        filled = filled[filled.map(math.isfinite)]
    if len(filled) == 0:
        return column
    low, high = filled.min().item(), filled.max().item()
    if column.kind == "int" and (low < -_SAFE_INTEGER or high > _SAFE_INTEGER):
        return msgspec.structs.replace(column, is_wide=True, note="integers beyond 2**53: an id?")
    if len(typed) < ROWS_FOR_USUAL:
        return column
    if (
        column.kind == "int"
        and filled.is_unique
        and (_ID_NAME.search(column.field) or high - low == len(filled) - 1)
    ):
        return msgspec.structs.replace(column, note="looks like an id: should the model see it?")
    return msgspec.structs.replace(
        column, low=low, high=high, note="always the same in the data" if low == high else ""
    )


def looks_personal(name: str, values: pd.Series[Any]) -> bool:
    """Say whether the column seems to tell who somebody is, by its name or its values."""
    filled = values.dropna()
    if filled.nunique() > _PERSONAL_DISTINCT and _PERSONAL_NAME.search(field_name(name, set())):
        return True
    if not is_text(values):
        return False
    looked_at = filled.astype(str).head(_LOOKED_AT).tolist()
    often = max(sum(1 for text in looked_at if rule.fullmatch(text)) for rule in _PERSONAL_VALUES)
    return often > 0.1 * len(looked_at) and not date_pattern(filled, 1)
