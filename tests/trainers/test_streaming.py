"""Streamed rows: their order, their tokens, the rows that cannot be trained on, and resuming."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data import streaming
from dimba.trainers.data.chat import ChatEncoder, prepare_tokenizer
from dimba.trainers.data.loading import load_data
from dimba.trainers.data.rows import Source
from dimba.trainers.data.streaming import RowStream
from dimba.trainers.models.loading import load_tokenizer
from tests.conftest import write_rows
from tests.trainers.test_sft import metrics, run
from tests.weights import largest_difference

ROWS = [{"prompt": f"Say {n}", "response": f"It is {n}."} for n in range(20)]
SHORT = ("--stream", "--max-steps", "4", "--batch-size", "2", "--grad-accumulation-steps", "2", "--max-length", "64")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", 8)
    monkeypatch.setattr(streaming, "BLOCK", 8)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def options(base: Path, data: object, *flags: str) -> SftOptions:
    named = ("--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(base), "--max-length", "64")
    return SFT.parse([*named, "--stream", "--max-steps", "4", *flags])


def stream(base: Path, data: Path, *flags: str, **range_: Any) -> RowStream:
    given, tokenizer = options(base, data, *flags), load_tokenizer(str(base))
    prepare_tokenizer(tokenizer)
    return RowStream(Source(str(data), stream=True, **range_), ChatEncoder(tokenizer), given)


@pytest.fixture
def texts(tiny_checkpoint: Path) -> Iterator[Any]:
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    yield lambda examples: [tokenizer.decode(each.input_ids) for each in examples]


def test_each_pass_has_every_row_once_shuffled_by_blocks(tiny_checkpoint: Path, rows: Path, texts):
    read = texts(stream(tiny_checkpoint, rows).examples(range(60)))
    passes = [read[start : start + 20] for start in (0, 20, 40)]
    assert [sorted(each) for each in passes] == [sorted(passes[0])] * 3 and len(set(passes[0])) == 20
    in_file = [text for n in range(20) for text in passes[0] if f"Say {n}<" in text]
    assert set(passes[0][:8]) == set(in_file[:8]) and passes[0][:8] != in_file[:8]
    assert all(one != two for one, two in pairwise(passes)), "every pass has an order of its own"


def test_the_order_depends_on_the_seed_alone_and_any_place_can_be_read_first(tiny_checkpoint: Path, rows: Path, texts):
    whole = texts(stream(tiny_checkpoint, rows).examples(range(60)))
    again = stream(tiny_checkpoint, rows)
    assert texts(again.examples(range(33, 41))) == whole[33:41]
    assert texts(again.examples([0, 1])) == whole[:2], "going back reads from the beginning"
    assert texts(stream(tiny_checkpoint, rows, "--seed", "7").examples(range(60))) != whole


def test_a_streamed_row_has_the_tokens_and_the_mask_of_a_stored_one(tiny_checkpoint: Path, rows: Path):
    stored = load_data(options(tiny_checkpoint, rows), lambda _: None).train
    streamed = stream(tiny_checkpoint, rows).examples(range(8))
    known = {stored.example(n).input_ids.tobytes(): stored.example(n).trained.tobytes() for n in range(8)}
    assert {each.input_ids.tobytes(): each.trained.tobytes() for each in streamed} == known


def test_a_row_without_tokens_to_train_on_takes_a_place_without_loss(tiny_checkpoint: Path, tmp_path: Path, capsys):
    bad = [{"prompt": "a", "response": None}, {"prompt": "b " * 90, "response": "too long"}, *ROWS[:4]]
    data = write_rows(tmp_path / "bad.jsonl", bad)
    skipping = stream(tiny_checkpoint, data, "--skip-bad-rows")
    lengths = [len(each.input_ids) for each in skipping.examples(range(6))]
    assert lengths.count(1) == 2 and skipping.refused is None
    assert skipping.left_out.summary == "streamed rows that were left out: 1 unusable, 1 too long"
    assert "bad.jsonl:1: `response` is null" in capsys.readouterr().out
    strict = stream(tiny_checkpoint, data)
    strict.examples(range(6))
    assert strict.refused and strict.refused.location.line == 1


def test_a_long_row_is_cut_or_dropped_as_asked(tiny_checkpoint: Path, tmp_path: Path):
    data = write_rows(tmp_path / "long.jsonl", [{"prompt": "a", "response": "b " * 90}])
    [cut] = stream(tiny_checkpoint, data).examples([0])
    assert len(cut.input_ids) == 64 and cut.trained.any()
    [dropped] = stream(tiny_checkpoint, data, "--on-long", "drop").examples([0])
    assert len(dropped.input_ids) == 1 and not dropped.trained.any()


def test_the_rows_held_out_are_the_first_and_are_not_trained_on(tiny_checkpoint: Path, rows: Path, texts):
    data = load_data(options(tiny_checkpoint, rows, "--validation-split", "5"), lambda _: None)
    assert data.report.validation == 5 and data.report.rows == 8 and data.report.streamed
    held_out = texts([data.validation.example(n) for n in range(5)])
    assert data.stream and not set(held_out) & set(texts(data.stream.examples(range(60))))


def test_a_streamed_file_is_not_read_to_its_end_beforehand(tiny_checkpoint: Path, rows: Path):
    with rows.open("a", encoding="utf-8") as file:
        file.write("{broken\n" * 3)
    report = load_data(options(tiny_checkpoint, rows), lambda _: None).report
    assert (report.rows, report.unusable, report.problem) == (8, 0, "")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--validation-split", "0.1"], "--validation-split"),
        (["--on-long", "split"], "--on-long"),
        (["--validation-split", "20"], "--validation-split: 20 rows to hold out are all"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(flags: list[str], named: str, tiny_checkpoint: Path, rows: Path):
    with pytest.raises(BadInput) as refused:
        load_data(options(tiny_checkpoint, rows, *flags), lambda _: None)
    assert named in str(refused.value) and refused.value.hint


def test_it_trains_and_resumes_exactly(tiny_checkpoint: Path, rows: Path, tmp_path: Path):
    flags = (*SHORT, "--learning-rate", "1e-3", "--save-steps", "2")
    whole, part = tmp_path / "whole", tmp_path / "part"
    output = run(tiny_checkpoint, rows, whole, *flags)
    assert "the first 8 rows of a stream" in output and "rows are read during training" in output
    resumed = ("--resume-from-checkpoint", str(whole / "checkpoint-2"))
    run(tiny_checkpoint, rows, part, *flags, *resumed)
    assert largest_difference(whole, part) == 0.0
    assert [each["loss"] for each in metrics(part)] == [each["loss"] for each in metrics(whole)[2:]]


def test_an_unusable_row_behind_the_sample_stops_the_run_with_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path):
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS[:8], {"prompt": "x", "response": None}, *ROWS[8:]])
    flags = (*SHORT, "--max-steps", "9")
    output = run(tiny_checkpoint, data, tmp_path / "out", *flags, status=2)
    assert f"error: {data}:9: `response` is null" in output and "hint: a checkpoint was saved" in output
    assert list((tmp_path / "out").glob("checkpoint-*")), "what was trained is lost"
    output = run(tiny_checkpoint, data, tmp_path / "skipped", *flags, "--skip-bad-rows")
    assert f"data: left out: {data}:9: `response` is null" in output
    assert "data: streamed rows that were left out: 1 unusable" in output or "2 unusable" in output
