"""`look_at_data` summarises a data file and reports its invalid rows."""

import os
from pathlib import Path

import pytest

from dimba.host.data import look_at_data
from dimba.host.facts import DataFacts
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


def test_a_missing_file_is_a_problem(tmp_path: Path):
    facts = look(tmp_path / "missing.csv")
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


# Folders and patterns.


def test_a_folder_of_shards_is_summarised_with_all_its_files(tmp_path: Path):
    for number in range(3):
        write_rows(tmp_path / "shards" / f"part-{number}.jsonl", QUESTIONS)
    facts = look(tmp_path / "shards")
    assert not facts.problem and facts.summary and facts.summary.rows == 3 * len(QUESTIONS)
    assert facts.places == (tmp_path / "shards",) and len(facts.files) == 3


def test_an_unusable_row_of_a_shard_is_reported_with_its_file(tmp_path: Path):
    write_rows(tmp_path / "shards" / "part-0.jsonl", QUESTIONS)
    write_rows(tmp_path / "shards" / "part-1.jsonl", [{"question": "Q"}])
    assert look(tmp_path / "shards" / "*.jsonl").problem.startswith(f"{tmp_path}/shards/part-1.jsonl:1: ")


def test_the_files_of_a_pattern_are_mounted_one_by_one_and_of_many_their_folder(tmp_path: Path):
    for number in range(3):
        write_rows(tmp_path / "d" / f"{number}.jsonl", QUESTIONS[:1])
    (tmp_path / "d" / "secret.pem").touch()
    assert look(tmp_path / "d" / "*.jsonl").places == tuple(tmp_path / "d" / f"{n}.jsonl" for n in range(3))
    for number in range(3, 101):
        write_rows(tmp_path / "d" / f"{number}.jsonl", QUESTIONS[:1])
    assert look(tmp_path / "d" / "*.jsonl").places == (tmp_path / "d",)


def test_links_that_lead_out_of_a_folder_are_mounted_too(tmp_path: Path):
    write_rows(tmp_path / "blobs" / "1.jsonl", QUESTIONS)
    write_rows(tmp_path / "other" / "2.jsonl", QUESTIONS)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").symlink_to("../blobs/1.jsonl")
    (tmp_path / "d" / "more").symlink_to(tmp_path / "other")
    facts = look(tmp_path / "d")
    linked = {tmp_path / "blobs" / "1.jsonl", tmp_path / "other"}
    assert {seen for seen, _ in facts.linked_files} == {real for _, real in facts.linked_files} == linked


@pytest.mark.parametrize("folder", ["/", "/tmp", "~"])
def test_a_folder_that_holds_more_than_data_is_refused(folder: str):
    facts = look_at_data(Dataset(path=folder), Path("/"), lambda _rows: None, "sft", read=False)
    assert "holds more than one job's files" in facts.problem and "pattern" in facts.hint


def test_a_folder_that_no_job_may_read_is_not_looked_into():
    for place in ("/etc", "/etc/*.json", "~/.ssh/*.json"):
        facts = look_at_data(Dataset(path=place), Path("/"), lambda _rows: None, "sft", read=False)
        assert "belongs to the system" in facts.problem or "holds logins" in facts.problem


def test_one_more_file_in_a_folder_changes_the_hash_of_the_data(tmp_path: Path):
    from dimba.host.fingerprint import fingerprint_of_files

    write_rows(tmp_path / "d" / "1.jsonl", QUESTIONS)
    write_rows(tmp_path / "d" / "2.jsonl", QUESTIONS)
    before = fingerprint_of_files(look(tmp_path / "d").files, lambda _done, _total: None)
    write_rows(tmp_path / "d" / "3.jsonl", QUESTIONS)
    assert before != fingerprint_of_files(look(tmp_path / "d").files, lambda _done, _total: None)


def test_a_misspelt_path_is_answered_with_its_neighbour(tmp_path: Path):
    path = write_rows(tmp_path / "data.jsonl", QUESTIONS)
    assert look(tmp_path / "data.jsnol").hint == f"did you mean `{path}`?"
    assert "correct `dataset.path`" in look(tmp_path / "other.csv").hint
    assert "correct `dataset.path`" in look(tmp_path / "nowhere" / "data.jsonl").hint
