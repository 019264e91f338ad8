"""`dataset` is a section or a list of sections, and a mistake in a list has its line and its key."""

import pytest

from dimba.spec import spec_yaml
from tests.spec.test_load import SPARSE, complaint, parse

LIST = SPARSE.replace(
    "dataset: {path: data.jsonl}\n",
    "dataset:\n  - {path: a.jsonl, weight: 2}\n  - name: owner/rows\n    split: test\n    columns: {prompt: ask}\n",
)


def test_a_list_of_data_sets_has_weights_and_keys_of_its_own() -> None:
    first, second = parse(LIST).spec.sources.values()
    assert (first.path, second.name, second.split, second.columns) == (
        "a.jsonl",
        "owner/rows",
        "test",
        {"prompt": "ask"},
    )
    assert [each.weight for each in parse(LIST).spec.dataset] == [2, 1]
    assert list(parse(LIST).spec.sources) == ["dataset[0]", "dataset[1]"]
    assert list(parse(SPARSE).spec.sources) == ["dataset"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("weight: 2", "weight: 0", "job.yaml:5: dataset[0].weight: expected greater than 0, not `0`"),
        ("weight: 2", "weight: .nan", "job.yaml:5: dataset[0].weight: "),
        ("weight: 2", "weight: 1e9", "job.yaml:5: dataset[0].weight: "),
        ("weight: 2", "weight: much", "job.yaml:5: dataset[0].weight: expected a number, not the text `much`"),
        ("weight: 2", "wieght: 2", "job.yaml:5: dataset[0].wieght: unknown key; did you mean `weight`?"),
        ("name: owner/rows", "name: ./rows.jsonl", "job.yaml:6: dataset[1].name: `./rows.jsonl` is a file"),
        ("name: owner/rows", "config: x", "job.yaml:6: dataset[1]: give one of `name`"),
        ("columns: {prompt: ask}", "columns: {prompt: 1}", "job.yaml:8: dataset[1].columns.prompt: "),
        ("split: test", "split: hf_abcdefghijklmnopqrstuv", "job.yaml:7: dataset[1].split: looks like a secret"),
    ],
)
def test_a_mistake_in_a_list_has_its_line_and_its_key(old: str, new: str, expected: str) -> None:
    assert expected in complaint(LIST.replace(old, new))


def test_what_is_neither_a_section_nor_a_list_is_refused() -> None:
    assert "give at least one data set" in complaint(SPARSE.replace("{path: data.jsonl}", "[]"))
    text = complaint(SPARSE.replace("{path: data.jsonl}", "data.jsonl"))
    assert "job.yaml:4: dataset: expected a section of keys or a list of them, not the text `data.jsonl`" in text
    assert "dataset[0]: expected a section of keys" in complaint(SPARSE.replace("{path: data.jsonl}", "[data.jsonl]"))


def test_set_reaches_an_item_of_a_list() -> None:
    spec = parse(LIST, "dataset[1].weight=0.5", "dataset[0].path=b.jsonl").spec
    assert (spec.dataset[1].weight, spec.dataset[0].path) == (0.5, "b.jsonl")
    assert "`dataset` is a list" in complaint(LIST, "dataset.path=b.jsonl")
    assert "--set dataset[0].path=b.jsonl" in complaint(LIST, "dataset.path=b.jsonl")
    assert "the list has 2 items" in complaint(LIST, "dataset[2].path=b.jsonl")
    assert "`dataset` is not a list" in complaint(SPARSE, "dataset[0].path=b.jsonl")
    assert "--set dataset[1].weight: " in complaint(LIST, "dataset[1].weight=0")
    assert parse(SPARSE, "dataset=[{path: a}, {path: b, weight: 3}]").spec.dataset[1].weight == 3


def test_a_list_is_written_and_read_again() -> None:
    values = {"version": 1, "mode": "sft", "base_checkpoint": "b", "method": "full"}
    values["dataset"] = [{"path": "a.jsonl", "weight": 2}, {"name": "o/r"}]
    assert (
        parse(spec_yaml(values, "x")).spec.dataset
        == parse(LIST).spec.dataset[:1] + parse(SPARSE, "dataset=[{name: o/r}]").spec.dataset
    )
