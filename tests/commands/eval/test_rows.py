"""The rows of an evaluation, the table of their losses, and the verdict in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.commands.eval.guard import guard_note, guard_rows
from dimba.commands.eval.losses import LossTable
from dimba.commands.eval.request import EvalRequest
from dimba.commands.eval.result import Evaluation, Measure, ModelResult, ranked, verdict
from dimba.commands.eval.rows import require_enough, rows_of_file
from dimba.commands.eval.statistics import compare
from dimba.commands.talk.rows import named_columns
from dimba.common.errors import BadInput
from dimba.common.inference import RowLoss
from dimba.objectives.rewards import parse_rewards
from tests.conftest import write_rows

QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": str(n + n)} for n in range(14)]
COLUMNS = {"prompt": "question", "response": "answer"}


def measure(differences: list[float]) -> Measure:
    return Measure(name="loss", model=1.0, against=1.2, comparison=compare(differences), lower_is_better=True)


def test_rows_of_a_file_keep_their_numbers_and_the_reasons_of_unusable_ones(tmp_path: Path):
    file = write_rows(tmp_path / "rows.jsonl", [QUESTIONS[0], {"question": "Why?", "answer": None}, QUESTIONS[2]])
    rows = rows_of_file(file, COLUMNS)
    assert [each.number for each in rows] == [0, 1, 2]
    assert rows[1].sample is None and "answer" in rows[1].problem
    assert rows[2].sample and rows[2].sample.messages[0]["content"] == "What is 2 + 2?"
    assert len(rows_of_file(file, COLUMNS, 2)) == 2


def test_too_few_rows_are_refused_with_how_many_would_do(tmp_path: Path):
    rows = rows_of_file(write_rows(tmp_path / "rows.jsonl", QUESTIONS[:3]), COLUMNS)
    with pytest.raises(BadInput, match=r"3 usable rows in rows\.jsonl cannot show") as caught:
        require_enough(rows, "rows.jsonl")
    assert "10 rows or more" in caught.value.hint
    require_enough(rows_of_file(write_rows(tmp_path / "more.jsonl", QUESTIONS), COLUMNS), "more.jsonl")


def test_prompts_are_measured_by_the_rewards_of_their_run_unless_another_measure_is_asked_for():
    request = EvalRequest(models=("run",))
    assert [each.name for each in request.with_rewards_of("run", ("numeric", "length:40")).rewards] == [
        "numeric",
        "length",
    ]
    own = replace(request, rewards=parse_rewards(["contains"]))
    assert own.with_rewards_of("run", ("numeric",)) is own
    for foreign in ("my.py:score", "preference"):
        with pytest.raises(BadInput, match=f"answers its reward `{foreign}` scores") as caught:
            request.with_rewards_of("run", ("numeric", foreign))
        assert "--reward NAME" in caught.value.hint


def test_a_column_that_is_not_a_pair_is_refused():
    with pytest.raises(BadInput, match="question"):
        named_columns(["question"])


def test_losses_are_of_the_rows_that_every_model_scored_per_token_of_the_first():
    first = {0: RowLoss(number=0, nats=4.0, tokens=2), 1: RowLoss(number=1, nats=9.0, tokens=3)}
    other = {0: RowLoss(number=0, nats=6.0, tokens=3), 1: RowLoss(number=1, error="too long")}
    table = LossTable.of([first, other])
    assert table.numbers == (0,) and table.problems == {1: "too long"}
    assert table.rows == ((2.0,), (3.0,)), "another tokenizer has other tokens for the same text"


def test_the_verdict_names_a_better_a_worse_and_an_undecided_model():
    better = [0.2 + n / 100 for n in range(20)]
    assert verdict(measure(better), "its base").startswith("better than its base: loss 1 against 1.2 on 20 rows")
    worse = verdict(measure([-each for each in better]), "its base")
    assert worse.startswith("not better than its base: it is worse")
    unclear = verdict(measure([0.3 if n % 2 else -0.2 for n in range(20)]), "its base")
    assert unclear.startswith("these 20 rows cannot tell whether it is better than its base; about ")
    assert verdict(measure([0.0] * 20), "its base") == "not better than its base: the loss of all 20 rows is the same"


def test_a_difference_of_losses_is_negative_where_the_model_is_better():
    found = measure([0.2 + n / 100 for n in range(20)])
    assert found.difference < 0 and found.interval[0] < found.difference < found.interval[1] < 0


def test_models_are_ranked_the_best_first_and_the_result_is_of_the_best():
    models = [
        ModelResult(name=name, folder="/f", measures=(measure([shift + n / 100 for n in range(20)]),))
        for name, shift in (("small", 0.1), ("large", 0.4), ("worse", -0.6))
    ]
    assert [each.name for each in ranked(models)] == ["large", "small", "worse"]
    found = Evaluation(
        models=ranked(models), against="the base", against_folder="/b", source="x", held_out=False, rows=20
    ).as_json()
    assert found["better"] is True and found["model"]["name"] == "large"
    assert [each["better"] for each in found["ranking"]] == [True, True, False]


def test_general_rows_are_all_usable_and_none_stands_twice():
    rows = guard_rows()
    assert len(rows) >= 40 and all(each.sample for each in rows)
    assert len({each.words for each in rows}) == len(rows)


def test_general_rows_tell_what_was_lost():
    rose = measure([-0.2 - n / 100 for n in range(20)])
    assert guard_note("tuned", rose, "loss").startswith("tuned has lost on general rows: their loss rose by 0.295")
    fell = measure([0.2 + n / 100 for n in range(20)])
    assert "has lost nothing on general rows: their bound fell" in guard_note("tuned", fell, "bound")
    assert "do not tell" in guard_note("tuned", measure([0.3 if n % 2 else -0.2 for n in range(20)]), "loss")
