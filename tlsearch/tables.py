"""A table's file as a frame: its encoding and separator are found out, and what was assumed is said."""

from __future__ import annotations

import csv
import itertools
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.files import refuse_special
from tlsearch.names import printable

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_BYTES = 500_000_000
"""Of a table: some ten million rows of paths. Text takes several times its size in memory."""
SHOWN = 60
"""Characters that are shown of what a table holds."""
LOOKED_AT = 50
"""Records that a separator is judged by."""
APART, RARELY_APART = (";", "|", ","), ("+", "/", "&", " ")
"""What stands between several names in a cell."""
MEANT = {
    "image": ("image", "path", "file", "filename", "imagepath", "filepath", "img", "imagefile", "imgpath"),
    "label": ("label", "class", "target", "category", "classname", "labelname", "value", "score", "rating"),
}
"""Names of columns, without case, blanks and hyphens, that say what is in them."""
PICTURES = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"))
"""Endings that tell a path of a picture from other text."""
HELD = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n", "-1"), False),
}
"""What may stand in a column of 0 and 1, in any case; -1 is unsure where there are zeros."""
_MARKS = frozenset(("1", "x", "true", "t", "yes", "y", "+", "*", "✓", "✔"))
_WHOLE, _FRACTION = r"\d{1,3}(?:[,.' ]\d{3})+|\d+", r"(?:\d{1,3}(?:[,' ]\d{3})+|\d+)[.,]\d+"
_UNIT = r"°?[^\W\d_]{1,4}[²³]?"
_AMOUNT = re.compile(
    rf"[-+]?(?:[$€£¥] ?(?:{_FRACTION}|{_WHOLE})|(?:{_FRACTION}|{_WHOLE}) ?[%$€£¥]|(?:{_WHOLE}) {_UNIT}"
    rf"|(?:{_FRACTION}) ?(?:{_UNIT})?|\d{{1,3}}(?:[,.' ]\d{{3}})+)"
)
"""A number with a unit, a currency, a decimal comma, or marks between thousands; 10mm may be a name."""
_DECIMAL = re.compile(r"[-+]?(?:\d+|\d*,\d+)(?:[eE][-+]?\d+)?")
"""A whole number, or one with a decimal comma."""
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
"""What may be a whole number with a mark between thousands as well."""
NUMBERS = 0.95
"""Share of cells that are numbers in a column of numbers; some values may be missing."""
_LIST = re.compile(r"[\[({]\s*(['\"].*['\"]\s*)?[\])}]")
"""A list of texts as Python and JSON print it."""
_SAID = re.compile(r'"?sep=(?P<separator>[,;|\t])"?[,;|\t]*(\r\n|\n|\r)', re.IGNORECASE)
"""The first line by which spreadsheets are told what stands between cells."""
_INSTEAD = {
    **dict.fromkeys(
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"), "Unpack it, and name what was in it."
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "Save it as CSV."),
    **dict.fromkeys((".jsonl", ".ndjson", ".txt"), "Save it as CSV."),
    ".npz": "Arrays are read by a study file: data: {source: arrays, path: FILE.npz}.",
    **dict.fromkeys((".yaml", ".yml", ".json"), "Name the folder of the data that it describes."),
}
"""What to do with files that people take for tables."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table as it was read.

    Attributes:
        frame: a pandas frame whose cells are as they are written.
        delimiter: between cells; None where the format has none.
        encoding: of the text; None where the format has none.
        notes: sentences on what was assumed, for the user.
    """

    frame: Any
    delimiter: str | None = None
    encoding: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return [str(name) for name in self.frame.columns]


