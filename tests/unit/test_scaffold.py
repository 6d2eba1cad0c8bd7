"""What `nightproof new` makes of columns, names, CSV files and plans, without a model or a process."""

from __future__ import annotations

import ast
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightproof.cli.scaffold.columns import date_pattern, infer_columns, looks_personal
from nightproof.cli.scaffold.golden import as_json, choose_rows, masked_rows
from nightproof.cli.scaffold.judging import agreement, known_share, meanings
from nightproof.cli.scaffold.literals import quoted
from nightproof.cli.scaffold.model import Answers, Wants
from nightproof.cli.scaffold.names import class_name, field_name, type_name
from nightproof.cli.scaffold.picking import Picker
from nightproof.cli.scaffold.plan import AnswerPlan, Column, Plan, Proof, Sklearn, Unfit
from nightproof.cli.scaffold.readings import Reading, Trial, choose
from nightproof.cli.scaffold.render import deadline_for, readme_text, service_text
from nightproof.cli.scaffold.starter import starter_files
from nightproof.cli.scaffold.table import read_table

TABULAR = Path(__file__).parent.parent / "material" / "tabular"


def csv_file(folder: Path, text: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def inferred(text: str, *, masked: tuple[str, ...] = ()) -> dict[str, Column]:
    frame = pd.read_csv(io.StringIO(text), low_memory=False)
    typed = pd.read_csv(io.StringIO(text), dtype_backend="numpy_nullable")
    columns = infer_columns(frame, typed, wanted=[str(name) for name in frame.columns], masked=masked)
    return {column.name: column for column in columns}


def column_of(values: list[object]) -> Column:
    text = "a,other\n" + "".join(f"{'' if value is None else value},0\n" for value in values)
    return inferred(text)["a"]


# names


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("checking-account", "checking_account"),
        ("class", "class_"),
        ("2nd €", "column_2nd"),
        ("naïve Größe", "naive_gro_e"),
        ("CreditScore", "credit_score"),
        ("PM2.5", "pm2_5"),
        ("copy", "copy_"),
        ("model_config", "model_config_"),
        ("model_year", "model_year"),
        ("_private", "private"),
        ("str", "str_"),
        ("日本", "column"),
        ("", "column"),
    ],
)
def test_any_column_name_becomes_a_field_name(name: str, field: str):
    assert field_name(name, set()) == field
    assert field.isidentifier()


def test_field_names_that_would_clash_are_numbered():
    taken: set[str] = set()

    names = [field_name(name, taken) for name in ("a-b", "a_b", "A b", "class", "class_")]

    assert names == ["a_b", "a_b_2", "a_b_3", "class_", "class_2"]


def test_types_and_classes_get_names_that_hide_nothing():
    assert type_name("checking_account", set()) == "CheckingAccount"
    assert type_name("model", set()) == "ModelValues"
    assert class_name("credit-risk_2") == "CreditRisk2Model"


# columns


def test_whole_numbers_stay_whole_beside_gaps():
    column = column_of([1, None, *range(40)])

    assert (column.kind, column.nullable, column.dtype) == ("int", True, "float64")
    assert (column.low, column.high) == (0, 39)


def test_a_decimal_point_makes_a_float_even_if_all_are_whole():
    column = column_of(["1.0", "2.0"] * 20)

    assert (column.kind, column.nullable, column.dtype) == ("float", False, "")


def test_truth_values_are_bools_with_and_without_gaps():
    whole, holed = column_of([True, False] * 20), column_of([True, None] * 20)

    assert (whole.kind, whole.nullable) == ("bool", False)
    assert (holed.kind, holed.nullable, holed.dtype) == ("bool", True, "object")


def test_few_texts_are_categories_and_many_are_not():
    few, many = column_of(["red", "blue "] * 40), column_of([f"v{number % 60}" for number in range(300)])

    assert (few.kind, few.among) == ("str", ["blue ", "red"])
    assert (many.kind, many.among, many.note) == ("str", None, "60 different values")


def test_a_column_of_different_texts_is_no_category():
    column = column_of([f"C-{number}" for number in range(100)])

    assert column.among is None
    assert "id" in column.note


