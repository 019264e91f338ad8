"""The facts of a list of data sets: those of each, under its key, and all of them combined."""

from pathlib import Path

from dimba.host.data import look_at_data
from dimba.host.facts import DataFacts
from dimba.host.provenance import data_hash, hub_commits
from dimba.spec import WeightedDataset
from tests.conftest import QUESTIONS, write_rows


def look(folder: Path, *sources: WeightedDataset, counts: list[int] | None = None) -> DataFacts:
    counts = [] if counts is None else counts
    return look_at_data(list(sources), folder, counts.append, "sft")


def test_the_facts_of_all_data_sets_are_combined(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", QUESTIONS)
    for n in range(2):
        (tmp_path / "b").mkdir(exist_ok=True)
        write_rows(tmp_path / "b" / f"{n}.jsonl", [{"ask": "Q", "answer": "A"}] * 3)
    counts: list[int] = []
    second = WeightedDataset(path="b", columns={"question": "ask"}, weight=0.5)
    facts = look(tmp_path, WeightedDataset(path="a.jsonl", weight=2), second, counts=counts)
    assert not facts.problem and facts.local and facts.summary
    assert (facts.summary.rows, facts.rows_per_epoch) == (18, 27) and counts == list(range(1, 19))
    assert [each.name for each in facts.files] == ["a.jsonl", "0.jsonl", "1.jsonl"]
    assert facts.places == (tmp_path / "a.jsonl", tmp_path / "b")
    assert [each.summary.rows for each in facts.sources if each.summary] == [12, 6]


def test_a_problem_has_the_key_and_the_file_of_its_data_set(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", QUESTIONS)
    bad = write_rows(tmp_path / "b.jsonl", [*QUESTIONS, {"question": "Q"}])
    first = WeightedDataset(path="a.jsonl")
    facts = look(tmp_path, first, WeightedDataset(path="b.jsonl"))
    assert facts.problem == f"{bad}:13: `answer` is missing, unlike in the first row" and facts.key == "dataset[1]"
    facts = look(tmp_path, first, WeightedDataset(path="a.jsonl", columns={"question": "no"}))
    assert facts.key == "dataset[1].columns.question"
    facts = look(tmp_path, WeightedDataset(path="none.jsonl"), first)
    assert facts.key == "dataset[0]" and "`dataset[0].path`" in facts.hint


def test_a_weight_that_leaves_no_row_of_an_epoch_is_a_problem(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", QUESTIONS)
    facts = look(tmp_path, WeightedDataset(path="a.jsonl"), WeightedDataset(path="a.jsonl", weight=0.001))
    assert facts.problem.endswith("an epoch has none of its 12 rows, with the weight 0.001")
    assert facts.key == "dataset[1]"


def test_the_hash_is_that_of_all_files(tmp_path: Path) -> None:
    sources = WeightedDataset(path="a.jsonl"), WeightedDataset(path="b.jsonl"), WeightedDataset(name="owner/rows")
    write_rows(tmp_path / "a.jsonl", QUESTIONS)
    write_rows(tmp_path / "b.jsonl", QUESTIONS)
    one = data_hash(look(tmp_path, sources[0]), lambda _done, _total: None)
    both = data_hash(look(tmp_path, *sources), lambda _done, _total: None)
    write_rows(tmp_path / "b.jsonl", QUESTIONS[1:])
    assert len({one, both, data_hash(look(tmp_path, *sources), lambda _done, _total: None)}) == 3
    assert data_hash(look(tmp_path, sources[2]), lambda _done, _total: None) is None


def test_a_list_of_the_hub_alone_is_known_by_its_commits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ref = tmp_path / "hub" / f"datasets--org--{name}" / "refs" / "main"
        ref.parent.mkdir(parents=True)
        ref.write_text(f"commit-{name}")
    hub = [{"reference": f"org/{name}", "local": False} for name in ("a", "b")]
    plan = {"writable": [str(tmp_path)], "data": {"reference": "both", "local": False, "sources": hub}}
    commits = {f"datasets/org/{name}": f"commit-{name}" for name in ("a", "b")}
    assert hub_commits(plan) == {"data_hash": "commit:commit-a+commit-b", "commits": commits}
    plan["data"]["sources"] = [*hub, {"reference": "/rows.jsonl", "local": True}]
    assert hub_commits(plan) == {"commits": commits}, "its hash is that of the files"
