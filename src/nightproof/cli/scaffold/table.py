"""Read a CSV file as people have them: any encoding, any delimiter, and say plainly what is wrong with it.

Called by `planning`. Promises that the text it returns has a header with distinct names and rows
of equal length. Reads at most `ROWS_AT_MOST` rows; never guesses names for a file without a header.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path

from nightproof.cli.scaffold.plan import Unfit

ROWS_AT_MOST = 200_000
_SNIFF_LINES = 100
_DELIMITERS = (",", ";", "\t", "|")
_MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "-"})
_NOT_CSV = (
    (b"PK\x03\x04", "an Excel or zip file"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_ENCODING_WORDS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with a byte order mark", "utf-16": "UTF-16"}
_DELIMITER_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][-+]?[0-9]+)?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV file's text, and how to read it."""

    path: Path
    text: str
    """Header and rows, at most `ROWS_AT_MOST` of them."""
    delimiter: str
    decimal: str
    encoding: str
    names: tuple[str, ...]
    """Without leading and trailing blanks."""
    row_count: int
    is_whole: bool

    @property
    def words(self) -> str:
        """Tell people what was read."""
        parts = [
            f"{self.row_count:,} {'row' if self.row_count == 1 else 'rows'}",
            f"{len(self.names)} columns",
        ]
        if self.delimiter != ",":
            parts.append(f"separated by {_DELIMITER_WORDS[self.delimiter]}")
        if self.decimal != ".":
            parts.append("decimal commas")
        if self.encoding != "utf-8":
            parts.append(_ENCODING_WORDS.get(self.encoding, self.encoding))
        if not self.is_whole:
            parts.append(f"only the first {ROWS_AT_MOST:,} rows were read")
        return f"{self.path.name}: {', '.join(parts)}"

    def find(self, wanted: str) -> str:
        """Return the column's name as the file has it. Raises Unfit with names that are close."""
        if wanted.strip() in self.names:
            return wanted.strip()
        folded = {name.casefold(): name for name in self.names}
        close = [
            folded[name] for name in difflib.get_close_matches(wanted.casefold(), folded, n=3, cutoff=0.6)
        ]
        raise Unfit(
            f"{self.path.name} has no column {wanted!r}.",
            hint=f"Did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"It has {_some(self.names)}. If these are data, the file lacks a header line: add one.",
        )


def read_table(path: Path, rows_at_most: int = ROWS_AT_MOST) -> Table:
    """Read the file's text and judge its form. Raises Unfit for what is no CSV with a header."""
    if not path.is_file():
        raise Unfit(f"{path} is not a file.", hint="Give a CSV file with --data.")
    encoding = _encoding(path)
    lines = _lines(path, encoding, rows_at_most)
    if not any(line.strip() for line in lines):
        raise Unfit(f"{path.name} is empty.", hint="Give a CSV file with a header line and at least one row.")
    delimiter = _delimiter(lines[:_SNIFF_LINES])
    header, row_count, last_line = _measure(path, lines, delimiter, rows_at_most)
    names = tuple(name.strip() for name in header)
    _refuse_missing_header(path, names)
    _refuse_repeated_names(path, names)
    if row_count == 0:
        raise Unfit(
            f"{path.name} has a header and no rows.", hint="Types are inferred from rows: give at least one."
        )
    text = "".join(lines[:last_line])
    return Table(
        path=path,
        text=text,
        delimiter=delimiter,
        decimal="," if delimiter != "," and _has_decimal_commas(lines[1:_SNIFF_LINES], delimiter) else ".",
        encoding=encoding,
        names=names,
        row_count=row_count,
        is_whole=last_line == len(lines) < _lines_at_most(rows_at_most),
    )


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    for magic, what in _NOT_CSV:
        if head.startswith(magic):
            raise Unfit(
                f"{path.name} is {what}, not CSV.", hint="Save it as CSV, for example with pandas' to_csv."
            )
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise Unfit(f"{path.name} holds zero bytes, so it is no CSV text.", hint="Save it as CSV in UTF-8.")
    try:
        with path.open(encoding="utf-8") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        try:
            head.decode("cp1252")
        except UnicodeDecodeError:
            return "latin-1"
        return "cp1252"
    return "utf-8"