def test_few_rows_say_nothing_about_what_is_usual():
    number, text = column_of([1, 2, 3]), column_of(["a", "a", "a"])

    assert (number.low, number.high) == (None, None)
    assert text.among is None


def test_constant_columns_are_noted():
    assert column_of([7] * 40).note == "always the same in the data"
    assert column_of(["x"] * 40).note == "always the same in the data"


def test_an_empty_column_is_a_guess_that_says_so():
    column = column_of([None] * 40)

    assert (column.kind, column.nullable) == ("float", True)
    assert "guess" in column.note


def test_a_running_number_is_noted_as_an_id_and_gets_no_range():
    column = column_of(list(range(100, 200)))

    assert (column.kind, column.low) == ("int", None)
    assert "id" in column.note


def test_integers_beyond_what_json_readers_keep_are_marked():
    column = column_of([2**60 + number for number in range(40)])

    assert column.is_wide
    assert column.low is None


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2019-03-23", "2020-01-01", "2020-02-02"], "2019-03-23"),
        (["2019-03-23 20:21:09", "2019-03-23T20:21:09Z", "2019-03-23 20:21"], "2019-03-23 20:21:09"),
        (["1/2/2020", "12/31/2021", "1/1/2022"], "1/2/2020"),
        (["01.02.2020", "1.1.2020", "31.12.2021"], "01.02.2020"),
        (["20:21", "00:00:01", "10:10"], "20:21"),
    ],
)
def test_dates_that_the_model_takes_as_text_are_held_to_their_pattern(texts: list[str], kind: str):
    column = column_of(texts * 20)

    assert column.kind == "str"
    assert column.pattern
    assert column.among is None
    assert date_pattern(pd.Series([kind, kind, kind])) == column.pattern


def test_texts_that_only_start_like_dates_have_no_pattern():
    assert date_pattern(pd.Series(["2019-03-23", "2019-03-24", "soon"])) == ""


def test_a_left_over_missing_mark_is_noticed():
    column = column_of([*range(1000, 1090), *["missing"] * 5])

    assert column.kind == "str"
    assert "missing mark" in column.note


def test_masked_columns_show_neither_range_nor_categories():
    text = "pay,town\n" + "".join(f"{1000 + number % 7},t{number % 3}\n" for number in range(60))

    columns = inferred(text, masked=("pay", "town"))

    assert (columns["pay"].kind, columns["pay"].low, columns["pay"].high) == ("int", None, None)
    assert (columns["town"].kind, columns["town"].among) == ("str", None)


@pytest.mark.parametrize(
    ("name", "values", "is_personal"),
    [
        ("customer_email", [f"u{number}@example.org" for number in range(30)], True),
        ("contact", [f"u{number}@example.org" for number in range(30)], True),
        ("Surname", [f"S{number}" for number in range(30)], True),
        ("telephone", ["none", "yes"] * 15, False),
        ("tip", list(range(30)), False),
        ("when", [f"2020-01-{number:02}" for number in range(1, 31)], False),
        ("reached at", [f"+49 30 1234 {number:04}" for number in range(30)], True),
    ],
)
def test_columns_that_tell_who_somebody_is_are_noticed(name: str, values: list[object], is_personal: bool):
    assert looks_personal(name, pd.Series(values, name=name)) is is_personal


def test_all_types_of_a_real_file_fit_all_its_rows():
    table = read_table(TABULAR / "adult.csv")
    reading = Reading()
    frame, typed = reading.frame(table), reading.frame(table, nullable=True)

    columns = infer_columns(frame, typed, wanted=list(frame.columns), masked=())

    kinds = {column.name: (column.kind, column.nullable) for column in columns}
    assert kinds["age"] == ("int", False)
    assert kinds["workclass"] == ("str", True)
    assert kinds["native_country"] == ("str", True)
    assert len(as_json(typed, columns)) == len(frame)


# CSV files


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path):
    table = read_table(csv_file(tmp_path, "\ufeffage,pay\n1,2\n"))

    assert table.names == ("age", "pay")


