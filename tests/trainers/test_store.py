"""Tokenised rows: stored completely or not at all, and cut into examples with every lost token counted."""

import os
from pathlib import Path

import numpy as np
import pytest

from dimba.trainers.data.encoding import Example
from dimba.trainers.data.selection import cuts_too_much, hold_out, select
from dimba.trainers.data.token_store import TokenStore, TokenWriter
from dimba.trainers.data.tokenization import _open_cached


def example(length: int, trained_from: int) -> Example:
    return Example(np.arange(length, dtype=np.int32), np.arange(length) >= trained_from)


def store(tmp_path, *rows: tuple[int, int]) -> TokenStore:
    with TokenWriter(tmp_path / "store") as writer:
        for number, row in enumerate(rows, 1):
            writer.add(example(*row), number)
        writer.finish({"format": "text"})
    return TokenStore.open(tmp_path / "store")


def test_a_store_returns_the_rows_that_were_written(tmp_path):
    rows = store(tmp_path, (3, 1), (5, 2))
    assert rows.lengths.tolist() == [3, 5] and rows.trained_counts.tolist() == [2, 3]
    assert rows.row(1).input_ids.tolist() == [0, 1, 2, 3, 4]
    assert rows.row(1).trained.tolist() == [False, False, True, True, True]
    assert rows.note == {"format": "text"}


def test_a_writer_that_fails_leaves_no_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), TokenWriter(tmp_path / "store") as writer:
        writer.add(example(3, 1), 1)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ids.bin", "trained.bin", "ends.npy", "note.json"])
def test_a_damaged_store_is_not_opened(tmp_path, name: str):
    store(tmp_path, (3, 1), (5, 2))
    (tmp_path / "store" / name).write_bytes((tmp_path / "store" / name).read_bytes()[:4])
    assert _open_cached(tmp_path / "store") is None


def test_a_writer_removes_the_leftovers_of_a_killed_one(tmp_path):
    (tmp_path / "store.123.part").mkdir()
    store(tmp_path, (3, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_store_may_be_empty(tmp_path):
    assert len(store(tmp_path)) == 0
    assert len(select(store(tmp_path), 8, None).train) == 0


def pieces(selection) -> list[list[int]]:
    return selection.train.tolist()


def test_long_rows_are_truncated_and_the_lost_tokens_counted(tmp_path):
    rows = store(tmp_path, (4, 1), (10, 2), (12, 9))
    chosen = select(rows, 8, None)
    assert pieces(chosen) == [[0, 0, 4], [1, 0, 8]] and chosen.train.dtype == np.int32
    assert (chosen.long_rows, chosen.dropped_rows) == (2, 1)
    assert chosen.cut_tokens == 2 + 12 and chosen.cut_trained_tokens == 2 + 3


def test_dropped_rows_count_as_lost_with_all_their_tokens(tmp_path):
    chosen = select(store(tmp_path, (4, 1), (10, 2)), 8, "drop")
    assert pieces(chosen) == [[0, 0, 4]]
    assert (chosen.cut_tokens, chosen.cut_trained_tokens, chosen.dropped_rows) == (10, 8, 1)


@pytest.mark.parametrize("length", [9, 15, 16, 22, 23, 40])
def test_split_rows_predict_every_trained_token_exactly_once(tmp_path, length: int):
    rows = store(tmp_path, (length, 3))
    chosen = select(rows, 8, "split")
    predicted = [n for _, start, end in pieces(chosen) for n in range(start + 1, end) if rows.row(0).trained[n]]
    assert predicted == list(range(3, length))
    assert all(end - start <= 8 for _, start, end in pieces(chosen))
    assert chosen.cut_tokens == chosen.cut_trained_tokens == 0


def test_a_piece_without_a_trained_token_is_omitted_and_counted(tmp_path):
    chosen = select(store(tmp_path, (20, 17), (20, 9)), 8, "split")
    assert pieces(chosen) == [[0, 14, 20], [1, 7, 15], [1, 14, 20]]
    assert (chosen.cut_tokens, chosen.cut_trained_tokens) == (14 + 7, 0)


@pytest.mark.parametrize(("on_long", "examples"), [("drop", 4), ("split", 6), ("truncate", 4)])
def test_the_requested_number_of_rows_is_held_out_with_all_their_pieces(tmp_path, on_long: str, examples: int):
    rows = store(tmp_path, *[(4, 1)] * 2, *[(20, 17 if on_long == "truncate" else 1)] * 6, *[(4, 1)] * 3)
    asked = {"drop": 4, "split": 3, "truncate": 0.8}[on_long]
    chosen = select(rows, 8, on_long, asked, seed=1)
    assert chosen.held_out_rows == len(set(chosen.validation[:, 0])) == {"drop": 4, "split": 3, "truncate": 4}[on_long]
    assert len(chosen.validation) >= examples and not set(chosen.validation[:, 0]) & set(chosen.train[:, 0])


def test_cutting_more_than_a_tenth_of_the_trained_tokens_needs_a_flag(tmp_path):
    rows = store(tmp_path, (8, 0), (9, 0), (10, 0))
    assert cuts_too_much(rows, select(rows, 8, None), None)
    assert not cuts_too_much(rows, select(rows, 9, None), None)
    assert not cuts_too_much(rows, select(rows, 8, "truncate"), "truncate")


def test_held_out_rows_are_not_trained_on_and_equal_for_equal_seeds(tmp_path):
    rows = store(tmp_path, *[(4, 1)] * 40)
    held_out = hold_out(range(40), 0.1, seed=7)
    assert held_out.tolist() == hold_out(range(40), 4, seed=7).tolist() and len(held_out) == 4
    chosen = select(rows, 8, None, 4, seed=7)
    assert len(chosen.train) == 36 and chosen.validation[:, 0].tolist() == held_out.tolist()
    assert not set(chosen.train[:, 0]) & set(held_out)


def test_opening_a_store_updates_its_access_time_for_prune(tmp_path):
    store(tmp_path, (3, 1))
    note = tmp_path / "store" / "note.json"
    os.utime(note, (1, 1))
    TokenStore.open(tmp_path / "store")
    assert note.stat().st_atime > 1 and note.stat().st_mtime == 1


def test_rows_of_several_files_keep_the_place_in_their_own(tmp_path: Path):
    with TokenWriter(tmp_path / "store") as writer:
        for number in (1, 2, 1):
            writer.add(example(3, 1), number)
        writer.finish({"places": [(0, "a.jsonl:"), (2, "b.parquet: row ")]})
    store = TokenStore.open(tmp_path / "store")
    assert [store.where(row) for row in range(3)] == ["a.jsonl:1", "a.jsonl:2", "b.parquet: row 1"]
