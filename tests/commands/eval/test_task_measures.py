"""The comparison of two models in tasks, from the values of documents."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dimba.commands.eval.result import verdict
from dimba.commands.eval.rows import EvalRow
from dimba.commands.eval.task_files import TaskFiles
from dimba.commands.eval.task_measures import task_measures, task_notes
from dimba.commands.eval.tasks import TaskSet, without_labels
from dimba.common.errors import BadInput
from dimba.common.tasks import NamedTasks, TaskFacts, TaskRequest, TaskValues
from dimba.dataset.samples import Sample


def facts(name: str, **how: Any) -> TaskFacts:
    own = {"metric": "acc", "label": "acc", "higher_is_better": True, "per_document": True, "documents": 20}
    return TaskFacts(name=name, fewshot=0, output_type="multiple_choice", **{**own, **how})


def tasks(*found: TaskFacts, named: tuple[NamedTasks, ...] = ()) -> TaskSet:
    return TaskSet(
        request=TaskRequest(names=tuple(each.name for each in found)),
        files=TaskFiles(names=()),
        version="1",
        facts={each.name: each for each in found},
        named=named or tuple(NamedTasks(name=each.name, tasks=(each.name,)) for each in found),
    )


def values(name: str, numbers: list[float], **figures: float) -> dict[str, TaskValues]:
    return {name: TaskValues(name=name, values={str(at): each for at, each in enumerate(numbers)}, figures=figures)}


def test_documents_are_compared_in_pairs_without_those_that_stand_in_the_training_data():
    known = replace(tasks(facts("a")), left_out=frozenset({("a", 0), ("a", 1)}))
    [measure] = task_measures(known, values("a", [0.0] * 2 + [1.0] * 18), values("a", [1.0] * 2 + [0.0] * 18), 1)
    assert (measure.name, measure.model, measure.against) == ("a acc", 1.0, 0.0)
    assert measure.comparison.better is True and measure.comparison.rows == 18
    assert measure.wins and (measure.wins.wins, measure.wins.losses) == (18, 0)


def test_labels_that_all_questions_of_a_task_have_are_not_compared_with_training_rows():
    def row(question: str) -> EvalRow:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": "4"})
        return EvalRow(number=0, where="", sample=Sample(messages=turns, trained=(False, True)))

    def words(*questions: str) -> list[str]:
        found = without_labels([row(each) for each in questions], [("a", at) for at in range(len(questions))])
        return [" ".join(each.words) for each in found]

    asked = words("Question: What is 2 + 2?\nAnswer:", "Question: Why: so?\nAnswer:")
    assert asked == ["what is 2 + 2 4", "why so 4"]
    assert words("Note: a b", "Why c d") == ["note a b 4", "why c d 4"], "no label of all"


def test_less_is_better_where_the_task_says_so():
    known = tasks(facts("a", label="log perplexity", higher_is_better=False))
    [measure] = task_measures(known, values("a", [1.0] * 20), values("a", [2.0] * 20), 1)
    assert measure.comparison.better is True and measure.difference == -1.0


def test_every_further_task_makes_the_level_stricter():
    ours, theirs = [1.0] * 8 + [0.0] * 12, [0.0] * 7 + [0.0] * 13
    alone = task_measures(tasks(facts("a")), values("a", ours), values("a", theirs), 1)[0]
    names = [f"t{n}" for n in range(8)]
    both = [{each: values(each, side)[each] for each in names} for side in (ours, theirs)]
    among = task_measures(tasks(*map(facts, names)), *both, 1)[0]
    low, high = alone.interval
    assert low > among.interval[0] and high < among.interval[1]


def test_a_group_is_measured_by_its_documents_or_by_its_tasks_as_it_asks_itself():
    found = [facts("a"), facts("b")]
    ours = {**values("a", [1.0] * 30), **values("b", [0.0] * 10)}
    theirs = {**values("a", [0.0] * 30), **values("b", [0.0] * 10)}
    for by_size, expected in ((True, 0.75), (False, 0.5)):
        named = (NamedTasks(name="both", tasks=("a", "b"), by_size=by_size),)
        measures = task_measures(tasks(*found, named=named), ours, theirs, 1)
        assert [each.name for each in measures] == ["a acc", "b acc", "both acc"]
        assert measures[-1].model == pytest.approx(expected)


def test_the_tasks_of_a_group_with_different_metrics_have_no_figure_together_and_a_note_says_so():
    named = (NamedTasks(name="both", tasks=("a", "b")),)
    known = tasks(facts("a"), facts("b", metric="f", label="f"), named=named)
    both = {**values("a", [1.0] * 20), **values("b", [1.0] * 20)}
    assert [each.name for each in task_measures(known, both, both, 1)] == ["a acc", "b f"]
    assert list(task_notes(known)) == ["the tasks of both have different metrics, and no figure together"]


def test_a_metric_without_values_of_documents_is_reported_without_an_interval_and_claims_nothing():
    known = tasks(facts("a", metric="bleu", label="bleu", per_document=False))
    ours, theirs = values("a", [], **{"bleu,none": 30.0}), values("a", [], **{"bleu,none": 10.0})
    [measure] = task_measures(known, ours, theirs, 1)
    found = measure.as_json()
    assert json.loads(json.dumps(found, allow_nan=False))["interval"] is None
    assert found["better"] is None and found["difference"] == 20.0
    assert verdict(measure, "its base").endswith("no value per row, and so no interval")
    with pytest.raises(BadInput, match="has no figure of `bleu`"):
        task_measures(known, ours, values("a", []), 1)