def test_utf16_latin_and_other_delimiters_are_read(tmp_path: Path):
    utf16 = read_table(csv_file(tmp_path, "größe;preis\n1,5;2\n2,5;3\n".encode("utf-16"), "a.csv"))
    latin = read_table(csv_file(tmp_path, "größe\tort\n1\tKöln\n".encode("cp1252"), "b.csv"))

    assert (utf16.names, utf16.delimiter, utf16.decimal) == (("größe", "preis"), ";", ",")
    assert Reading().frame(utf16)["größe"].tolist() == [1.5, 2.5]
    assert (latin.names, latin.delimiter) == (("größe", "ort"), "\t")
    assert Reading().frame(latin)["ort"].tolist() == ["Köln"]


def test_quoted_delimiters_and_line_ends_stay_inside_their_cell(tmp_path: Path):
    table = read_table(csv_file(tmp_path, 'a,b\n"x, y","two\nlines"\n1,2\n'))

    assert table.row_count == 2
    assert Reading().frame(table)["b"].tolist() == ["two\nlines", "2"]


def test_only_so_many_rows_are_read(tmp_path: Path):
    table = read_table(csv_file(tmp_path, "a,b\n" + "1,2\n" * 50), rows_at_most=10)

    assert (table.row_count, table.is_whole) == (10, False)
    assert len(Reading().frame(table)) == 10


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,b\n", "no rows"),
        (b"a,b,a\n1,2,3\n", "several columns named 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "line 3"),
        (b"PK\x03\x04rest", "Excel"),
        (b"PAR1rest", "Parquet"),
        (b"a,b\n1,\x00\n", "zero bytes"),
        (b"39,State-gov,77516\n50,Private,83311\n", "no header"),
    ],
)
def test_what_is_no_table_is_refused_with_its_reason(tmp_path: Path, content: bytes, told: str):
    path = csv_file(tmp_path, content)

    with pytest.raises(Unfit, match=told):
        read_table(path)


def test_a_real_file_without_a_header_is_told_so():
    with pytest.raises(Unfit, match="no header line") as refused:
        read_table(TABULAR / "horse_colic.csv")

    assert "first line" in refused.value.hint


def test_years_and_plain_counts_are_names(tmp_path: Path):
    years = read_table(csv_file(tmp_path, "2019,2020,2021\n1,2,3\n", "a.csv"))
    counts = read_table(csv_file(tmp_path, "0,1,2\n1,2,3\n", "b.csv"))

    assert (years.names, counts.names) == (("2019", "2020", "2021"), ("0", "1", "2"))


def test_a_wrong_column_is_answered_with_close_ones(tmp_path: Path):
    table = read_table(csv_file(tmp_path, " Income ,age\n1,2\n"))

    assert table.find("Income") == "Income"
    with pytest.raises(Unfit) as close:
        table.find("incme")
    with pytest.raises(Unfit) as far:
        table.find("zzz")

    assert "'Income'" in close.value.hint
    assert "header line" in far.value.hint


# readings


def test_the_reading_is_chosen_that_the_model_knows(tmp_path: Path):
    table = read_table(csv_file(tmp_path, "kind,y\n red,1\n ?,0\n blue,1\n"))
    blanks = frozenset({" red", " blue", " ?"})
    clean = frozenset({"red", "blue"})

    def judge_by(known: frozenset[str]) -> tuple[Reading, pd.DataFrame]:
        return choose(table, lambda rows: Trial(known_share(known, rows[["kind"]]), 0.0))

    assert judge_by(blanks)[0] == Reading(strips=False, marks="pandas")
    assert judge_by(clean)[0] == Reading()
    assert judge_by(clean)[1]["kind"].isna().tolist() == [False, True, False]


def test_parsed_dates_are_tried_when_texts_are_refused(tmp_path: Path):
    table = read_table(csv_file(tmp_path, "day,y\n2020-01-01,1\n2020-01-02,0\n2020-01-03,0\n"))

    def judge(rows: pd.DataFrame) -> Trial:
        if not pd.api.types.is_datetime64_any_dtype(rows["day"].dtype):
            raise Unfit("it takes dates")
        return Trial(1.0, 0.0)

    reading, frame = choose(table, judge)

    assert reading.dates
    assert frame["day"].dt.day.tolist() == [1, 2, 3]


