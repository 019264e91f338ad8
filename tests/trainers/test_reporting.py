"""The report of tokenised data: the pieces that the model gets, as readable text."""

import json
from pathlib import Path

import numpy as np
import pytest

from dimba.common.contract import DATA_FILE, ENV_ATTEMPT_DIR
from dimba.dataset.token_report import DataReport, Part, Shown
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.reporting import decode, report_on
from dimba.trainers.data.selection import select
from dimba.trainers.data.token_store import TokenStore, TokenWriter
from dimba.trainers.objectives.data_output import record_data

NOTE = {"format": "text", "columns": {}, "rows": 0, "unusable": 0, "bad": [], "places": [[0, "data.jsonl:"]]}


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


def shown(folder: Path, texts: list[str], max_length: int, on_long: str) -> tuple[Shown, ...]:
    """The shown examples of rows whose tokens carry loss from the sixth on."""
    return report(folder, texts, max_length, on_long).shown


def report(folder: Path, texts: list[str], max_length: int, on_long: str) -> DataReport:
    with TokenWriter(folder / "store") as writer:
        for number, text in enumerate(texts, 1):
            ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
            writer.add(Example(ids, np.arange(len(ids)) >= 5), number)
        writer.finish(NOTE)
    rows = TokenStore.open(folder / "store")
    return report_on(rows, select(rows, max_length, on_long), Bytes(), max_length=max_length, on_long=on_long)


def text(example: Shown) -> str:
    return "".join(f"[{part.text}]" if part.trained else part.text for part in example.parts)


@pytest.mark.parametrize(
    ("on_long", "expected"),
    [
        ("truncate", ["abcde[fgh] … 2 tokens are not in this example … ", "ABCDE[FG]"]),
        ("drop", ["ABCDE[FG]"]),
        (
            "split",
            [
                "abcde[fgh] … 2 tokens are not in this example … ",
                " … 7 tokens before are not seen … [hij]",
                "ABCDE[FG]",
            ],
        ),
    ],
)
def test_examples_are_shown_as_the_model_gets_them(tmp_path: Path, on_long: str, expected: list[str]):
    found = shown(tmp_path, ["abcdefghij", "ABCDEFG"], 8, on_long)
    assert [text(each) for each in found] == expected
    assert all(each.tokens <= 8 for each in found)


@pytest.mark.parametrize("lengths", [(7, 7, 7), (9, 7, 8), (7, 6, 8), (7, 7, 7, 7, 9), (9, 6, 6, 6, 6)])
def test_three_different_examples_are_shown(tmp_path: Path, lengths: tuple[int, ...]):
    found = shown(tmp_path, ["x" * length for length in lengths], 64, "truncate")
    assert len({each.where for each in found}) == 3 and found[0].title == "the first"
    longest = found[2].tokens == max(lengths)
    assert found[2].title == ("the longest" if longest else "the longest but the first")


@pytest.mark.parametrize("edge", [2, 3, 4])
def test_a_character_of_several_tokens_is_not_cut(edge: int):
    ids = np.frombuffer("é日\ufffd!".encode(), dtype=np.uint8).astype(np.int32)
    parts = decode(Example(ids, np.arange(len(ids)) >= edge), Bytes())
    first = "é" if edge == 2 else "é日"
    assert parts == (Part(text=first, trained=False), Part(text="é日\ufffd!".removeprefix(first), trained=True))


def test_a_replacement_character_in_the_text_moves_no_border():
    ids = np.frombuffer("a\ufffdb".encode(), dtype=np.uint8).astype(np.int32)
    assert [part.text for part in decode(Example(ids, np.arange(len(ids)) >= 4), Bytes())] == ["a\ufffd", "b"]


def test_a_launched_job_records_the_report_beside_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = report(tmp_path, ["01234abcde"], 32, "split")
    monkeypatch.delenv(ENV_ATTEMPT_DIR, raising=False)
    record_data(found)  # a trainer that runs alone has no such folder
    monkeypatch.setenv(ENV_ATTEMPT_DIR, str(tmp_path))
    record_data(found)
    assert DataReport.from_json(json.loads((tmp_path / DATA_FILE).read_text(encoding="utf-8"))) == found
    monkeypatch.setenv(ENV_ATTEMPT_DIR, str(tmp_path / "missing"))
    record_data(found)  # a save reports a full disk
