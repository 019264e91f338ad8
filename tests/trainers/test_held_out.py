"""The held-out rows of a run are found again, with those that also stand in its training data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimba.dataset.overlap import COPY
from dimba.dataset.prompt_examples import PromptExample
from dimba.dataset.samples import Sample
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.trainers.data.held_out import main
from dimba.trainers.data.loading import load_data
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.progress import ignored
from tests.conftest import write_rows


def row(n: int) -> dict[str, str]:
    return {"prompt": f"What is {n} + {n}?", "response": f"It is {n + n}."}


def printed(capsys: pytest.CaptureFixture[str], mode: str, flags: list[str]) -> tuple[int, dict[str, list[Any]]]:
    capsys.readouterr()
    status, found = main([mode, *flags]), dict[str, list[Any]]()
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("{"):
            for kind, value in json.loads(line).items():
                found.setdefault(kind, []).append(value)
    return status, found


def flags_of(base: Path, *data: str, split: str = "10") -> list[str]:
    return ["--base-checkpoint", str(base), *data, "--validation-split", split, "--output-dir", "unused", "--seed", "3"]


def test_they_are_the_rows_that_training_evaluates(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [row(n) for n in range(40)]
    flags = flags_of(tiny_checkpoint, "--dataset", str(write_rows(tmp_path / "data.jsonl", rows)))
    status, found = printed(capsys, "sft", flags)
    pieces = load_data(SFT.parse(flags), ignored).validation
    expected = [pieces.store.where(int(number)) for number in np.unique(pieces.index[:, 0])]
    assert status == 0 and [each["where"] for each in found["row"]] == expected
    assert found["done"] == [30] and "overlap" not in found
    number = int(expected[0].rpartition(":")[2]) - 1
    assert Sample.from_json(found["row"][0]["sample"]).messages[0]["content"] == rows[number]["prompt"]


def test_a_row_that_is_trained_elsewhere_too_is_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = write_rows(tmp_path / "one.jsonl", [row(n) for n in range(30)])
    two = write_rows(tmp_path / "two.jsonl", [row(n) for n in range(25, 45)])
    sources = [json.dumps({"path": str(each)}) for each in (one, two)]
    status, found = printed(capsys, "sft", flags_of(tiny_checkpoint, "--mixture", *sources, split="20"))
    assert status == 0 and len(found["row"]) == 20 and found["done"] == [30]
    held_out = [each["sample"]["messages"][0]["content"] for each in found["row"]]
    twice = {f"What is {n} + {n}?" for n in range(25, 30)}
    expected = {number for number, text in enumerate(held_out) if text in twice and held_out.count(text) == 1}
    assert expected, "the seed has to hold out one of them"
    assert {each["number"] for each in found["overlap"]} == expected
    assert {each["kind"] for each in found["overlap"]} == {COPY}


def test_prompts_come_with_their_references_and_the_rewards_that_score_the_answers(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"question": f"What is {n} + {n}?", "answer": str(n + n)} for n in range(30)]
    flags = flags_of(tiny_checkpoint, "--dataset", str(write_rows(tmp_path / "data.jsonl", rows)))
    status, found = printed(capsys, "grpo", [*flags, "--max-completion-length", "16"])
    assert status == 0 and found["rewards"] == [["numeric"]] and found["done"] == [20]
    expected = [(each.where, each.example) for each in load_prompts(GRPO.parse(flags), ignored).held_out]
    assert [each["where"] for each in found["row"]] == [str(where) for where, _ in expected]
    example = PromptExample.from_json(found["row"][0]["example"])
    assert example == replace(expected[0][1], row={}, unread=()) and example.reference in {
        str(n + n) for n in range(30)
    }