def test_a_model_that_takes_no_reading_is_told_with_its_first_refusal(tmp_path: Path):
    table = read_table(csv_file(tmp_path, "kind,y\n red,1\n"))
    seen: list[str] = []

    def judge(rows: pd.DataFrame) -> Trial:
        seen.append("tried")
        raise Unfit(f"refusal {len(seen)}")

    with pytest.raises(Unfit, match="refusal 1"):
        choose(table, judge)
    assert len(seen) > 1


# picking


def picker(wants: Wants, target: str = "y") -> Picker:
    return Picker(file="d.csv", target=target, wants=wants)


def test_named_columns_are_picked_in_the_models_order():
    wants = Wants(names=("b", "a", "dropped"), drops=frozenset({"dropped"}))

    assert picker(wants).pick(["a", "b", "dropped", "spare", "y"]) == ["b", "a"]
    assert picker(wants).unused(["a", "b", "dropped", "spare", "y"], ["b", "a"]) == ["dropped", "spare"]


def test_names_that_a_converter_changed_are_found():
    assert picker(Wants(names=("checking_account",))).pick(["Checking-Account", "y"]) == ["Checking-Account"]


def test_a_model_without_names_gets_all_but_target_and_index():
    there = ["Unnamed: 0", "a", "b", "y"]

    assert picker(Wants(count=2)).pick(there) == ["a", "b"]
    assert picker(Wants(count=3)).pick(there) == ["Unnamed: 0", "a", "b"]
    with pytest.raises(Unfit, match="5 columns without names"):
        picker(Wants(count=5)).pick(there)


def test_columns_encoded_by_hand_are_named_as_such():
    with pytest.raises(Unfit, match="'sex_male'") as refused:
        picker(Wants(names=("age", "sex_male"))).pick(["age", "sex", "y"])

    assert "Pipeline" in refused.value.hint


def test_a_model_that_takes_its_own_target_is_refused():
    with pytest.raises(Unfit, match="target 'y' itself"):
        picker(Wants(names=("a", "y"))).pick(["a", "y"])


# judging


def test_labels_may_be_called_otherwise_in_the_target():
    truth = pd.Series(["no", "yes", "no", "yes", "no", "no"], name="y")
    answers = Answers([0, 1, 0, 1, 0, 0])

    assert agreement(answers, truth, are_labels=True) == 1.0
    assert meanings(answers, truth, [0, 1]) == ["no", "yes"]
    assert meanings(Answers(truth.tolist()), truth, ["no", "yes"]) == []


def test_numbers_agree_by_their_error():
    truth = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0], name="y")

    assert agreement(Answers(truth.tolist()), truth, are_labels=False) == 1.0
    assert agreement(Answers([9.0] * 5), truth, are_labels=False) == 0.0


# golden cases


def test_golden_rows_cover_all_labels_and_a_gap():
    inputs = pd.DataFrame({"a": [1.0] * 50 + [math.nan]})
    answers = Answers(["common"] * 49 + ["rare", "common"])

    chosen = choose_rows(answers, inputs, has_labels=True)

    assert 49 in chosen
    assert 50 in chosen
    assert len(chosen) == 10


def test_golden_rows_go_from_the_lowest_number_to_the_highest_and_skip_what_json_cannot_carry():
    inputs = pd.DataFrame({"a": [1.0, math.inf] + [1.0] * 98})
    answers = Answers([float(number) for number in range(99)] + [math.nan])

    chosen = choose_rows(answers, inputs, has_labels=False)

    assert (min(chosen), max(chosen)) == (0, 98)
    assert not {1, 99} & set(chosen)


def test_masked_columns_get_medians_and_pseudonyms():
    everything = pd.DataFrame({"pay": range(100, 200), "name": [f"Ann{number}" for number in range(100)]})
    columns = [
        Column(name="pay", field="pay", kind="int"),
        Column(name="name", field="name", kind="str"),
    ]

    rows = masked_rows(everything.head(3), everything, columns, lambda frame: None)

    assert rows["pay"].tolist() == [149, 149, 149]
    assert rows["name"].tolist() == ["name-1", "name-2", "name-3"]