def _lines(path: Path, encoding: str, rows_at_most: int) -> list[str]:
    """Return lines for so many rows; a row may take several lines, so some more are read."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        return list(islice(file, _lines_at_most(rows_at_most)))


def _lines_at_most(rows_at_most: int) -> int:
    return rows_at_most * 2 + _SNIFF_LINES


def _delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that cuts most lines into the same number of cells, and more than one."""
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        width, often = widths.most_common(1)[0]
        score = often / widths.total() * (1 + min(width, 50) / 100)
        if width > 1 and score > best_score:
            best, best_score = delimiter, score
    return best


def _measure(path: Path, lines: list[str], delimiter: str, rows_at_most: int) -> tuple[list[str], int, int]:
    """Return the header, the number of rows, and of lines they take. Raises Unfit for an overlong row."""
    reader = csv.reader(lines, delimiter=delimiter)
    rows = _filled(reader)
    header = next(rows)
    row_count, last_line = 0, reader.line_num
    try:
        for row in rows:
            if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
                raise Unfit(
                    f"{path.name}, line {reader.line_num}: {len(row)} cells under {len(header)} names.",
                    hint="Put texts that hold the delimiter in double quotes; have one header line on top.",
                )
            row_count, last_line = row_count + 1, reader.line_num
            if row_count == rows_at_most:
                break
        else:
            last_line = len(lines)
    except csv.Error as error:
        raise Unfit(
            f"{path.name}, line {reader.line_num}: {error}.", hint="Is a double quote left open?"
        ) from error
    return header, row_count, last_line


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return (row for row in rows if row)


def _refuse_missing_header(path: Path, names: Sequence[str]) -> None:
    """Refuse a first line that reads like data: mostly numbers, dates and missing marks, and not a count."""
    cells = [name for name in names if name]
    data_like = [cell for cell in cells if _NUMBER.fullmatch(cell) or _DAY.fullmatch(cell) or cell == "?"]
    if len(data_like) * 2 <= len(cells) or _is_count(cells):
        return
    raise Unfit(
        f"{path.name} has no header line: its first line reads like data ({_some(cells)}).",
        hint="Add a first line with the columns' names.",
    )


def _is_count(cells: Sequence[str]) -> bool:
    """Say whether the numbers among the cells go up by one, as years or pandas' own column numbers do."""
    numbers = [int(cell) for cell in cells if cell.isascii() and cell.isdigit()]
    return len(numbers) > 1 and all(later - earlier == 1 for earlier, later in pairwise(numbers))


def _refuse_repeated_names(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, often in Counter(name for name in names if name).items() if often > 1]
    if repeated:
        are_data = any(_NUMBER.fullmatch(name) or name == "?" for name in repeated)
        raise Unfit(
            f"{path.name} has several columns named {_some(repeated)}.",
            hint="Its first line seems to be data: add a line with the columns' names on top."
            if are_data
            else "Give each column its own name; a JSON object holds a name once.",
        )


def _has_decimal_commas(lines: Sequence[str], delimiter: str) -> bool:
    cells = [cell.strip() for cell in chain.from_iterable(csv.reader(lines, delimiter=delimiter))]
    filled = [cell for cell in cells if cell.casefold() not in _MISSING]
    commas = sum(1 for cell in filled if _DECIMAL_COMMA.fullmatch(cell))
    points = sum(1 for cell in filled if re.fullmatch(r"-?[0-9]+\.[0-9]+", cell))
    return commas > points


def _some(names: Sequence[str], at_most: int = 12) -> str:
    shown = ", ".join(map(repr, names[:at_most]))
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"