def read_table(path: Path) -> TableFile:
    """A table of CSV, TSV or Parquet, with cells as they are written.

    Raises:
        DataError: it can't be read, or is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"table {path} must end in .csv, .tsv or .parquet", hint=_INSTEAD.get(suffix))
    try:
        refuse_special(path)
        size = path.stat().st_size
        if size <= MAX_BYTES and suffix == ".parquet":
            return TableFile(_parquet(path))
        with path.open("rb") as file:  # what the system makes up says that it has no size
            raw = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"table {path} can't be read ({error.strerror or error})") from error
    if max(size, len(raw)) > MAX_BYTES:
        raise DataError(
            f"table {path} has over {MAX_BYTES / 1e6:.0f} MB; no more is read",
            hint="A table holds paths and labels, not pixels: leave out other columns.",
        )
    text, encoding = _decoded(raw, path)
    own = "\t" if suffix == ".tsv" else ","
    said = _SAID.match(text)
    text = text[said.end() :] if said else text
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # the csv module takes no bare \r
    delimiter = said["separator"] if said else _separator(text, own)
    notes = []
    if delimiter != own:
        notes.append(f"understood: {path.name} has {SEPARATORS[delimiter]} between its cells")
    if encoding != "utf-8":
        doubt = "" if encoding.startswith("utf") else "; if letters look wrong, save it as UTF-8"
        notes.append(f"understood: {path.name} is in {encoding}, not UTF-8{doubt}")
    frame = _frame(text, delimiter, path)
    empty = (frame == "").all(axis=1)
    if count := int(empty.sum()):  # spreadsheets write the rows below the last one
        notes.append(f"left out: {plural(count, 'empty row')} of {path.name}")
        frame = frame[~empty].reset_index(drop=True)
    return TableFile(frame, delimiter, encoding, tuple(notes))


def _parquet(path: Path) -> Any:
    import pandas

    try:
        frame = pandas.read_parquet(path, dtype_backend="pyarrow").astype(object)
        # pandas writes an index that has a name as if it were no column.
        return frame.reset_index() if any(frame.index.names) else frame
    except OSError as error:
        raise DataError(f"table {path} can't be read ({error.strerror or error})") from error
    except Exception as error:  # pandas and pyarrow raise almost anything on damaged files
        raise DataError(f"table {path} can't be parsed: {error or type(error).__name__}") from error


def _decoded(raw: bytes, path: Path) -> tuple[str, str]:
    """A file's text, and its encoding: by its first bytes, else UTF-8, else what spreadsheets write."""
    known = "utf-8-sig"
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):  # the first begins like UTF-16's, too
        known = "utf-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        known = "utf-16"
    elif raw[:3] == b"\0\0\0" or raw[1:4] == b"\0\0\0":
        known = "utf-32-be" if raw[:1] == b"\0" else "utf-32-le"
    elif b"\0" in raw[:4]:  # UTF-16 without a mark: every other byte of a header is nothing
        known = "utf-16-be" if raw[:1] == b"\0" else "utf-16-le"
    for encoding in (known, "cp1252") if known == "utf-8-sig" else (known,):
        try:
            return raw.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            continue
    raise DataError(f"table {path} is no text in UTF-8, UTF-16, UTF-32 or cp1252", hint="Save it as UTF-8.")


def _separator(text: str, own: str) -> str:
    """What stands between cells: the first that cuts all records alike, the ending's own before others."""
    for delimiter in (own, *(other for other in SEPARATORS if other != own)):
        try:
            records = itertools.islice(csv.reader(StringIO(text), delimiter=delimiter), LOOKED_AT)
            counts = {len(record) for record in records if record}
        except csv.Error:
            continue
        if len(counts) == 1 and counts != {1}:
            return delimiter
    return own