def test_a_stand_in_is_never_one_rows_own_value():
    everything = pd.DataFrame({"name": [f"Ann{number}" for number in range(100)]})
    column = Column(name="name", field="name", kind="str")

    def takes_known_names_only(frame: pd.DataFrame) -> None:
        if not frame["name"].isin(everything["name"]).all():
            raise Unfit("unknown name")

    with pytest.raises(Unfit, match="no stand-in"):
        masked_rows(everything.head(3), everything, [column], takes_known_names_only)


def test_golden_inputs_are_written_as_callers_write_them():
    columns = [
        Column(name="n-o", field="n_o", kind="int"),
        Column(name="x", field="x", kind="float", nullable=True),
        Column(name="b", field="b", kind="bool"),
        Column(name="t", field="t", kind="datetime"),
    ]
    rows = pd.DataFrame(
        {"x": [math.nan], "n-o": [np.float64(3.0)], "b": [True], "t": [pd.Timestamp("2020-01-02 03:04")]}
    )

    assert as_json(rows, columns) == [b'{"n-o":3,"x":null,"b":true,"t":"2020-01-02T03:04:00Z"}']


# the written text


def plan_of(columns: list[Column], answer: AnswerPlan) -> Plan:
    return Plan(
        family=Sklearn(file="model.joblib", calls="shares" if answer.confidence else "numbers"),
        model_words="Pipeline (A → B); it tells y right in 90% of 100 rows",
        columns=columns,
        answer=answer,
        data_words="d.csv: 100 rows",
        unused=[],
        masked=[],
        personal=[],
        golden=[],
        expected=[],
        reference_rows=100,
        modules=[],
        notes=[],
    )


def test_the_written_service_is_python_and_short():
    columns = [
        Column(
            name=f"col-{number}", field=f"col_{number}", kind="str", among=[f"value {n}" for n in range(6)]
        )
        for number in range(20)
    ]
    answer = AnswerPlan(field="y", kind="str", classes=['a"b', "c'd"], confidence="confidence", typical="c'd")

    text = service_text("mine", plan_of(columns, answer), Proof(10, [], 4.0, 9.0))

    compile(text, "service.py", "exec")
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 88
    assert 'Field(alias="col-3")' in text
    assert text.count("Review") >= 4


def test_quotes_and_odd_letters_survive_into_the_text():
    values = ["both \" and '", "back\\slash", "tab\there", "ünïcode", "{brace}"]
    column = Column(name='quo"te', field="quo_te", kind="str", among=values)

    text = service_text("mine", plan_of([column], AnswerPlan(field="y", kind="float", typical=1.5)))

    scope: dict[str, object] = {}
    line = next(line for line in text.splitlines() if line.startswith("QuoTe"))
    block = text[text.index(line) : text.index("# fmt: on")]
    exec("from typing import Annotated\ndef Usual(among): return among\n" + block, scope)
    assert scope["QuoTe"].__metadata__[0] == values  # type: ignore[attr-defined]


@given(st.text())
def test_no_text_of_a_file_gets_out_of_its_quotes(text: str):
    """Column names and categories are written into Python: they must stay data."""
    written = quoted(text)

    assert ast.literal_eval(written) == text
    assert len(written.splitlines()) == 1


def test_the_deadline_leaves_room_for_the_measured_batch():
    assert deadline_for(3.0) == 1_000
    assert deadline_for(200.0) == 4_000


def test_the_readme_is_short_and_warns_of_pickles_and_copies():
    plan = plan_of([Column(name="a", field="a", kind="int")], AnswerPlan(field="y", kind="float"))

    text = readme_text("mine", plan, Proof(10, [], 1.0, 2.0))

    assert len(text.splitlines()) <= 22
    assert "copy rows of your data" in text
    assert "runs the code inside it" in text


def test_the_starter_is_python_and_its_golden_cases_are_lines():
    files = starter_files("mine")

    compile(files["service.py"], "service.py", "exec")
    assert len(files["golden.jsonl"].splitlines()) == 4


def test_a_quote_left_open_is_refused_by_the_reading(tmp_path: Path):
    table = read_table(csv_file(tmp_path, 'a,b\n"1,2\n'))

    with pytest.raises(Unfit, match="pandas cannot read"):
        Reading().frame(table)
