"""Files of rows: every kind is read, and a broken row is reported with its location while the others are read."""

import csv
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files import read_rows

ROWS = [{"question": f"Where is {n}?", "answer": 'It is "here",\nor – there'} for n in range(3)]
GOOD = '{"question": "Q", "answer": "A"}'
ROW = json.loads(GOOD)


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",", start: str = "") -> str:
    import io

    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return start + text.getvalue()


def lines_of(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def parquet(path: Path, table: Any) -> Path:
    from pyarrow import parquet

    parquet.write_table(table, path)
    return path


def read(path: Path) -> list[tuple[str, dict[str, Any] | UnusableRow]]:
    return [(str(where).removeprefix(f"{path}"), row) for where, row in read_rows(path)]


def good(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read(path) if not isinstance(row, UnusableRow)]


def bad(path: Path) -> list[str]:
    return [str(row.message).removeprefix(str(path)) for _, row in read(path) if isinstance(row, UnusableRow)]


def refusal(path: Path) -> BadInput:
    with pytest.raises(BadInput) as raised:
        list(read_rows(path))
    assert raised.value.message.startswith(str(path)) and raised.value.hint
    return raised.value


FILES = [
    ("lines.jsonl", lines_of(ROWS)),
    ("windows.jsonl", "\ufeff" + lines_of(ROWS).replace("\n", "\r\n\r\n")),
    ("lines.json", lines_of(ROWS)),
    ("array.json", json.dumps(ROWS)),
    ("pretty.json", "\ufeff  " + json.dumps(ROWS, indent=2, ensure_ascii=False)),
    ("objects.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    ("comma.csv", as_csv(ROWS)),
    ("semicolon.csv", as_csv(ROWS, ";", "\ufeff")),
    ("tab.csv", as_csv(ROWS, "\t", "\n\n")),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "text"), FILES, ids=[name for name, _ in FILES])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, text: str, packed: bool):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert good(path) == ROWS and not bad(path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_parquet_gives_the_same_rows(tmp_path: Path, packed: bool):
    import pyarrow

    path = parquet(tmp_path / "rows.parquet", pyarrow.Table.from_pylist(ROWS * 2000))
    if packed:
        (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "rows.parquet.gz"
    assert good(path) == ROWS * 2000
    assert [where for where, _ in read(path)][-1] == ": row 6000"


def test_each_line_of_text_is_a_row(tmp_path: Path):
    path = tmp_path / "book.txt"
    path.write_bytes("\ufeffOnce\r\n\n  upon a\u2028time\n".encode())
    assert read(path) == [(":1", {"text": "Once"}), (":3", {"text": "  upon a\u2028time"})]


def test_a_row_of_a_table_has_the_line_that_it_begins_on(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text(as_csv(ROWS) + "\n\nlast,one\n", encoding="utf-8")
    assert [where for where, _ in read(path)] == [":2", ":4", ":6", ":10"]


# A file in which one row is broken: (name, content, its location and cause, number of the other rows).
BROKEN_ROWS = [
    ("a.jsonl", f'{GOOD}\n{{"question": \n{GOOD}', ":2: not valid JSON: Expecting value at column", 2),
    ("a.jsonl", f"{GOOD}\n\n[1, 2]\n{GOOD}", ":3: is a list, expected an object", 2),
    ("a.jsonl", f'"Q"\n{GOOD}', ":1: is text, expected an object", 1),
    ("a.jsonl", f'{GOOD}\n{{"question": "Q" \n{GOOD}', ":2: not valid JSON: Expecting ',' delimiter at column 17", 2),
    ("a.jsonl", f"{GOOD}\n{GOOD[:16]}", ":2: not valid JSON: Expecting ',' delimiter", 1),
    ("a.jsonl", f"{GOOD}\n{GOOD[:24]}", "the file ends in the middle of this row", 1),
    ("a.jsonl", f"{GOOD}\n\0\0\0\0\n{GOOD}", ":2: holds NUL bytes", 2),
    ("a.jsonl", f'{GOOD}\n{{"a": {"[" * 100_000}\n{GOOD}', ":2: nested too deeply", 2),
    ("a.jsonl", f'{GOOD}\n{{"a": {"1" * 5000}}}\n{GOOD}', ":2: not readable: Exceeds the limit", 2),
    ("a.jsonl", b'{"a": "Zo\xeb"}\n' + GOOD.encode(), ":1: not UTF-8 at byte 10", 1),
    ("a.jsonl", f'{{"a": 1, "a": 2}}\n{GOOD}', ":1: `a` stands twice in one object, with different values", 1),
    ("a.json", f'[{GOOD}, {{"a": [{{"b": 1, "b": 2}}]}}, {GOOD}]', ": row 2: `b` stands twice in one object", 2),
    ("a.json", b'[{"a": "Zo\xeb"},\n' + GOOD.encode() + b"]", ": row 1: not UTF-8", 1),
    ("a.json", f"[{GOOD}, 5, {GOOD}]", ": row 2: is a number, expected an object", 2),
    ("a.csv", "question,answer\nQ,A\nQ\nQ,A\n", ":3: 1 cells, and the header has 2", 2),
    ("a.csv", "question,answer\nQ,A,B\nQ,A\n", ":2: 3 cells, and the header has 2", 1),
    ("a.csv", 'question,answer\n"Q" too,A\nQ,A\n', ":2: not valid CSV: ',' expected after", 1),
    ("a.csv", b"question,answer\nZo\xeb,A\nQ,A\n", ":2: not UTF-8 in column `question`", 1),
    ("a.csv", "question,answer\nQ\0,A\nQ,A\n", ":2: holds NUL bytes", 1),
    ("a.txt", b"Zo\xeb\nZoe\n", ":1: not UTF-8 at byte 3", 1),
    ("a.txt", "a\0\nb\n", ":1: holds NUL bytes", 1),
]


@pytest.mark.parametrize(
    ("name", "content", "message", "others"), BROKEN_ROWS, ids=[row[2][:60] for row in BROKEN_ROWS]
)
def test_a_broken_row_is_reported_and_the_others_are_read(
    tmp_path: Path, name: str, content: str | bytes, message: str, others: int
):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert len(bad(path)) == 1 and message in bad(path)[0], bad(path)
    assert len(good(path)) == others


def test_a_string_of_parquet_that_is_not_utf8_is_reported(tmp_path: Path):
    import pyarrow

    raw = pyarrow.array([b"a", b"Zo\xeb", b"c"], pyarrow.binary()).view(pyarrow.string())
    path = parquet(tmp_path / "a.parquet", pyarrow.table({"text": raw}))
    assert good(path) == [{"text": "a"}, {"text": "c"}] and bad(path) == [": row 2: not UTF-8"]


# A file without a readable row: (name, content, cause).
BROKEN_FILES = [
    ("a.jsonl", b"", "no rows"),
    ("a.jsonl", b"\n \n", "no rows"),
    ("a.json", b"[]", "no rows"),
    ("a.csv", b"question,answer\n", "no rows"),
    ("a.parquet", b"", "is not a complete parquet file"),
    ("a.xlsx", b"x", "`.xlsx` is not a supported kind of file"),
    ("a", b"x", "`no suffix` is not a supported kind of file"),
    ("a.jsonl", GOOD.encode("utf-16"), "is UTF-16, expected UTF-8"),
    ("a.csv", "a,b\n1,2".encode("utf-16-le"), "is UTF-16 without its mark"),
    ("a.txt", "text".encode("utf-32"), "is UTF-32"),
    ("a.jsonl", gzip.compress(GOOD.encode()), "is compressed with gzip"),
    ("a.csv", b"PK\x03\x04xxxx", "is a zip archive (or a spreadsheet)"),
    ("a.jsonl", b"PAR1xxxxPAR1", "is a parquet file"),
    ("a.parquet", GOOD.encode(), "is not a parquet file"),
    ("a.parquet", b"PAR1xxxxxxxxxxxxxxxxxxPAR1", "is not a complete parquet file"),
    ("a.jsonl.gz", GOOD.encode(), "not a complete gzip file: Not a gzipped file"),
    ("a.jsonl.gz", gzip.compress(GOOD.encode() * 9)[:-12], "not a complete gzip file"),
    ("a.parquet.gz", b"x", "not a complete gzip file"),
    ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode(), "one object, with its rows under `data`"),
    ("a.json", json.dumps({"version": 1, "data": ROWS}).encode(), "one object, with its rows under `data`"),
    ("a.csv", b",question\n0,Q\n", "column 1 of the header has no name"),
    ("a.csv", b"question,question\nQ,Q\n", "two columns are called `question`"),
    ("a.csv", b'"question,answer\nQ,A\n', "its header is not CSV"),
    ("a.csv", b"What is it? " * 20 + b",A\nQ,A\n", "`What is it? What is it? What is it? What…` is taken for the name"),
    ("a.jsonl", b"<!DOCTYPE html>\n<html>", "is an HTML page, not data"),
    ("a.parquet", b"\n<html lang='en'>", "is an HTML page, not data"),
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a git-lfs pointer"),
    ("a.jsonl", json.dumps(ROWS).encode(), "is one JSON array"),
    ("a.jsonl", json.dumps(ROWS, indent=1).encode(), "is one JSON array"),
    ("a.jsonl", json.dumps(ROWS[0], indent=1).encode(), "its objects stand on several lines each"),
]


# A mistake after which rows would be lost unseen: (name, content, cause, hint).
BREAKS = [
    (
        "a.json",
        f'[{GOOD},\n {{"question": "Q",\n "answer": }}\n]',
        "row 2: not valid JSON: Expecting value at line 3, col",
        "correct it there",
    ),
    (
        "a.json",
        f"[{GOOD},\n {GOOD}\n {GOOD}]",
        "row 3: not valid JSON: expected a comma or the array's `]`, found `{` at line 3",
        "correct it there",
    ),
    (
        "a.json",
        f"[{GOOD}, {GOOD[:24]}",
        "row 2: not valid JSON: Unterminated string starting at line 1",
        "truncate_stream(inputs))' a.json > a.jsonl`",
    ),
    ("a.json", f"[{GOOD}\n", "found the end of the file", "copy or make the file again"),
    ("a.json", f"[{GOOD}] {GOOD}", "there is more after the array's `]`, at line 1, column 36", "correct it there"),
    ("a.json", f"[{GOOD},]", ": row 2: not valid JSON", "correct it there"),
    ("a.json", f'[{GOOD}, {{"a": {"[" * 100_000}', ": row 2: nested too deeply", "correct it there"),
    (
        "a.json",
        '{\n"question": "Q"\n}\n{\n"question" "Q"}',
        ":4: not valid JSON: Expecting ':' delimiter at line 5",
        "correct it there",
    ),
    (
        "a.json",
        '{\n"question": "Q"\n}\n{\n"question"\n',
        "Expecting ':' delimiter at line 5, column 11; the file ends in the middle of this row",
        "`jq -c . a.json > a.jsonl`",
    ),
    ("a.csv", 'question,answer\nQ,A\n"Q,A\nQ,A\n', ":3: a quote is opened here and never closed", "from that line on"),
    (
        "a.csv",
        'question,answer\n"Q,A\n"Q",A\nQ,A\n',
        ":2: not valid CSV: ',' expected after '\"' (2 lines, 2 to 3,",
        "from that line on",
    ),
    (
        "a.csv",
        'question,answer\n"Q,A\nQ"\nQ,A\n',
        ":2: 2 lines, 2 to 3, are read as one row with 1 cells",
        "from that line on",
    ),
]


@pytest.mark.parametrize(("name", "content", "message", "hint"), BREAKS, ids=[row[2][:60] for row in BREAKS])
def test_a_mistake_that_would_hide_rows_ends_the_reading(
    tmp_path: Path, name: str, content: str, message: str, hint: str
):
    (tmp_path / name).write_text(content)
    refused = refusal(tmp_path / name)
    assert message in refused.message and hint in refused.hint and not isinstance(refused, UnusableRow)


@pytest.mark.parametrize(("name", "content", "cause"), BROKEN_FILES, ids=[f"{row[0]} {row[2]}" for row in BROKEN_FILES])
def test_an_unreadable_file_is_an_error(tmp_path: Path, name: str, content: bytes, cause: str):
    (tmp_path / name).write_bytes(content)
    assert cause in refusal(tmp_path / name).message


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.zip", "unpack it"), ("a.tar.gz", "unpack it"), ("a.TGZ", "unpack it"), ("a.xlsx", "export the sheet as .csv")],
)
def test_an_archive_or_a_sheet_is_answered_with_what_to_do(tmp_path: Path, name: str, hint: str):
    (tmp_path / name).write_bytes(b"x")
    assert hint in refusal(tmp_path / name).hint


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path):
    (tmp_path / "folder.json").mkdir()
    assert "does not exist" in refusal(tmp_path / "missing.jsonl").message
    assert "holds no file of rows" in refusal(tmp_path / "folder.json").message


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_row_of_ten_megabytes_is_read(tmp_path: Path, name: str):
    path, text = tmp_path / name, "ä" * 5_000_000
    written = {
        ".jsonl": lambda: json.dumps({"text": text}, ensure_ascii=False) + "\n" + json.dumps({"text": "b"}),
        ".json": lambda: json.dumps([{"text": text}, {"text": "b"}], ensure_ascii=False),
        ".csv": lambda: f'text,n\n"{text}",1\nb,2\n',
        ".txt": lambda: f"{text}\nb\n",
    }
    path.write_text(written[path.suffix](), encoding="utf-8")
    assert [row["text"] for row in good(path)] == [text, "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_a_row_without_an_end_is_reported_before_it_fills_the_memory(tmp_path: Path, name: str, monkeypatch):
    for module in ("lines", "array"):
        monkeypatch.setattr(f"dimba.dataset.files.{module}.LONGEST", 2 << 20)
    path = tmp_path / name
    path.write_text("[" * (name == "a.json") + '{"text": "' + "x" * (9 << 20) + '"}\n' + GOOD)
    if name == "a.json":
        assert "row 1: longer than" in refusal(path).message
    else:
        assert len(bad(path)) == 1 and "longer than" in bad(path)[0] and len(good(path)) == 1


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_in_bounded_memory(tmp_path: Path, indent: int | None):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"n": n, "text": "word " * 400} for n in range(10_000)], indent=indent))
    tracemalloc.start()
    try:
        assert sum(row["n"] for _, row in read_rows(path) if isinstance(row, dict)) == sum(range(10_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 20_000_000 and peak < 10 << 20


def test_the_first_row_of_a_large_file_is_read_without_the_rest(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("[" + GOOD + ", " + "x" * (20 << 20))
    rows = read_rows(path)
    assert next(rows) == (Location(str(path), row=1), ROW)
    rows.close()
