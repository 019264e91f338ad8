"""`look_at_data` summarises a data file and reports its invalid rows."""

import os
from pathlib import Path

import pytest

from dimba.host.facts import DataFacts
from dimba.host.probe import look_at_data
from dimba.host.stamp import stamp
from dimba.spec import Dataset
from tests.conftest import QUESTIONS, write_rows


def look(path: Path, *, skip_bad: bool = False) -> DataFacts:
    return look_at_data(Dataset(path=str(path)), path.parent, lambda _rows: None, "sft", skip_bad=skip_bad)


def test_a_valid_file_has_no_problem(tmp_path: Path):
    facts = look(write_rows(tmp_path / "data.jsonl", QUESTIONS))
    assert not facts.problem and facts.summary and facts.summary.usable == len(QUESTIONS)


def test_invalid_rows_are_a_problem_with_their_lines_and_a_hint(tmp_path: Path):
    path = write_rows(tmp_path / "data.jsonl", [*QUESTIONS, *[{"question": "Q"}] * 7])
    facts = look(path)
    first, *others = facts.problem.splitlines()
    assert first == f"{path}:13: `answer` is missing, unlike in the first row"
    assert [line.split(": ")[0] for line in others[:4]] == [f"{path}:{n}" for n in range(14, 18)]
    assert others[4:] == ["7 of 19 rows cannot be used"]
    assert "correct these rows" in facts.hint and "`trainer_args: {skip-bad-rows: true}`" in facts.hint


def test_invalid_rows_are_skipped_on_request(tmp_path: Path):
    facts = look(write_rows(tmp_path / "data.jsonl", [*QUESTIONS, {"question": "Q"}]), skip_bad=True)
    assert not facts.problem and facts.summary
    assert (facts.summary.usable, facts.summary.unusable) == (12, 1)


def test_a_file_without_a_valid_row_is_a_problem_even_if_invalid_ones_are_skipped(tmp_path: Path):
    assert "is blank" in look(write_rows(tmp_path / "a.jsonl", [{"text": ""}]), skip_bad=True).problem


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_missing_file_or_a_folder_is_a_problem(tmp_path: Path, name: str):
    facts = look(tmp_path / name)
    assert facts.problem and "dataset.path" in facts.hint


@pytest.mark.parametrize("replaced", [False, True])
def test_the_stamp_changes_even_if_a_copying_tool_restores_the_modification_time(tmp_path: Path, replaced: bool):
    path = tmp_path / "data.jsonl"
    path.write_text("one", encoding="utf-8")
    before, folder, times = stamp(path), stamp(tmp_path), path.stat()
    if replaced:
        path.rename(tmp_path.with_suffix(".old"))
    path.write_text("two", encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stamp(path) != before and stamp(tmp_path) != folder


def test_the_hint_is_the_fix_for_every_invalid_row(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"question,answer\nZo\xeb?,A\nQ,A\n")
    facts = look(tmp_path / "a.csv")
    assert "a.csv:2: not UTF-8 in column `question`" in facts.problem and "iconv -f WINDOWS-1252" in facts.hint
