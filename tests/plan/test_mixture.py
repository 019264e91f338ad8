"""A list of data sets in the plan: one flag carries it, its files are mounted, and its weights count in the steps."""

import json
from dataclasses import replace
from pathlib import Path

from dimba.dataset.summary import DataSummary
from dimba.host.facts import DataFacts, HostFacts
from dimba.plan.mounts import given_mounts
from tests.plan.test_plan import FACTS, FLAGS, plan, refusal

LIST = (
    "dataset: [{path: a.jsonl, weight: 2.5, columns: {prompt: ask}}, {name: owner/rows, config: c, split: test}]\n"
    "training: {batch_size: 2, grad_accumulation_steps: 4, epochs: 2}"
)


def source(reference: str, rows: int | None, weight: float) -> DataFacts:
    summary = DataSummary(format="messages", rows=rows, columns=("messages",), unusable=1) if rows else None
    return DataFacts(reference=reference, local=rows is not None, summary=summary, weight=weight)


def facts(*sources: DataFacts, flag: bool = True) -> HostFacts:
    data = DataFacts(reference="both", local=all(each.local for each in sources), sources=sources)
    local = tuple(Path(each.reference) for each in sources if each.local)
    flags = FLAGS | {"--mixture"} if flag else FLAGS
    return replace(FACTS, data=replace(data, places=local), trainer=replace(FACTS.trainer, flags=flags))


BOTH = source("/work/a.jsonl", 11, 2.5), source("owner/rows", None, 1)


def test_a_list_is_one_flag_with_a_json_object_for_each_data_set() -> None:
    argv = plan(LIST, facts(*BOTH)).argv
    at = argv.index("--mixture")
    assert [json.loads(text) for text in argv[at + 1 : at + 3]] == [
        {"path": "/work/a.jsonl", "columns": {"prompt": "ask"}, "weight": 2.5},
        {"name": "owner/rows", "config": "c", "split": "test"},
    ]
    assert argv[at + 3].startswith("--") and not {"--dataset", "--columns", "--dataset-split"} & set(argv)


def test_one_data_set_keeps_its_flags() -> None:
    one = plan("dataset: {name: owner/rows, split: test, columns: {prompt: ask}}", FACTS).argv
    at = one.index("--dataset")
    assert one[at : at + 6] == ("--dataset", "/work/data.jsonl", "--dataset-split", "test", "--columns", "prompt=ask")
    assert "--mixture" not in plan("", facts(*BOTH)).argv


def test_a_trainer_without_the_flag_is_refused() -> None:
    error = refusal(LIST, facts(*BOTH, flag=False))
    assert error.key == "dataset" and "--mixture" in error.message


def test_flags_that_a_list_replaces_cannot_be_given_beside_it() -> None:
    for name in ("dataset", "columns", "dataset-split", "mixture"):
        error = refusal(f"{LIST}\ntrainer_args: {{{name}: x}}", facts(*BOTH))
        assert error.key == f"trainer_args.{name}" and error.hint == "set `dataset` instead"


def test_weights_count_in_the_steps_once_every_row_is_read() -> None:
    local = facts(source("/work/a.jsonl", 11, 2.5), source("/work/b.jsonl", 8, 1))
    two = LIST.replace("name: owner/rows, config: c, split: test", "path: b.jsonl")
    assert (plan(two, local).steps.per_epoch, plan(two, local).steps.total) == (4, 8)  # 25 + 7 rows, in eights
    assert plan(LIST, facts(*BOTH)).steps.per_epoch is None


def test_the_files_of_a_list_are_mounted_beside_a_data_set_of_the_hub() -> None:
    targets = [each.target for each in given_mounts(facts(*BOTH))]
    assert "/work/a.jsonl" in targets and not any("owner" in each for each in targets)
    assert plan(LIST, facts(*BOTH)).network == "bridge"


def test_the_plan_lists_the_data_sets_one_by_one() -> None:
    value = plan(LIST, facts(*BOTH)).as_json()["data"]
    assert [(each["reference"], each["weight"]) for each in value["sources"]] == [
        ("/work/a.jsonl", 2.5),
        ("owner/rows", 1),
    ]
    assert "first" not in value["sources"][0]["summary"] and json.dumps(value)


def test_every_data_set_with_a_problem_is_reported() -> None:
    bad = [replace(each, problem="is bad", key=f"dataset[{n}]") for n, each in enumerate(BOTH)]
    data = facts(*bad)
    text = str(refusal(LIST, replace(data, data=replace(data.data, problem="is bad", key="dataset[0]"))))
    assert text.count("is bad") == 2 and "dataset[0]: is bad" in text and "dataset[1]: is bad" in text