def _frame(text: str, delimiter: str, path: Path) -> Any:
    import pandas

    if not text.strip():
        raise DataError(
            f"table {path} is empty", hint="The first row names the columns, such as image,label."
        )
    try:
        with warnings.catch_warnings():
            # Cells beyond the header's would only be warned of and dropped, the label among them.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            # na_filter off: a class may be called "NA" or "None", and 007 isn't 7.
            frame = pandas.read_csv(
                StringIO(text), sep=delimiter, dtype=str, na_filter=False, index_col=False
            )
    except pandas.errors.ParserWarning as error:
        header = shortened(text.strip().partition("\n")[0])
        raise DataError(
            f"table {path} has rows of more cells than its header, {header}",
            hint="Quote values that hold the separator, and begin with the row that names the columns.",
        ) from error
    except pandas.errors.ParserError as error:
        told = str(error).strip().rpartition("C error: ")[2] or "it is no table"
        raise DataError(
            f"table {path} can't be parsed: {told}",
            hint="Each row has as many cells as the first one: quote values that hold the separator.",
        ) from error
    except Exception as error:  # pandas raises almost anything on damaged files
        raise DataError(f"table {path} can't be parsed: {error or type(error).__name__}") from error
    frame.columns = _headings(text, delimiter, [str(name).strip() for name in frame.columns])
    return frame


def _headings(text: str, delimiter: str, names: list[str]) -> list[str]:
    """Columns by what is written above them: pandas numbers those of one name, ``label`` and ``label.1``."""
    try:
        header = next((record for record in csv.reader(StringIO(text), delimiter=delimiter) if record), [])
    except csv.Error:  # a cell of more than 131,072 characters
        return names
    if len(header) != len(names):
        return names
    return [written.strip() or name for written, name in zip(header, names, strict=True)]


def refuse_doubled(name: str, columns: Sequence[str], table: Path) -> None:
    """Refuse a column of whose name there are several.

    Raises:
        DataError: there are.
    """
    if (count := columns.count(name)) > 1:
        raise DataError(
            f'{table} has {count} columns "{printable(name)}"', hint="Give each column a name of its own."
        )


def names_apart(cells: Sequence[str]) -> str | None:
    """What stands between names where cells hold several, such as ``;``; None where each holds one.

    Cells of several names put the same ones together in different ways: there are no more names than cells.
    Names hold spaces, slashes and pluses, too; where these stand between names, there are far fewer of those.
    """
    distinct = {cell.strip() for cell in cells} - {""}
    if all(re.fullmatch(r"[\d\s.,;|-]+", cell) for cell in distinct):  # numbers, with commas say
        return None
    for mark in (*APART, *RARELY_APART):
        names = {name.strip() for cell in distinct for name in cell.split(mark)} - {""}
        most = len(distinct) if mark in APART else len(distinct) / 2
        if any(mark in cell for cell in distinct) and len(names) <= most:
            return mark
    return None


def flag_columns(table: TableFile) -> list[str]:
    """Columns that hold 0 and 1, or true and false, and nothing else; or one mark, and cells without it."""
    found = []
    for name in table.columns:
        if table.columns.count(name) == 1:
            cells = {cell.strip().lower() for cell in texts(table.frame[name])}
            found += [name] if len(cells) == 2 and (cells <= HELD.keys() or _mark(cells)) else []
    return found


def flags_of(columns: dict[str, list[str]]) -> tuple[dict[str, list[str]], str | None]:
    """Columns of labels in which nothing stands but one mark, as 1 and 0; others stay as they are.

    Returns:
        The columns, and a sentence on how they were understood. Beside zeros an empty cell is missing.
    """
    mark = _mark({cell.strip().lower() for cells in columns.values() for cell in cells})
    if not mark:
        return columns, None
    flags = {name: ["1" if cell.strip() else "0" for cell in cells] for name, cells in columns.items()}
    return flags, f'understood: an item without "{mark}" in a column of labels hasn\'t got it'


def _mark(kinds: set[str]) -> str:
    """What stands in the cells that aren't empty; nothing where all are full, or several words do."""
    (mark,) = kinds - {""} if len(kinds) == 2 and "" in kinds else ("",)
    return mark if mark in _MARKS else ""


