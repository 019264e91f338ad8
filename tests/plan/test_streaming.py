"""`dataset.stream` in the plan: its flag, its steps, what is read of the data, and what it cannot be combined with."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput
from dimba.host.data import look_at_data
from dimba.host.provenance import provenance
from dimba.spec import Dataset, parse_spec
from tests.conftest import QUESTIONS, write_rows
from tests.plan.test_plan import FACTS, FLAGS, SPARSE, dpo_facts, plan, refusal

DATA = "dataset: {path: data.jsonl, stream: true}"
STEPS = "training: {max_steps: 7, grad_accumulation_steps: 2}"
STREAMED = replace(
    FACTS,
    trainer=replace(FACTS.trainer, flags=FLAGS | {"--stream", "--validation-split", "--skip-bad-rows", "--on-long"}),
    data=replace(FACTS.data, streamed=True),
)


def test_the_flag_reaches_the_trainer_and_no_epoch_is_counted() -> None:
    found = plan(f"{DATA}\n{STEPS}", STREAMED)
    assert "--stream" in found.argv and (found.steps.per_epoch, found.steps.total) == (None, 7)
    assert any("only the first 1,000 rows are checked" in note and "stops the run" in note for note in found.notes)
    skipping = plan(f"{DATA}\n{STEPS}\ntrainer_args: {{skip-bad-rows: true}}", STREAMED)
    assert any("is left out and counted" in note for note in skipping.notes)
    assert "--stream" not in plan(STEPS).argv


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("", "training.max_steps: a stream does not end by itself"),
        (f"{STEPS}\ntrainer_args: {{validation-split: 0.05}}", "trainer_args.validation-split: 0.05 of a stream"),
        (f"{STEPS}\ntrainer_args: {{on-long: split}}", "trainer_args.on-long: a streamed row is one example"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(added: str, message: str) -> None:
    refused = refusal(f"{DATA}\n{added}", STREAMED)
    assert isinstance(refused, BadInput) and message in refused.message and refused.hint


@pytest.mark.parametrize("held_out", ["500", "validation"])
def test_a_number_of_rows_or_another_split_can_be_held_out(held_out: str) -> None:
    data = "dataset: {name: owner/rows, stream: true}"
    assert plan(f"{data}\n{STEPS}\ntrainer_args: {{validation-split: {held_out}}}", STREAMED).argv


def test_an_objective_that_reads_all_rows_first_refuses_it() -> None:
    refused = refusal(f"mode: dpo\n{DATA}\n{STEPS}", dpo_facts())
    assert "dataset.stream: `mode: dpo` reads all rows before it trains" in refused.message and refused.hint


def test_a_list_of_data_sets_refuses_it() -> None:
    text = SPARSE.replace("{path: data.jsonl}", "[{path: a.jsonl, stream: true}, {path: b.jsonl}]")
    with pytest.raises(BadInput, match=r"job.yaml:4: dataset\[0\].stream: a list of data sets cannot be streamed"):
        parse_spec(text.encode(), source="job.yaml")


def test_only_the_first_rows_are_read_and_no_file_is_hashed_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("dimba.host.data.SAMPLE_ROWS", 5)
    data = write_rows(tmp_path / "data.jsonl", QUESTIONS)
    with data.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    facts = look_at_data(Dataset(path=str(data), stream=True), tmp_path, lambda _: None, "sft")
    assert facts.summary and facts.summary.rows == 5 and not facts.problem and facts.rows_per_epoch is None
    before = provenance(replace(FACTS, data=facts), (), lambda *_: None)["data_hash"]
    assert before.startswith("blocks:")
    data.write_text(data.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert provenance(replace(FACTS, data=facts), (), lambda *_: None)["data_hash"] != before


def test_a_streamed_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    gone = replace(FACTS.data, streamed=True, files=(tmp_path / "gone.jsonl",))
    assert provenance(replace(FACTS, data=gone), (), lambda *_: None)["data_hash"] is None