def refuse_headless(columns: Sequence[str], images: str, table: Path) -> None:
    """Refuse a table whose first row holds a picture where the column of images should be named.

    Raises:
        DataError: it does; its first picture would be lost.
    """
    named = [name for name in columns if os.path.splitext(name)[1].lower() in PICTURES]
    if images in named or (named and images not in columns):
        raise DataError(
            f"{table} has no row that names its columns: it begins with {shortened(', '.join(columns))}",
            hint="Put a first row above it, such as image,label.",
        )


def decimal_points(cells: Sequence[str], column: str, table: Path) -> tuple[list[str], str | None]:
    """Cells of numbers with decimal commas, written with points, and a sentence on it; others as they are.

    Where every comma may stand between thousands, the cells stay, and the sentence says so.

    Args:
        cells: of a column of labels.
        column: its name.
        table: its file.
    """
    filled = [cell for cell in cells if cell]
    commas = [cell for cell in filled if "," in cell and _DECIMAL.fullmatch(cell)]
    count = sum(_DECIMAL.fullmatch(cell) is not None for cell in filled)
    if not commas or count < NUMBERS * len(filled):
        return list(cells), None
    where = f'"{printable(column)}" of {table.name}'
    sure = [cell for cell in commas if not _THOUSANDS.fullmatch(cell)]
    if not sure:
        example = commas[0]
        return list(cells), (
            f'the cells of {where}, such as "{example}", are taken for names: if they are numbers, write '
            f"{example.replace(',', '')} or {example.replace(',', '.')}"
        )
    written = [cell.replace(",", ".") if _DECIMAL.fullmatch(cell) else cell for cell in cells]
    return written, (
        f'understood: the numbers in {where} have decimal commas, such as "{sure[0]}"; if a cell holds '
        "several labels, set label_separator"
    )


def unlike_names(cells: Sequence[str]) -> str | None:
    """What cells of labels seem to be, where they are neither names nor plain numbers; else None."""
    filled = [cell for cell in cells if cell]
    lists = [cell for cell in filled if _LIST.fullmatch(cell)]
    if filled and len(lists) == len(filled):
        return f"lists, such as {shortened(lists[0])}: write cat;dog, and set label_separator"
    amounts = [cell for cell in filled if not is_number(cell) and _AMOUNT.fullmatch(cell)]
    if len(amounts) > len(filled) / 2 and len(set(amounts)) > len(filled) / 2:
        return f"amounts, such as {shortened(amounts[0])}: write plain numbers, such as 1234.5"
    return None


def shortened(text: str) -> str:
    """A text in quotes, fit to be shown."""
    text = printable(text)
    return f'"{text}"' if len(text) <= SHOWN else f'"{text[:SHOWN]}..."'


def is_number(cell: str) -> bool:
    """Whether a cell holds a number and nothing else."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def meant(kind: str, columns: Sequence[str], table: Path) -> str | None:
    """The column that holds something by its name, such as ``File_Name`` for an image; None for none.

    Raises:
        DataError: several might.
    """
    if kind in columns:
        refuse_doubled(kind, columns, table)
        return kind
    known = MEANT.get(kind, ())
    found = [column for column in columns if re.sub(r"[\W_]+", "", column).lower() in known]
    if len(found) > 1:
        raise DataError(
            f"{table}: columns {printable(', '.join(found))} might each be the {kind}",
            hint=naming(kind),
        )
    return found[0] if found else None


def naming(kind: str) -> str:
    """How a column is named to the commands, such as that of the labels."""
    beside = {
        "image": ", --image-column beside a table",
        "label": ", --label-column beside a table",
        "split": ", --split-column of `tlsearch init`",
    }
    return (
        f"Name the right one: {kind}_column in a study file{beside.get(kind, '')}, --set {kind}_column=NAME "
        "of `tlsearch evaluate`."
    )


def texts(column: Any) -> list[str]:
    """The cells of a column as texts without blanks around them; missing ones are empty."""
    # Parquet has missing values, which CSV doesn't: there they are empty strings.
    pairs = zip(column, column.isna(), strict=True)
    return ["" if missing else str(value).strip() for value, missing in pairs]
